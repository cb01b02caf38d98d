"""How a cluster keeps evidence: `[evidence]` of its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trustfed.errors import Invalid

EVERYDAY = ("rotate", "republish", "refresh")
GRAVE = ("quarantine", "prepare", "activate", "taint", "pause", "resume")
CA_KINDS = frozenset({"prepare", "activate", "taint", "pause", "resume"})
"""Orders that move an authority: two people, at whichever door."""
_MONTH = timedelta(days=30)


@dataclass(frozen=True)
class EvidenceConfig:
    """Orders are what two people at the hub may decide for this domain: its owner says here which it takes."""

    checkpoint_every: timedelta = timedelta(minutes=5)
    witness_directory: Path | None = None
    orders: tuple[str, ...] = EVERYDAY
    keep: timedelta = timedelta(days=396)
    """Facts older than that leave, by whole segments, after a rollup was logged; 13 months."""
    silent_after: timedelta = timedelta(seconds=60)
    probe_every: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        for kind in self.orders:
            if kind not in EVERYDAY + GRAVE:
                raise Invalid(f"evidence.orders names {kind[:40]!r}", hint=f"some of {', '.join(EVERYDAY + GRAVE)}")
        for name, least, most in (
            ("checkpoint_every", timedelta(seconds=1), timedelta(days=1)),
            ("keep", _MONTH, timedelta(days=3_660)),
            ("silent_after", timedelta(seconds=5), timedelta(hours=1)),
            ("probe_every", timedelta(seconds=1), timedelta(hours=1)),
        ):
            if not least <= getattr(self, name) <= most:
                raise Invalid(f"evidence.{name} of {getattr(self, name)} is out of range", hint=f"{least} to {most}")
