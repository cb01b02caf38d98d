"""What lets an agent serve again after a restart with everything unreachable: what it held, sealed to this node."""

from __future__ import annotations

from agent.cache.port import Cache, Kept, KeptToken, NoCache

__all__ = ["Cache", "Kept", "KeptToken", "NoCache"]
