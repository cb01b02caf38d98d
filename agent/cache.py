"""The port of the cache that lets an agent restart with everything unreachable, and the driver that keeps nothing."""

from __future__ import annotations

from typing import Protocol


class Cache(Protocol):
    """Keeps records (bytes by name) across restarts of the agent, sealed to this node.

    Whoever reads the store sees and changes nothing of use; what was altered, or is older than the node has seen, is
    refused on load.
    """

    def load(self) -> dict[str, bytes]:
        """Every record. Raises Denied for what does not open, NotFound for none."""
        ...

    def save(self, records: dict[str, bytes], removed: frozenset[str]) -> None:
        """Store changed records and forget removed ones, all or nothing. Raises Unavailable."""
        ...


class NoCache:
    """Keeps nothing: after a restart the agent serves again once its cluster has answered."""

    def load(self) -> dict[str, bytes]:
        """No record."""
        return {}

    def save(self, records: dict[str, bytes], removed: frozenset[str]) -> None:
        """Keep nothing."""
