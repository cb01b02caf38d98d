"""Wait for news or for a time, and for jobs that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from trustfed.runtime.clock import Clock


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
        for task in [*tasks, stopped]:
            task.cancel()
        await asyncio.gather(*tasks, stopped, return_exceptions=True)
