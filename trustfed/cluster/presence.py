"""Which nodes are alive and how far each is with every bundle: levels in memory, told anew by each agent's hello."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from ca.lifecycle import Consumer, Level
from trustfed.cluster.state import ClusterState

MAX_LAGGARDS = 100
_NONE = Level(0, 0)


@dataclass
class Held:
    """One node: until when its own SVID lives, and the level it holds of each trust domain."""

    live_until: datetime
    levels: dict[str, Level] = field(default_factory=dict)
    streams: int = 0
    software: str = ""
    heard: datetime | None = None

    def closed(self, now: datetime) -> None:
        """A stream of it has ended: until then it was heard, whatever it had to say."""
        self.streams -= 1
        self.heard = max(self.heard or now, now)


class Presence:
    """The consumers of bundles inside this cluster."""

    def __init__(self) -> None:
        self._nodes: dict[str, Held] = {}

    def load(self, state: ClusterState, until: datetime) -> None:
        """Nodes that may hold an SVID from before this process began count until the last of those has ended."""
        for name, node in state.nodes.items():
            if not node.banned:
                self.alive(name, until)

    def alive(self, name: str, until: datetime) -> None:
        """A node got, or showed, an SVID that ends at `until`."""
        held = self._nodes.setdefault(name, Held(until))
        held.live_until = max(held.live_until, until)

    def get(self, name: str) -> Held | None:
        return self._nodes.get(name)

    def gone(self, name: str) -> None:
        """A banned node counts no longer."""
        self._nodes.pop(name, None)

    def says(self, name: str, levels: Iterable[tuple[str, Level]]) -> None:
        """A hello tells all: what is not in it is not held."""
        self._nodes[name].levels = dict(levels)

    def acknowledges(self, name: str, domain: str, level: Level) -> bool:
        """Take a level; they only rise. True if it did."""
        held = self._nodes[name]
        if domain in held.levels and held.levels[domain] >= level:
            return False
        held.levels[domain] = level
        return True

    def live(self, now: datetime) -> list[tuple[str, Held]]:
        """The nodes whose own SVID has not expired."""
        return [(name, held) for name, held in self._nodes.items() if held.live_until > now]

    def consumers(self, own: str, now: datetime) -> list[Consumer]:
        """The nodes as consumers of the cluster's own bundle."""
        return [Consumer(f"node {name}", held.levels.get(own), held.live_until) for name, held in self.live(now)]

    def behind(self, state: ClusterState, now: datetime) -> int:
        """How many live nodes lack the newest bundle of this domain or of one that it imports."""
        newest = {name: Level(peer.epoch, peer.sequence) for name, peer in state.peers.items()}
        wanted = {state.trust_domain: state.level, **{d: newest[d] for d in state.imports(now) if d in newest}}
        return sum(any(held.levels.get(d, _NONE) < level for d, level in wanted.items()) for _, held in self.live(now))

    def levels(self, state: ClusterState, now: datetime) -> dict[str, tuple[Level, tuple[str, ...], int]]:
        """Per imported domain: the level that all live nodes hold, who lacks the newest (100 by name), and how many do.

        A domain of which some live node holds nothing is left out: there is no level yet.
        """
        live = self.live(now)
        found: dict[str, tuple[Level, tuple[str, ...], int]] = {}
        for exporter, grant in state.imports(now).items():
            peer = state.peers.get(exporter)
            # The hub, which is told these, knows nothing of foreign peers.
            if grant.local or peer is None or peer.key != grant.exporter_key:
                continue
            newest = Level(peer.epoch, peer.sequence)
            behind = [(name, held.levels.get(exporter)) for name, held in live]
            behind = [(name, level) for name, level in behind if level is None or level < newest]
            least = min((level for _, level in behind if level is not None), default=newest)
            if any(level is None for _, level in behind):
                continue
            found[exporter] = (least, tuple(sorted(name for name, _ in behind)[:MAX_LAGGARDS]), len(behind))
        return found
