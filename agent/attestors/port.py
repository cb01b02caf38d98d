"""The attestor port: what can be said about a process that calls the Workload API. One file per source of knowledge."""

from __future__ import annotations

from typing import Protocol

from agent.peer import Caller


class WorkloadAttestor(Protocol):
    """One source of selectors, such as the kernel or a container runtime."""

    def ready(self, caller: Caller, kinds: frozenset[str]) -> frozenset[str] | None:
        """The caller's selectors of these kinds (`unix:uid`, ...), if they can be told without waiting, else None.

        Raises Denied when the process has ended.
        """
        ...

    async def look_up(self, caller: Caller, kinds: frozenset[str]) -> None:
        """Find out what `ready` lacks, so that it then tells. What cannot be found out gives no selector."""
        ...
