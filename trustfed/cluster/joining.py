"""Streams begin a few at a time: when all agents come back at once, whoever asks for an SVID is not behind them all."""

from __future__ import annotations

import asyncio

AT_ONCE = 4
PATIENCE_SECONDS = 1.0
"""An agent that reads slowly gives its turn up after so long, and goes on beside it."""


class Turn:
    """One stream's turn; `done` may be said more than once."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns, self._held = turns, True
        self._late = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self.done)

    def done(self) -> None:
        """It has begun, or ended: the next one, please."""
        if self._held:
            self._held = False
            self._late.cancel()
            self._turns.release()


class Joining:
    """Who waits is served in the order in which they came."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def turn(self) -> Turn:
        """Wait for a turn."""
        await self._turns.acquire()
        return Turn(self._turns)
