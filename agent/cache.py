"""The port of what lets an agent restart with everything unreachable, and the driver that keeps nothing."""

from __future__ import annotations

from typing import Protocol

from agent.store import Store


class Cache(Protocol):
    """Keeps what an agent holds (entries, SVIDs with their keys, bundles) across its restarts, sealed to this node.

    Whoever reads the kept form learns and changes nothing of use; what was altered, or is older than this node has
    seen, is not loaded.
    """

    def load(self, store: Store) -> None:
        """Put what was kept into the empty store, before the first door opens; nothing if there is none that holds."""
        ...

    def changed(self, store: Store) -> None:
        """The store holds something else now: keep it soon. Called at most once per turn of the loop; never waits."""
        ...


class NoCache:
    """Keeps nothing: after a restart the agent serves again once its cluster has answered."""

    def load(self, store: Store) -> None:
        """Nothing was kept."""

    def changed(self, store: Store) -> None:
        """Nothing is kept."""
