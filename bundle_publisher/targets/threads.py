"""Threads for calls that block and may hang: so many at once, and none that keeps its caller, or the process, waiting.

A pool's threads are waited for when the process ends, and one that hangs looks free to those who wait in line. Here a
place is taken until its thread has really come back, and threads die with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


class Threads:
    """At most `count` calls at once."""

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._places = asyncio.Semaphore(count)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """What `work` returns or raises. When the caller is cancelled the thread goes on alone and keeps its place."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Result] = loop.create_future()

        def settle(result: _Result | None, error: BaseException | None) -> None:
            self._places.release()
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def call() -> None:
            result: _Result | None = None
            failure: BaseException | None = None
            try:
                result = work()
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, failure)

        try:
            threading.Thread(target=call, name=self._name, daemon=True).start()
        except RuntimeError:
            self._places.release()
            raise
        return await answer
