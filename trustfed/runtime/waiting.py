"""Wait for news or for a time, whichever comes first."""

from __future__ import annotations

import asyncio
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
