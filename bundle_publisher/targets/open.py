"""From configuration to a target: the one place that knows every driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundle_publisher.targets.directory import DirectoryTarget
from bundle_publisher.targets.port import Target


@dataclass(frozen=True)
class TargetConfig:
    """Where documents go beside our own HTTPS endpoint; nothing named: nowhere. One driver, one field or table of it."""

    directory: Path | None = None


def open_target(config: TargetConfig) -> Target | None:
    """The target that the configuration names; opens no connection and makes no file yet. Raises Invalid."""
    return DirectoryTarget(config.directory) if config.directory is not None else None
