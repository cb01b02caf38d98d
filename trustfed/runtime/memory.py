"""Gives memory back that only the start, or a burst, needed: free heap, and machine code that is not being run.

Loading the libraries touches far more of their code than serving does (about 14 MB against 5 MB). Those pages are clean
copies of files: dropped (madvise(2), MADV_DONTNEED), they come back by themselves, in microseconds, if they are run again.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Iterator
from pathlib import Path

from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces
from trustfed.runtime.waiting import news_or_time

_MADV_DONTNEED = 4
_M_ARENA_MAX = -8
_FIRST_SECONDS = 3.0
_SECONDS = 60.0
_SOON_AT_ONCE = 4


async def keep_small(clock: Clock, used: asyncio.Event | None = None, soon: float = _FIRST_SECONDS) -> None:
    """Give back once the start is over, then now and then, and after each time `used` is set (it is cleared): after `soon`
    seconds, but in the long run not more often than every 3 s, since looking for what can be given back costs some ms."""
    used, wait, paces = used or asyncio.Event(), _FIRST_SECONDS, Paces(_SOON_AT_ONCE, _FIRST_SECONDS)
    while True:
        await clock.sleep(wait)
        await asyncio.to_thread(give_back)
        await news_or_time(used, clock, _SECONDS - _FIRST_SECONDS)
        wait = soon if paces.take("", clock.monotonic()) else _FIRST_SECONDS


def one_arena() -> None:
    """Let all threads share one heap (mallopt(3), M_ARENA_MAX): for a process whose few threads work in turn."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Free what is free; where the C library cannot, nothing happens."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))
    if not hasattr(libc, "madvise"):
        return
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in _code(Path("/proc/self/smaps").read_text("ascii", "replace")):
        libc.madvise(start, end - start, _MADV_DONTNEED)


def _code(smaps: str) -> Iterator[tuple[int, int]]:
    """The mappings of executable files that nothing was written to (proc(5)): a written page would be lost."""
    place: tuple[int, int] | None = None
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            file = len(words) == 6 and words[5].startswith("/")
            start, _, end = words[0].partition("-")
            place = (int(start, 16), int(end, 16)) if words[1] == "r-xp" and file else None
        elif words[0] == "Private_Dirty:" and place is not None and words[1] == "0":
            yield place
