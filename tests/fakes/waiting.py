"""Waiting in tests for what others bring about: as short as it takes, and long enough for a machine that is loaded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

SECONDS = 30.0


async def until(condition: Callable[[], object], what: object = "it never came") -> None:
    """Return once `condition` holds; AssertionError with `what` when it does not within SECONDS."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.002)
            return
    raise AssertionError(what() if callable(what) else what)
