"""Facts of a ledger written down by hand, as a cluster would record them: for tests of what is counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from trustfed.journal.events import Fact

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def ms(text: str) -> int:
    """Unix ms of "2027-01-05 20:00" in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


class Instance:
    """One workload on one node (or the node itself): what is issued to it and what its agent says."""

    def __init__(self, script: LedgerScript, name: str, *, node: str = "", slot: str = "x509", life: int = DAY) -> None:
        self.script, self.name, self.life, self.slot = script, name, life, slot
        self.node = node or f"node-of-{name}"
        self.entry = "" if slot == "node" else f"entry-of-{name}"
        self.instance = f"node/{self.node}" if slot == "node" else f"{self.node}/{self.entry}"
        self.spiffe_id = f"spiffe://prod.example/{name}"
        self.authority = "A1"
        self.serials: list[str] = []

    def issue(self, at: int, *, authority: str = "", until: int = 0) -> str:
        """Record a new serial that lives from `at` on, or from then `until` its entry ends; gives it."""
        serial = f"{next(self.script.numbers):032x}"
        body = {
            "serial": serial,
            "spiffe_id": self.spiffe_id,
            "authority": authority or self.authority,
            "profile": "x509-svid",
            "chain": "leaf",
            "dns_names": [],
            "not_before": at // 1000,
            "not_after": (until or at + self.life) // 1000,
            "ttl": self.life // 1000,
            "key_id": "00" * 20,
            "tbs_sha256": "00" * 32,
            "entry": self.entry,
            "node": self.node,
            "instance": self.instance,
            "slot": self.slot,
            "predecessor": self.serials[-1] if self.serials else "",
            "command_id": "",
        }
        self.serials.append(serial)
        self.script.record(at, "x509.issued", serial, body)
        return serial

    def say(self, kind: str, serial: str, at: int, *, recorded: int = 0, **more: Any) -> None:
        """Record that its agent says `kind` of `serial`, of time `at`; `recorded` when it arrived late."""
        body = {
            "node": self.node,
            "epoch": "00" * 16,
            "sequence": next(self.script.sequences),
            "entry": self.entry,
            "instance": self.instance,
            "slot": self.slot,
            "serial": serial,
            "at": at,
            **more,
        }
        self.script.record(recorded or at, f"agent.{kind}", serial or self.node, body)

    def renew(self, at: int, *levels: str, door: str = "workload_api", after: int = 1000) -> str:
        """A serial is issued at `at` and reaches these levels a second later each; gives it."""
        serial = self.issue(at)
        for step, level in enumerate(levels or ("delivered",), start=1):
            more: dict[str, Any] = (
                {"door": door} if level == "delivered" else {"peer": "10.0.0.1:8443"} if level == "confirmed" else {}
            )
            self.say(level, serial, at + step * after, **more)
        return serial

    def renew_every(self, begin: int, end: int, every: int, *levels: str, door: str = "workload_api") -> list[str]:
        """Renew from `begin` on, at equal steps, while before `end`."""
        return [self.renew(at, *levels, door=door) for at in range(begin, end, every)]


class LedgerScript:
    """Facts by the time at which they were recorded."""

    def __init__(self) -> None:
        self.numbers, self.sequences = itertools.count(1), itertools.count(1)
        self._facts: list[Fact] = []

    def record(self, at: int, kind: str, key: str, body: dict[str, Any]) -> None:
        """Record one fact at this time."""
        self._facts.append(Fact(at, kind, key, body))

    def instance(self, name: str, **more: Any) -> Instance:
        """A workload, or with slot "node" a node."""
        return Instance(self, name, **more)

    def facts(self) -> list[Fact]:
        """All facts, oldest first; those of one moment in the order in which they were written down."""
        return sorted(self._facts, key=lambda fact: fact.at)

    def numbered(self) -> Iterator[tuple[int, Fact]]:
        """All facts with their positions."""
        return enumerate(self.facts(), start=1)
