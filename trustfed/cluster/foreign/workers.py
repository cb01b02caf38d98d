"""A few threads for work that blocks and has an end of its own: apart from the process's, and never waited for at its end.

A pool of the standard library is joined when the interpreter ends, so that a slow foreign endpoint would hold up a stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Workers:
    """At most `count` pieces of work at once; more wait for their turn."""

    def __init__(self, count: int, name: str) -> None:
        self._free, self._name = asyncio.Semaphore(count), name

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises. Cancelled, it leaves the thread behind, which ends by itself."""
        async with self._free:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[Result] = loop.create_future()

            def tell(result: Result | None, error: BaseException | None) -> None:
                if done.done():
                    return
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(result)  # type: ignore[arg-type]

            def body() -> None:
                result, failure = None, None
                try:
                    result = work()
                except BaseException as error:
                    failure = error
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                    loop.call_soon_threadsafe(tell, result, failure)

            threading.Thread(target=body, name=self._name, daemon=True).start()
            return await done
