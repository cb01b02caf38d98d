"""Random histories of one trust domain, as its ledger might hold them: for two verifiers that must agree on all of them."""

from __future__ import annotations

from random import Random
from typing import Any

from trustfed.journal.events import Fact

START = 1_760_000_000_000
MINUTE = 60_000


class History:
    """Facts in order, made by a seeded source: rotations that go well, late, unseen, forced, excused, or not at all."""

    def __init__(self, seed: int, *, nodes: int = 3, entries: int = 3, minutes: int = 600) -> None:
        self._random = Random(seed)
        self.facts: list[Fact] = []
        self._now, self._serial, self._journal = START, 0, 100
        self._nodes = [f"node-{n}" for n in range(nodes)]
        self._entries = [f"entry-{n}" for n in range(entries)]
        self._held: dict[tuple[str, str], list[str]] = {}
        self._silent: dict[str, int] = {}
        self._authorities = ["a0"]
        end = START + minutes * MINUTE
        while self._now < end:
            self._now += self._random.choice((1_000, 20_000, MINUTE, 3 * MINUTE))
            self._something()

    def _put(self, kind: str, key: str, /, **body: Any) -> None:
        self.facts.append(Fact(self._now, kind, key, body))

    def _slot(self) -> tuple[str, str]:
        node = self._random.choice(self._nodes)
        if self._random.random() < 0.15:
            return f"node/{node}", "node"
        return f"{node}/{self._random.choice(self._entries)}", "x509"

    def _something(self) -> None:
        chosen = self._random.random()
        if chosen < 0.34:
            self._issue()
        elif chosen < 0.84:
            self._said()
        else:
            self._decided()

    def _issue(self) -> None:
        instance, slot = self._slot()
        node, entry = (instance.split("/")[1], "") if slot == "node" else tuple(instance.split("/"))
        if self._random.random() < 0.1:
            who = {"node": node, "entry": entry, "instance": instance, "slot": slot}
            self._put("svid.refused", instance, code="denied", count=2, at=self._now, **who)
            return
        self._serial += 1
        serial, held = f"{self._serial:032x}", self._held.setdefault((instance, slot), [])
        begin = self._now // 1000 - 10
        life = self._random.choice((600, 1_800, 3_600, 7_200))
        self._put(
            "x509.issued",
            serial,
            serial=serial,
            spiffe_id=f"spiffe://prod/{instance}",
            authority=self._random.choice(self._authorities),
            not_before=begin,
            not_after=begin + life,
            entry=entry,
            node=node,
            instance=instance,
            slot=slot,
            predecessor=held[-1] if held else "",
        )
        held.append(serial)

    def _said(self) -> None:
        held = [(at, serials) for at, serials in self._held.items() if serials]
        if not held:
            return
        (instance, slot), serials = self._random.choice(held)
        node, entry = (instance.split("/")[1], "") if slot == "node" else tuple(instance.split("/"))
        serial = serials[-1] if self._random.random() < 0.8 else self._random.choice(serials)
        kind = self._random.choice(("delivered",) * 5 + ("loaded", "loaded", "confirmed", "released", "expired"))
        body = {"node": node, "epoch": "e", "sequence": 1, "entry": entry, "instance": instance, "slot": slot}
        body |= {"serial": serial, "at": self._now - self._random.choice((0, 0, 0, 500, 40 * MINUTE))}
        if kind == "delivered":
            body["door"] = self._random.choice(("workload_api", "workload_api", "sds"))
        if kind in ("loaded", "confirmed"):
            body["peer"] = self._random.choice(("127.0.0.1:1", "spiffe://prod/peer"))
        if self._random.random() < 0.1:
            body["late"] = True
        if self._random.random() < 0.03:
            body["node"] = "another"
        self._put(f"agent.{kind}", serial, **body)

    def _decided(self) -> None:
        node, entry, chosen = (
            self._random.choice(self._nodes),
            self._random.choice(self._entries),
            self._random.random(),
        )
        self._journal += 1
        if chosen < 0.15:
            self._put("entry.ended", entry, entry=entry, why="deleted", at=self._now - 500, journal=self._journal)
        elif chosen < 0.2:
            self._put("node.ended", node, node=node, why="banned", at=self._now, journal=self._journal)
        elif chosen < 0.4 and node not in self._silent:
            self._silent[node] = self._now - MINUTE
            self._put("node.silent", node, node=node, since=self._now - MINUTE)
        elif chosen < 0.55:
            begin = self._silent.pop(node, 0)
            self._put("node.heard", node, node=node, **{"from": begin, "to": self._now})
        elif chosen < 0.6:
            self._put("cluster.gap", "prod", **{"from": self._now - 10 * MINUTE, "to": self._now})
        elif chosen < 0.7:
            self._put("agent.lost", node, node=node, epoch="e", sequence=2, at=self._now, lost=[])
        elif chosen < 0.85:
            named = [self._random.choice(self._authorities)]
            deadline = self._now + self._random.choice((0, MINUTE, 60 * MINUTE))
            self._put(
                "rotation.forced", named[0], authorities=named, deadline=deadline, reason="", journal=self._journal
            )
        else:
            self._step()

    def _step(self) -> None:
        old, new = self._authorities[-1], f"a{self._journal}"
        begin = self._now // 1000
        body = {
            "kind": self._random.choice(("x509", "jwt", "external")),
            "not_before": begin,
            "not_after": begin + 7_200,
        }
        body |= {"forced": self._random.random() < 0.2, "missing": ["n"] if self._random.random() < 0.2 else []}
        if self._random.random() < 0.2:
            self._put("authority.step", old, authority=old, step="tainted", retires="", journal=self._journal, **body)
            return
        retires = self._random.choice(self._authorities) if self._random.random() < 0.8 else ""
        self._authorities = [*self._authorities[-2:], new]
        self._put(
            "authority.step", new, authority=new, step="activated", retires=retires, journal=self._journal, **body
        )
