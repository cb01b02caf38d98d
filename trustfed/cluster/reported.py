"""The highest level of this domain's own bundle that anybody reported above the newest there is.

There is an innocent way to it: this cluster was restored from a backup, and its readers refuse what goes back. Then an
operator begins a new epoch. Whoever reports may lie, so nothing here acts on it.
"""

from __future__ import annotations

from collections.abc import Callable

from ca.lifecycle import Level
from trustfed.runtime import logs
from trustfed.runtime.metrics import Registry

log = logs.get("cluster.reported")


class Reported:
    """Keeps the highest report and who made it."""

    def __init__(self, own: Callable[[], Level], registry: Registry) -> None:
        self._own = own
        self._highest, self._by = Level(0, 0), ""
        registry.gauge(
            "cluster_own_level_reported_ahead", "1 while a reader holds a later bundle of ours than there is"
        ).read(lambda: float(self.ahead))

    @property
    def highest(self) -> Level:
        """The highest level that was reported, (0, 0) if none was above our own."""
        return self._highest

    @property
    def ahead(self) -> bool:
        """Whether it is above what was published."""
        return self._highest > self._own()

    def note(self, who: str, level: Level) -> None:
        """Somebody holds `level` of this domain's bundle."""
        if level > self._own() and level > self._highest:
            self._highest, self._by = level, who
            log.error(
                "a reader holds a later bundle of this domain than there is: restored from a backup?",
                by=who,
                reported=f"{level.epoch}.{level.sequence}",
            )

    def status(self) -> dict[str, object] | None:
        """For `trustfed cluster status`: None while nobody is ahead."""
        if not self.ahead:
            return None
        return {"by": self._by, "epoch": self._highest.epoch, "sequence": self._highest.sequence}
