"""Which facts an event of the journal is mirrored as: figures are a function of the ledger alone. Pure.

Each mirrored fact names the position of its event (`journal`) and when that was (`at`), so that whoever holds both logs can
check one against the other. `Fact.at` is when it was mirrored.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from ca import lifecycle
from ca.lifecycle import AuthorityState, Level
from ca.lifecycle import Policy as LifecyclePolicy
from trustfed.cluster import events as e
from trustfed.cluster.evidence.events import RotationOrdered
from trustfed.cluster.state import ClusterState
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Event, Fact, TypedEvent
from trustfed.runtime.timestamps import to_ms

MAX_NAMES = 100


class Mirrored:
    """Makes facts of events. `state` is the newest there is: of an authority it is asked only for what never changes."""

    def __init__(self, custodian: str, policy: LifecyclePolicy, algorithm: str = "ec-p256") -> None:
        self._custodian, self._policy, self._algorithm = custodian, policy, algorithm
        self._make: dict[type[Any], Callable[[Any, _Of], None]] = {
            e.AuthorityPrepared: lambda ev, of: self._step(of, ev.id, "prepared"),
            e.AuthorityCertified: lambda ev, of: self._step(of, ev.id, "certified"),
            e.AuthorityActivated: self._activated,
            e.AuthorityRetired: lambda ev, of: self._step(of, ev.id, "retired"),
            e.AuthorityReissued: self._reissued,
            e.AuthorityTainted: lambda ev, of: self._step(of, ev.id, "tainted"),
            e.AuthorityRemoved: lambda ev, of: self._step(of, ev.id, "removed", missing=list(ev.missing[:MAX_NAMES])),
            e.BundlePublished: self._published,
            e.EntryDeleted: lambda ev, of: of.add(kinds.ENTRY_ENDED, ev.id, entry=ev.id, why="deleted"),
            e.NodeBanned: lambda ev, of: of.add(
                kinds.NODE_ENDED, ev.name, node=ev.name, why=f"banned: {ev.reason}"[:200]
            ),
            RotationOrdered: self._ordered,
        }

    def facts(self, position: int, event: Event, typed: TypedEvent, state: ClusterState, now: int) -> list[Fact]:
        """The facts of one event, none for most."""
        make = self._make.get(type(typed))
        if make is None:
            return []
        of = _Of(position, event.at, state, now)
        make(typed, of)
        return of.made

    def _step(self, of: _Of, id_: str, step: str, **more: Any) -> None:
        authority = of.state.authorities.get(id_)
        if authority is not None:
            of.step(
                id_, str(authority.kind), step, authority.not_before, authority.not_after, self._held(authority), **more
            )

    def _held(self, authority: AuthorityState) -> dict[str, Any]:
        outside = authority.kind is lifecycle.Kind.EXTERNAL
        return {"algorithm": self._algorithm, "custodian": "outside" if outside else self._custodian}

    def _activated(self, ev: e.AuthorityActivated, of: _Of) -> None:
        authority = of.state.authorities.get(ev.id)
        safe = to_ms(lifecycle.last_safe_moment(authority, self._policy)) if authority is not None else 0
        missing = list(ev.missing[:MAX_NAMES])
        self._step(of, ev.id, "activated", forced=ev.forced, missing=missing, retires=ev.retires, safe_ms=safe)

    def _reissued(self, ev: e.AuthorityReissued, of: _Of) -> None:
        self._step(of, ev.id, "reissued", missing=list(ev.missing[:MAX_NAMES]))
        deadline = to_ms(ev.at + timedelta(seconds=ev.spread_seconds))
        of.add(kinds.FORCED, ev.id, authorities=[ev.id], entries=[], deadline=deadline, reason="tainted")

    def _ordered(self, ev: RotationOrdered, of: _Of) -> None:
        authorities = list(ev.authorities)
        body = {"authorities": authorities, "entries": list(ev.entries), "reason": ev.reason[:200]}
        of.add(kinds.FORCED, authorities[0] if authorities else ev.id, deadline=to_ms(ev.deadline), **body)

    def _published(self, ev: e.BundlePublished, of: _Of) -> None:
        level = Level(ev.epoch, ev.sequence)
        for id_ in ev.carries:
            authority = of.state.authorities.get(id_)
            if authority is not None and authority.first_level == level:
                self._step(of, id_, "published")
        domain = of.state.trust_domain
        body = {"epoch": ev.epoch, "sequence": ev.sequence, "carries": list(ev.carries)[:MAX_NAMES]}
        of.add(kinds.BUNDLE_PUBLISHED, domain, trust_domain=domain, **body)


class _Of:
    """The facts of one event as they are made."""

    def __init__(self, position: int, at: int, state: ClusterState, now: int) -> None:
        self.position, self.at, self.state, self.now = position, at, state, now
        self.made: list[Fact] = []

    def add(self, kind: str, key: str, /, **body: Any) -> None:
        self.made.append(Fact(self.now, kind, key[:256], {**body, "at": self.at, "journal": self.position}))

    def step(
        self,
        id_: str,
        kind: str,
        step: str,
        begins: datetime,
        ends: datetime,
        held: dict[str, Any],
        *,
        forced: bool = False,
        missing: list[str] | None = None,
        retires: str = "",
        safe_ms: int = 0,
    ) -> None:
        body: dict[str, Any] = {
            "authority": id_,
            "kind": kind,
            "step": step,
            "not_before": int(begins.timestamp()),
            "not_after": int(ends.timestamp()),
            "forced": forced,
            "missing": missing or [],
            "retires": retires,
            **held,
        }
        if safe_ms:
            body["safe_ms"] = safe_ms
        self.add(kinds.AUTHORITY_STEP, id_, **body)
