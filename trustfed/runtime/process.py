"""How a process of ours starts and ends: one clean shutdown with a deadline, a meaningful exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from trustfed.errors import TrustfedError
from trustfed.runtime import errors, logs

Main = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
_AFTER_CANCEL = 2.0
_COLLECT = (10_000, 20, 20)
_log = logs.get("process")


def run(main: Main, *, deadline: float = 10.0) -> int:
    """Run `main(stop)` and return the exit code (trustfed.runtime.errors; 0 when it returns).

    The loop is uvloop's if it is there. SIGTERM or SIGINT sets `stop`: `main` should close its doors and return. After
    `deadline` seconds it is cancelled, and 2 seconds later left behind (exit code 1). A second signal ends the process
    at once with 130. An error is logged as one line.
    """
    harden()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_supervise(main, deadline))
        # Closing the loop waits for its worker threads without end; one that hangs must not hold the process.
        impatience = threading.Timer(deadline, os._exit, (code or 1,))
        impatience.daemon = True
        impatience.start()
    impatience.cancel()
    return code


def harden() -> None:
    """No core files (they would hold keys) and umask 077. `run` calls it; commands that touch keys do so themselves."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    os.umask(0o077)


def settle() -> None:
    """The doors are open: what was made to open them stays. The collector of cycles looks at it no more, and at what is
    made from now on in batches of thousands: at Python's own 700 each batch of a ledger's facts was looked at several times.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


async def _supervise(main: Main, deadline: float) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stop)
    running = asyncio.create_task(main(stop))
    asked = asyncio.create_task(stop.wait())
    await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not running.done():
        await asyncio.wait({running}, timeout=deadline)
    if not running.done():
        _log.error("shutdown took too long, ending without it", seconds=deadline)
        running.cancel()
        await asyncio.wait({running}, timeout=_AFTER_CANCEL)
        if not running.done():
            os._exit(1)
        return 1
    return _exit_code(running)


def _exit_code(ended: asyncio.Task[None]) -> int:
    if ended.cancelled():
        _log.error("the process was cancelled from within")
        return 1
    error = ended.exception()
    if error is None:
        return 0
    answer = errors.answer(error)
    if isinstance(error, TrustfedError):
        _log.error(answer.message, hint=answer.hint)
    return answer.exit_code


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(130)
    _log.info("stopping", signal=number.name)
    stop.set()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  only here: tests and small commands do without it
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
