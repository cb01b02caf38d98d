"""Waits for the one request of a call, and not for long: whoever opens calls and sends nothing must not take all there are.

gRPC counts a call from its headers on, and waits for the message that follows as long as the connection lives.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Callable
from typing import TypeVar

from trustfed.errors import Invalid, Unavailable
from trustfed.runtime.pace import Paces

SECONDS = 3.0
"""An honest request comes with its headers, or a round trip later."""
AT_ONCE, AT_ONCE_SLOW = 100, 4
"""Calls of one address whose request is awaited; the second for SLOW_SECONDS after it let one lapse."""
SLOW_SECONDS = 60.0
Request = TypeVar("Request")


class Unread:
    """Whose requests are awaited, by address. `now` gives seconds of a monotonic clock."""

    def __init__(self, now: Callable[[], float], seconds: float = SECONDS) -> None:
        self._now, self._seconds = now, seconds
        self._waiting: Counter[str] = Counter()
        self._slow = Paces(1, SLOW_SECONDS)

    async def request(self, messages: AsyncIterable[Request], address: str) -> Request:
        """The first message. Raises Unavailable when too many of this address are awaited, Invalid when none comes."""
        most = AT_ONCE_SLOW if self._slow.wait(address, self._now()) > 0 else AT_ONCE
        if self._waiting[address] >= most:
            raise Unavailable("too many calls of this address have sent no request yet", hint="ask again")
        self._waiting[address] += 1
        try:
            async with asyncio.timeout(self._seconds):
                return await anext(aiter(messages))
        except TimeoutError:
            self._slow.take(address, self._now())
            raise Invalid(f"no request came within {self._seconds:.0f} s") from None
        except StopAsyncIteration:
            raise Invalid("the call ended without a request") from None
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]
