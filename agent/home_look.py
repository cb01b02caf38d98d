"""A look at the cluster's own door for the home bundle, when its server no longer fits the one that is held."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agent import enrolment
from agent.identity import Node, NodeIdentity
from trustfed.errors import TrustfedError
from trustfed.runtime import logs

log = logs.get("agent.sync")

HOME_SECONDS = 10.0


class HomeLook:
    """Brings a node the newest home bundle that a door of its cluster has, one look at a time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._looking: asyncio.Task[NodeIdentity] | None = None

    async def refresh(self) -> None:
        """The server did not fit the home bundle held: this node may have been away while its authorities changed.

        One look at the doors at a time, in a thread; where it takes long, it ends beside the next session.
        """
        looking = self._looking
        if looking is None:
            looking = asyncio.create_task(asyncio.to_thread(enrolment.refresh, self._node.identity))
            self._looking = looking
        try:
            async with asyncio.timeout(HOME_SECONDS):
                fresh = await asyncio.shield(looking)
            if fresh.home.level > self._node.identity.home.level:
                await self._node.adopt(lambda present: replace(present, home=fresh.home))
                log.info("home bundle refreshed from the cluster's door", sequence=fresh.home.level.sequence)
        except TimeoutError:
            log.warning("home bundle not refreshed", error=f"no door answered within {HOME_SECONDS:.0f} s")
        except TrustfedError as error:
            log.warning("home bundle not refreshed", error=error.message, hint=error.hint)
        finally:
            if looking.done():
                self._looking = None
