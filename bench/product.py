"""What the bench needs of a product; `bench.trustfed` and `bench.spire` provide it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from bench.load import Sample

HOME = "bench-one.example"  # the domain whose agent and workload are measured
PEER = "bench-two.example"  # the domain whose new authority must reach that workload
ENTRIES = 100  # entries of other workloads, with selectors unix:uid:FIRST_UID …
FIRST_UID = 200_000
OWN_SELECTOR = f"unix:uid:{os.getuid()}"
OWN_PATH = "/bench/workload"


class Product(Protocol):
    """One running installation: the home domain with an agent and 101 entries, and a peer domain it imports."""

    name: str
    version: str
    socket: Path  # Workload API of the home domain's agent

    def start(self) -> float:
        """Everything up; seconds from the agent's first start, join token in hand, to the first SVID."""
        ...

    def stop(self) -> None:
        """Every process that was started is gone, the directory too."""
        ...

    def processes(self) -> dict[str, int]:
        """Role → pid."""
        ...

    def restart_agent(self, limit: float = 60.0) -> float:
        """Seconds from the start of an agent that has joined before to the first SVID; BenchError after `limit`."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """In the block the agent has nobody: every server is stopped, and started again behind it."""
        ...

    def issue(self, size: int, callers: int, seconds: float) -> Sample:
        """SVIDs per second, `size` a call."""
        ...

    def create_entry(self, path: str) -> str:
        """A new entry for this process's uid in the home domain; returns its SPIFFE ID."""
        ...

    def prepare_authority(self) -> int:
        """A new X.509 authority in the peer domain's bundle; Unix nanoseconds of just before it was asked for."""
        ...
