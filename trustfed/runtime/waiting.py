"""Wait for news or for a time, and for jobs that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from trustfed.runtime.clock import Clock

_AGAIN_SECONDS = 2.5
"""After a cancellation; longer than any job takes to write down what it has left."""


async def news_or_time(news: asyncio.Event, clock: Clock, seconds: float | None) -> None:
    """Return once `news` is set (it is cleared) or `seconds` have passed; None waits for news alone."""
    waiting: set[asyncio.Future[Any]] = {asyncio.ensure_future(news.wait())}
    if seconds is not None:
        waiting.add(asyncio.ensure_future(clock.sleep(seconds)))
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    news.clear()


async def together(jobs: Iterable[Coroutine[Any, Any, Any]], stop: asyncio.Event) -> None:
    """Run the jobs until `stop` is set or the first of them ends; the others are cancelled, and waited for.

    A job that fails ends all with its error: better than to limp on without it. Of several at once the first in the list.
    """
    tasks = [asyncio.create_task(job) for job in jobs]
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await _ended([*tasks, stopped])


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel, wait, and cancel again what goes on all the same.

    A stream that breaks in the moment of the cancellation puts its own error in the place of it (grpclib.utils.Wrapper),
    and a job that tries again after errors would live for ever. Who waits here may be cancelled again for the same reason,
    by a `together` around this one: that is handed down, and nobody is left behind.
    """
    again: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=_AGAIN_SECONDS)
        except asyncio.CancelledError as error:
            again = error
    # Their errors are looked at, so that asyncio does not report them as lost.
    await asyncio.gather(*tasks, return_exceptions=True)
    if again is not None:
        raise again
