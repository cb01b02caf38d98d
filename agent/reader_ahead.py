"""The store's reader, started before this process has loaded the rest of itself: so both load at once.

Only on a node's first start, when nothing else says where its cluster is. A reader that is not used ends with this process.
"""

from __future__ import annotations

import subprocess

from agent.config import AgentConfig
from trustfed.reading import launch

_started: list[subprocess.Popen[bytes]] = []


def start(config: AgentConfig) -> None:
    """Start it if it will be needed."""
    enrolled = (config.data_dir / "identity.json").exists()
    if config.store is not None and config.attest.kind != "join_token" and not enrolled:
        _started.append(launch.start(aws=True))


def take() -> subprocess.Popen[bytes] | None:
    """The reader that was started; None if there is none, or it was taken."""
    return _started.pop() if _started else None
