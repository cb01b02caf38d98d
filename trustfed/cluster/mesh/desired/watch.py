"""The directory that a cluster applies by itself: looked at every few seconds, applied when it differs.

A directory with a fault changes nothing: what was applied last stays, and the fault is shown until it is mended. What is
not named any more is dropped when the directory says so at two looks in a row: it may be in the middle of a change, file by
file. What a person took over is left to that person, and shown as drift.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec

from trustfed.cluster.mesh.desired.apply import By, apply
from trustfed.cluster.mesh.desired.files import File, digest, read_directory
from trustfed.cluster.mesh.desired.plan import DROP, HELD, Difference, Terms, differences
from trustfed.cluster.mesh.desired.wanted import Wanted, read_wanted
from trustfed.cluster.mesh.state import Mesh
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach

SHOWN_DRIFT = 100
ACTOR = "directory"
log = logs.get("cluster.mesh")


class DesiredDirectory:
    """One directory, and how it stands."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        directory: Path,
        poll: timedelta,
        reach: Reach,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._fold, self.path, self._poll, self._reach, self._clock = fold, directory, poll, reach, clock
        self._digest = self._seen = ""
        self._wanted: Mapping[tuple[str, str], Wanted] | None = None
        self._compared: tuple[Mesh, str] | None = None  # that state and that directory need not be compared again
        self._drift: list[Difference] = []
        self._error: TrustfedError | None = None
        self._error_since: datetime | None = None
        self._applied_at: datetime | None = None
        registry.gauge(
            "cluster_mesh_directory_faulty", "1 while the directory of desired state cannot be applied"
        ).read(lambda: float(self._error is not None))
        registry.gauge(
            "cluster_mesh_directory_drift", "what differs from the directory of desired state and is left to others"
        ).read(lambda: float(len(self._drift)))

    async def run(self) -> None:
        """Look, and look again; nothing ends it but its cancellation."""
        while True:
            await self.look()
            await self._clock.sleep(self._poll.total_seconds())

    async def look(self) -> None:
        """Read the directory if it changed, and apply what differs."""
        try:
            files, found = await asyncio.to_thread(self._read)
            settled, self._seen = found == self._seen, found
            if found != self._digest or self._wanted is None:
                self._wanted = None
                self._wanted = await asyncio.to_thread(read_wanted, files)
                self._digest = found
            if not self._known(found):
                await self._bring(found, self._wanted, settled)
        except TrustfedError as error:
            self._failed(error)
        else:
            self._error = self._error_since = None

    def status(self) -> dict[str, object]:
        """For `trustfed mesh status`: the fault and since when, what is left to others."""
        return {
            "path": str(self.path),
            "digest": self._digest[:16],
            "documents": len(self._wanted) if self._wanted is not None else None,
            "applied_at": self._applied_at,
            "error": self._error.message if self._error else None,
            "hint": self._error.hint if self._error else None,
            "error_since": self._error_since,
            "drift_count": len(self._drift),
            "drift": [msgspec.to_builtins(one) for one in self._drift[:SHOWN_DRIFT]],
        }

    def _read(self) -> tuple[tuple[File, ...], str]:
        files = read_directory(self.path)
        return files, digest(files)

    def _known(self, found: str) -> bool:
        """Whether nothing that the documents speak of changed since the last comparison."""
        if self._compared is None or self._compared[1] != found:
            return False
        then, now = self._compared[0], self._fold.state.mesh
        return then.own is now.own and then.local is now.local

    async def _bring(self, found: str, wanted: Mapping[tuple[str, str], Wanted], settled: bool) -> None:
        mesh = self._fold.state.mesh
        differ = await asyncio.to_thread(differences, mesh, wanted)
        left = (HELD,) if settled else (HELD, DROP)
        if any(one.action not in left for one in differ):
            terms = Terms(prune=settled, leave=True)
            by = By(uuid4().hex, ACTOR, f"desired state {found[:16]}")
            count = await apply(self._fold, wanted, terms, by, self._clock, self._reach)
            log.info("desired state applied", events=count, digest=found[:16])
            self._applied_at = self._clock.now()
            mesh = self._fold.state.mesh
            differ = await asyncio.to_thread(differences, mesh, wanted)
        self._drift = [one for one in differ if one.action == HELD]
        self._compared = (mesh, found) if all(one.action == HELD for one in differ) else None

    def _failed(self, error: TrustfedError) -> None:
        if self._error is None or self._error.message != error.message:
            log.warning("desired state not applied", error=error.message)
            self._error_since = self._clock.now()
        self._error = error
