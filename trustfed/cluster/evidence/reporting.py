"""What this cluster can say in a compliance report: figures, inventory, decisions, anchors, doors, and the logs under them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

import msgspec

from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.state import ClusterState
from trustfed.errors import Invalid
from trustfed.evidence import inventory, tables
from trustfed.evidence.compliance.data import (
    MAX_LISTED,
    Anchor,
    Asset,
    Endpoint,
    Failure,
    Figure,
    Proof,
    Report,
    Rotation,
    Uptime,
)
from trustfed.evidence.compliance.decisions import Decisions
from trustfed.evidence.figures import Figures, Window
from trustfed.evidence.model import FAILED, Obligation
from trustfed.evidence.standing import Authority
from trustfed.evidence.store import EvidenceStore
from trustfed.journal.merkle.note import parse_note
from trustfed.journal.ports import MAX_READ, Journal
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import SOFTWARE

LEAST_ANSWER, MAX_ANSWER = 16 << 10, 900 << 10
"""Bytes of a report over the stream to the hub."""
_LONG = ("assets", "failures", "changes", "rotations")
_TLS = (
    "TLS 1.2, TLS 1.3",
    "TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, ECDHE with AEAD",
)


class AskReport(msgspec.Struct, forbid_unknown_fields=True):
    """A window, who wants it, and how long the answer may be."""

    from_ms: int
    to_ms: int
    ran_by: str
    bytes: int = MAX_ANSWER


class Reporting:
    """`await report(window, who)`: everything as of now."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        config: ClusterConfig,
        store: Callable[[], EvidenceStore],
        journal: Journal,
        first_fact: Callable[[], int],
        logs: ClusterLogs,
        authorities: Callable[[], tuple[Authority, ...]],
        addresses: Callable[[], dict[str, str]],
        clock: Clock,
    ) -> None:
        self._state, self._config, self._store, self._journal = state, config, store, journal
        self._first_fact, self._logs, self._authorities = first_fact, logs, authorities
        self._addresses, self._clock = addresses, clock

    async def answer(self, body: bytes) -> bytes:
        """The same for the hub, whose people ask for their whole fleet (AskReport). Raises Invalid."""
        try:
            asked = msgspec.json.decode(body, type=AskReport)
        except msgspec.MsgspecError as error:
            raise Invalid(f"the question for a report cannot be read: {error}"[:300]) from None
        hub = self._state().hub
        who = f"{hub.trust_domain if hub is not None else 'hub'}: {asked.ran_by}"[:200]
        found = await self.report(Window(asked.from_ms, asked.to_ms), who)
        return within(found, min(max(asked.bytes, LEAST_ANSWER), MAX_ANSWER))

    async def report(self, window: Window, ran_by: str) -> Report:
        """The report of a window. Raises Invalid for one that is none."""
        state, store = self._state(), self._store()
        await store.follow()
        found = await store.figures(window)
        owners = {entry.id: entry.owner for entry in state.entries.values() if entry.owner}
        live = await store.look(lambda engine: inventory.certificates(engine, owners))
        failed = await store.read(
            lambda connection: tables.failed(connection, window.from_ms, window.to_ms, MAX_LISTED)
        )
        decisions = Decisions(state.trust_domain, window.from_ms, window.to_ms)
        position = 0
        while records := await self._journal.read(position, MAX_READ):
            decisions.take(records)
            position = records[-1].position
        policy, keep = self._config.policy, self._config.evidence.keep
        return Report(
            scope=(state.trust_domain,),
            from_ms=window.from_ms,
            to_ms=window.to_ms,
            as_of_ms=to_ms(self._clock.now()),
            ran_by=ran_by,
            source=f"cluster of {state.trust_domain}: its journal and its ledger",
            software=SOFTWARE,
            definition=store.definition.hash,
            definition_version=store.definition.version,
            parameters={
                "keep": f"{keep.days} days",
                "trimmed": "yes" if self._first_fact() > 1 else "no",
                "authority_ttl": str(policy.authority_ttl),
                "node_ttl": str(policy.node_ttl),
                "longest_leaf": str(policy.longest_leaf),
            },
            rows={
                "facts": store.position - self._first_fact() + 1,
                "events": decisions.read,
                "obligations": sum(one.counts["due"] for one in found.classes.values()) + len(found.few),
            },
            figures=_figures(found),
            failures=tuple(_failure(state.trust_domain, one) for one in failed),
            rotations=tuple(_rotation(state.trust_domain, one) for one in found.few),
            assets=(*self._keys(state), *(_asset(state.trust_domain, one) for one in live[: MAX_LISTED - 100])),
            changes=decisions.end(),
            anchors=tuple(_anchors(state, self._clock)),
            endpoints=tuple(self._doors()),
            uptimes=tuple(
                Uptime(state.trust_domain, name, one.up_share, one.unknown_ms)
                for name, one in found.availability.items()
            ),
            proofs=self._proofs(),
            unknown=found.orphans["unknown_serials"],
        )

    def _keys(self, state: ClusterState) -> list[Asset]:
        own = [
            Asset(
                state.trust_domain, "jwt" if one.kind == "jwt" else "authority", one.id, "", "", "", one.algorithm, 128, False,
                one.not_before_ms, one.not_after_ms, one.custodian, "", one.state,
            )
            for one in self._authorities()
        ]  # fmt: skip
        end = to_ms(self._clock.now() + timedelta(days=366))
        custodian = self._config.keys.store
        # These have no end of their own: they are replaced when the domain is enrolled anew, and reviewed once a year.
        for purpose, algorithm in (("bundle signature", "ec-p256"), ("log", "ed25519")):
            own.append(
                Asset(state.trust_domain, purpose, purpose, "", "", "", algorithm, 128, False, 0, end, custodian, "")
            )
        return own

    def _doors(self) -> list[Endpoint]:
        versions, ciphers = _TLS
        purposes = {
            "grpc": ("gRPC, mutual TLS", "agents: attestation, issuing, evidence"),
            "bundle_spiffe": ("HTTPS, SPIFFE", "bundle endpoint https_spiffe, enrolment of nodes"),
            "bundle_web": ("HTTPS, Web PKI", "bundle endpoint https_web"),
        }
        doors = [
            Endpoint(address, purposes[name][0], versions, ciphers, purposes[name][1])
            for name, address in self._addresses().items()
            if name in purposes
        ]
        admin = str(self._config.admin_path)
        doors.append(Endpoint(admin, "HTTP over a Unix socket", "none: never leaves the machine", "", "administrators"))
        return doors

    def _proofs(self) -> tuple[Proof, ...]:
        newest, first = self._logs.newest, 0
        cosigners = tuple(
            one.name
            for one in (parse_note(newest.data).signatures if newest else ())
            if one.name != self._logs.journal_origin
        )
        return tuple(
            Proof(one.origin, one.checkpoint_size, one.root, one.checkpoint_ms, cosigners, first, one.problem)
            for one in self._logs.standing()
        )


def within(report: Report, most: int) -> bytes:
    """Its JSON; lists are halved, the longest first, until it fits, and then named in `absent`."""
    data = msgspec.json.encode(report)
    while len(data) > most:
        longest = max(_LONG, key=lambda name: len(msgspec.json.encode(getattr(report, name))))
        rows = getattr(report, longest)
        if not rows:
            raise Invalid(f"the report has {len(data)} bytes", hint="trustfed evidence report at the cluster itself")
        absent = tuple(dict.fromkeys((*report.absent, longest)))
        report = msgspec.structs.replace(report, **{longest: rows[len(rows) // 2 + 1 :], "absent": absent})
        data = msgspec.json.encode(report)
    return data


def _figures(found: Figures) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            found.trust_domain,
            name,
            {**one.counts, "recreated": found.recreated.get(name, 0)},
            one.headline,
            one.interval[0] if one.interval else None,
            one.interval[1] if one.interval else None,
            one.with_unused_failed,
            one.coverage,
            one.why,
        )
        for name, one in found.classes.items()
    )


def _failure(domain: str, one: Obligation) -> Failure:
    outcome = str(one.outcome) if one.outcome in FAILED else ""
    return Failure(
        domain, str(one.class_), one.spiffe_id, one.instance, one.predecessor, outcome, one.why, one.on_time_ms
    )


def _rotation(domain: str, one: Obligation) -> Rotation:
    at = one.ended_ms or one.reached_ms
    return Rotation(domain, str(one.class_), one.predecessor, one.successor, str(one.outcome), at, one.why)


def _asset(domain: str, one: inventory.Certificate) -> Asset:
    return Asset(
        domain, one.purpose, one.spiffe_id, one.serial, one.sha256, one.issuer, one.algorithm, one.strength, one.quantum_safe,
        one.not_before_ms, one.not_after_ms, one.custodian, one.owner,
    )  # fmt: skip


def _anchors(state: ClusterState, clock: Clock) -> list[Anchor]:
    found = []
    grants = state.imports(clock.now())
    for name, grant in grants.items():
        peer = state.peers.get(name)
        if peer is None:
            continue
        envelope = held_envelope(peer.envelope, name, peer.key)
        digest = hashlib.sha256(envelope.body).hexdigest()
        accepted = f"grant {grant.id}" if grant.exporter_key == peer.key else ""
        found.append(Anchor(state.trust_domain, name, peer.epoch, peer.sequence, digest, accepted))
    return found
