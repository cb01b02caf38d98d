"""An event loop in a thread of its own: proxies and observers live there while the story is told by plain calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")
_END_SECONDS = 10.0


class Background:
    """Use it in a `with` block: everything that runs in it is cancelled at the end."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.do(self._cancel_all(), _END_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_END_SECONDS)
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, Result], seconds: float = 30.0) -> Result:
        """What `work` gives, awaited in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let `work` run until the block ends, or until it is done."""

        async def begin() -> asyncio.Task[Any]:
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return task

        return self.do(begin())

    def end(self, task: asyncio.Task[Any]) -> None:
        """Cancel what `start` gave, and raise the error with which it had ended before, if it had."""

        async def ended() -> None:
            # More than once: what a task awaits may swallow a cancellation that comes together with its answer.
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

        self.do(ended())

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
