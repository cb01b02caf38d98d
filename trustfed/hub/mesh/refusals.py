"""What was refused of the domains' meshes: in memory, bounded, and found again by the host that it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

from trustfed.federation.mesh_statement import Statement
from trustfed.hub.mesh.state import key

MAX_REFUSED = 1_000


@dataclass(frozen=True)
class Refused:
    """What a domain said that was not taken; with its statement if only the state stands against it."""

    kind: str
    name: str
    sequence: int
    why: str
    statement: Statement | None = None


@dataclass
class Refusals:
    """What was refused of each domain, newest last, at most MAX_REFUSED."""

    of: dict[str, dict[str, Refused]] = field(default_factory=dict)
    hosts: dict[str, dict[str, None]] = field(default_factory=dict)  # host → who waits for it, the first one first

    def put(self, domain: str, one: Refused) -> None:
        self.pop(domain, at := key(one.kind, one.name))
        held = self.of.setdefault(domain, {})
        if len(held) >= MAX_REFUSED:
            self.pop(domain, next(iter(held)))
        held[at] = one
        if one.kind == "export" and one.statement is not None:
            self.hosts.setdefault(one.name, {})[domain] = None

    def pop(self, domain: str, at: str) -> Refused | None:
        held = self.of.get(domain, {})
        one = held.pop(at, None)
        if one is not None and one.kind == "export":
            waiting = self.hosts.get(one.name, {})
            waiting.pop(domain, None)
            if not waiting:
                self.hosts.pop(one.name, None)
        return one

    def forget(self, domain: str) -> None:
        for at in list(self.of.get(domain, {})):
            self.pop(domain, at)
        self.of.pop(domain, None)
