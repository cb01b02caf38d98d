"""What the kernel says of a process: user, groups, and the executable it runs.

    unix:uid:1000  unix:gid:1000  unix:supplementary_gid:27
    unix:user:web  unix:group:web  unix:supplementary_group:sudo      by the node's user database
    unix:path:/usr/bin/web  unix:sha256:HEX                           of the running executable

Users and groups are those of connect(2). The path is the one the process sees: whoever may make mount namespaces can
forge it, so trust it only together with a user; the hash is that of the very file that runs. Both say that somebody
started this program, not that nobody steers it: the same user can (ptrace, LD_PRELOAD). Names are looked up off
the event loop: a user database may be a network away.
"""

from __future__ import annotations

import asyncio
import grp
import hashlib
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterable
from typing import Any

from agent.peer import Caller
from trustfed.errors import Denied
from trustfed.runtime import logs

log = logs.get("agent.attestors.unix")

_NAME_SECONDS = 60.0
_MAX_CACHED = 4096
_CHUNK = 1 << 20
_SETTLED_NS = 2_000_000_000
"""Age from which a change of a file is seen in its ctime: file systems write times as coarsely as 2 seconds."""
_NAMED = frozenset({"unix:user", "unix:group", "unix:supplementary_group"})

_Names = dict[tuple[str, int], tuple[float, str]]


class UnixAttestor:
    """The attestor of Unix processes. Executables above `hashed_bytes` get no hash.

    `monotonic` gives seconds, `wall` nanoseconds since 1970, as files bear them.
    """

    def __init__(
        self, monotonic: Callable[[], float], hashed_bytes: int, wall: Callable[[], int] = time.time_ns
    ) -> None:
        self._monotonic, self._hashed_bytes, self._wall = monotonic, hashed_bytes, wall
        self._names: _Names = {}
        self._hashes: dict[tuple[int, ...], str] = {}
        self._hashing = asyncio.Semaphore(1)

    def ready(self, caller: Caller, kinds: frozenset[str]) -> frozenset[str] | None:
        """Selectors that need no waiting; names and hashes only once looked up. Raises Denied for a dead process."""
        found: set[str] = set()
        if "unix:uid" in kinds:
            found.add(f"unix:uid:{caller.uid}")
        if "unix:gid" in kinds:
            found.add(f"unix:gid:{caller.gid}")
        if "unix:supplementary_gid" in kinds:
            found.update(f"unix:supplementary_gid:{gid}" for gid in caller.groups)
        if kinds & _NAMED:
            for kind, table, id_ in _wanted(caller, kinds):
                known = self._names.get((table, id_))
                if known is None or known[0] <= self._monotonic():
                    return None
                if known[1]:
                    found.add(f"{kind}:{known[1]}")
        if "unix:path" in kinds:
            found.update(_path(caller))
        if "unix:sha256" in kinds:
            hashed = caller.facts.get("unix:sha256")
            if hashed is None:
                return None
            found |= hashed
        if not caller.alive():  # what was read by pid is only now known to be this process's
            raise Denied("the calling process has ended")
        return frozenset(found)

    async def look_up(self, caller: Caller, kinds: frozenset[str]) -> None:
        """Names from the user database, the hash of the executable: in a thread."""
        if kinds & _NAMED:
            for _, table, id_ in _wanted(caller, kinds):
                known = self._names.get((table, id_))
                if known is None or known[0] <= self._monotonic():
                    name = await asyncio.to_thread(_name, table, id_)
                    if len(self._names) >= _MAX_CACHED:
                        self._names.clear()
                    self._names[table, id_] = (self._monotonic() + _NAME_SECONDS, name)
        if "unix:sha256" in kinds and "unix:sha256" not in caller.facts:
            async with self._hashing:  # one after the other: a node must not spend its memory on reading executables
                digest = await asyncio.to_thread(self._hash, caller)
            caller.facts["unix:sha256"] = frozenset({f"unix:sha256:{digest}"} if digest else ())

    def _hash(self, caller: Caller) -> str:
        """SHA-256 of the running executable, "" if it cannot be read or is too large; cached by what the file is."""
        try:
            # The link leads to the file itself, also when another has its name by now.
            file = os.open(f"/proc/{caller.pid}/exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return ""
        try:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > self._hashed_bytes:
                log.warning("executable not hashed", pid=caller.pid, bytes=facts.st_size)
                return ""
            place = _place(facts)
            known = self._hashes.get(place)
            if known is None:
                digest, left = hashlib.sha256(), self._hashed_bytes
                while left > 0 and (chunk := os.read(file, _CHUNK)):
                    digest.update(chunk)
                    left -= len(chunk)
                known = digest.hexdigest()
                if _place(os.fstat(file)) == place and _only_root_changes(facts, self._wall()):
                    if len(self._hashes) >= _MAX_CACHED:
                        self._hashes.clear()
                    self._hashes[place] = known
            return known
        except OSError:
            return ""
        finally:
            os.close(file)


def _place(facts: os.stat_result) -> tuple[int, ...]:
    """What stands for a file's content. The ctime is in it because its owner can set every other time."""
    return facts.st_dev, facts.st_ino, facts.st_ctime_ns, facts.st_mtime_ns, facts.st_size


def _only_root_changes(facts: os.stat_result, now_ns: int) -> bool:
    """Whether the hash of a file may be kept: its next change shows in `_place`, or takes root.

    No time at all tells of a change through a mapping on tmpfs, so what a user can write is read again each time.
    """
    settled = facts.st_ctime_ns + _SETTLED_NS <= now_ns
    return settled and facts.st_uid == 0 and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _wanted(caller: Caller, kinds: frozenset[str]) -> Iterable[tuple[str, str, int]]:
    """(kind, table, id) of each name that some entry asks for."""
    if "unix:user" in kinds:
        yield "unix:user", "user", caller.uid
    if "unix:group" in kinds:
        yield "unix:group", "group", caller.gid
    if "unix:supplementary_group" in kinds:
        for gid in caller.groups:
            yield "unix:supplementary_group", "group", gid


def _name(table: str, id_: int) -> str:
    ask: Callable[[int], Any] = pwd.getpwuid if table == "user" else grp.getgrgid
    try:
        return str(ask(id_)[0])
    except (KeyError, OSError):
        return ""


def _path(caller: Caller) -> list[str]:
    try:
        return [f"unix:path:{os.readlink(f'/proc/{caller.pid}/exe')}"]  # noqa: PTH115 - one call per connection
    except OSError:
        return []
