"""A report of the whole fleet: for each trust domain what its cluster says, or else what the hub holds of it.

1. every domain is asked at once, and has two seconds (trustfed.hub.evidence.questions); the more there are, the shorter each
   answer may be, so that all of them together stay below `MAX_BYTES`
2. an answer counts if it is a report of that domain and window, of no other domain, as short as was asked, with numbers that
   are some, and rates that its own counts say; what the hub as a witness found wrong with its logs stands beside it
3. who does not answer is reported by what the hub holds, and says since when it was not heard; nobody is left out
4. the hub's own domain is reported from its own journal and ledger
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from cryptography import x509

from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.evidence.compliance.data import (
    Access,
    Asset,
    Endpoint,
    Figure,
    FleetReport,
    Heard,
    Proof,
    Report,
    Rotation,
    Uptime,
)
from trustfed.evidence.compliance.decisions import Decisions
from trustfed.evidence.figures import Figures, Window
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.held_report import held_report, problem_of
from trustfed.hub.evidence.numbers import bounded
from trustfed.hub.evidence.own_log import OwnLog
from trustfed.hub.evidence.questions import Questions
from trustfed.hub.state import HubState
from trustfed.journal.merkle.checkpoint import origin_of
from trustfed.journal.merkle.note import parse_note
from trustfed.journal.merkle.witness_files import WitnessFiles
from trustfed.journal.ports import MAX_READ, Journal
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import SOFTWARE
from trustfed.spiffe.certificate import serial_text

MAX_BYTES, MAX_EACH, LEAST_EACH = 24 << 20, 900 << 10, 16 << 10
MAX_FAILURES = 10_000
_TLS = ("TLS 1.2, TLS 1.3", "AEAD suites of OpenSSL's default list")
_PLACES = {
    "grpc": ("gRPC, mutual TLS", "clusters: envelopes, routes, evidence"),
    "https": ("HTTPS", "API, dashboard, publication"),
    "web": ("HTTPS, Web PKI", "API, dashboard, publication"),
    "admin_socket": ("HTTP over a Unix socket", "administrators"),
}


class FleetReporting:
    """`await report(window, who, domains)`: everything as of now."""

    def __init__(
        self,
        state: Callable[[], HubState],
        fleet: Fleet,
        questions: Questions,
        own_log: OwnLog,
        witnessed: WitnessFiles,
        journal: Journal,
        addresses: Mapping[str, str],
        custodian: str,
    ) -> None:
        self._state, self._fleet, self._questions, self._own_log = state, fleet, questions, own_log
        self._witnessed, self._journal, self._addresses = witnessed, journal, addresses
        self._custodian = custodian

    async def report(self, window: Window, ran_by: str, domains: Sequence[str] = ()) -> FleetReport:
        """The report of these domains, or of all. Raises NotFound for an unknown one, Invalid for no window."""
        fleet, own = self._fleet, self._state().trust_domain
        window = window.within(fleet.now_ms)
        if window.from_ms >= window.to_ms:
            raise Invalid("the window has not begun", hint="--from must be earlier than now, by 5 minutes")
        names = list(dict.fromkeys(domains)) or fleet.names
        for name in names:
            fleet.held(name)
        others = [name for name in names if name != own]
        said, missed = await self._asked(window, ran_by, others)
        most = max(MAX_FAILURES // len(names), 20)
        if own in names:
            try:
                said[own] = await self._own(window, ran_by, own, most)
            except Unavailable as error:  # it catches up with its ledger
                missed[own] = error.message
        heard, reports = [], []
        for name in names:
            answered, age = name in said, fleet.age(name)
            report = said[name] if answered else await self._held(window, ran_by, name, most)
            owner = fleet.held(name).owner
            heard.append(Heard(name, owner, age.state, age.as_of_ms, answered, missed.get(name, "")[:300]))
            reports.append(report)
        return FleetReport(
            own, window.from_ms, window.to_ms, fleet.now_ms, ran_by, SOFTWARE, tuple(heard), tuple(reports)
        )

    async def _asked(
        self, window: Window, ran_by: str, names: Sequence[str]
    ) -> tuple[dict[str, Report], dict[str, str]]:
        if not names:
            return {}, {}
        most = max(min(MAX_BYTES // len(names), MAX_EACH), LEAST_EACH)
        body = {"from_ms": window.from_ms, "to_ms": window.to_ms, "ran_by": ran_by[:100], "bytes": most}
        found = await self._questions.ask_all("report", body, len(names), names)
        said, missed = {}, {one.trust_domain: one.why for one in found.missed}
        for one in found.answers:
            try:
                report = _read(one.trust_domain, window, one.json, most)
            except (TrustfedError, msgspec.ValidationError, RecursionError) as error:
                missed[one.trust_domain] = f"its answer is no report: {error}"
                continue
            simulated = self._fleet.held(one.trust_domain).simulated
            problem = problem_of(self._fleet, one.trust_domain)
            proofs = tuple(msgspec.structs.replace(it, problem=problem or it.problem) for it in report.proofs)
            said[one.trust_domain] = msgspec.structs.replace(report, simulated=simulated, proofs=proofs)
        for name in names:  # an answer of nothing is none
            if name not in said:
                missed.setdefault(name, "its cluster is older, and makes no reports")
        return said, missed

    async def _held(self, window: Window, ran_by: str, name: str, most: int) -> Report:
        witnessed = await self._witnessed.load(origin_of(name, "journal"))
        return held_report(self._state(), self._fleet, name, window, ran_by, witnessed, most)

    async def _own(self, window: Window, ran_by: str, name: str, most: int) -> Report:
        state, now = self._state(), self._fleet.now_ms
        answered = await self._questions.ask(name, "figures", {"from_ms": window.from_ms, "to_ms": window.to_ms})
        found = msgspec.convert(answered.json["figures"], Figures)
        decisions = Decisions(name, window.from_ms, window.to_ms)
        position = 0
        while records := await self._journal.read(position, MAX_READ):
            decisions.take(records)
            position = records[-1].position
        base = held_report(state, self._fleet, name, window, ran_by, None, most)
        return msgspec.structs.replace(
            base,
            source=f"hub of {name}: its journal and its ledger",
            parameters={"keep": "all", "trimmed": "no"},
            rows={"events": decisions.read, "rotations": len(found.few)},
            rotations=tuple(
                Rotation(
                    name, it.class_, it.predecessor, it.successor, it.outcome, it.ended_ms or it.reached_ms, it.why
                )
                for it in found.few
            ),
            assets=(*(self._root(name, root.key_name, root.certificate, root.status) for root in state.roots),),
            changes=decisions.end(),
            accesses=tuple(
                Access(one.name, one.role, "API token", one.expires_ms)
                for one in state.tokens.values()
                if not one.revoked and one.expires_ms > now
            ),
            endpoints=tuple(self._doors()),
            uptimes=tuple(Uptime(name, probe, of.up_share, of.unknown_ms) for probe, of in found.availability.items()),
            proofs=self._proofs(state),
            absent=(),
        )

    def _root(self, name: str, key_name: str, der: bytes, status: str) -> Asset:
        certificate = x509.load_der_x509_certificate(der)
        begin, end = to_ms(certificate.not_valid_before_utc), to_ms(certificate.not_valid_after_utc)
        serial, issuer = serial_text(certificate.serial_number), certificate.issuer.rfc4514_string()
        return Asset(
            name, "root", key_name, serial, "", issuer, "ec-p256", 128, False, begin, end, self._custodian, "the hub", status
        )  # fmt: skip

    def _doors(self) -> list[Endpoint]:
        return [
            Endpoint(self._addresses[door], protocol, *(("none", "") if "Unix" in protocol else _TLS), purpose)
            for door, (protocol, purpose) in _PLACES.items()
            if door in self._addresses
        ]

    def _proofs(self, state: HubState) -> tuple[Proof, ...]:
        note = self._own_log.note
        if note is None:
            return ()
        signed = [one.name for one in parse_note(note.data).signatures]
        cosigned = tuple(name for name in signed if name != self._own_log.origin)
        refused = [
            one.what.says
            for one in self._fleet.alarms("")
            if one.what.code == "log_inconsistent" and not one.trust_domain
        ]
        checkpoint, problem = note.checkpoint, refused[0] if refused else ""
        root = base64.b64encode(checkpoint.root).decode()
        found = [Proof(checkpoint.origin, checkpoint.size, root, self._own_log.cut_ms, cosigned, 0, problem)]
        for last in state.evidence.checkpoints[-1:]:
            found.append(Proof(last.origin, last.size, last.root, self._own_log.cut_ms, cosigned, 0, problem))
        return tuple(found)


def _read(domain: str, window: Window, said: Any, most: int) -> Report:
    """A cluster's word, for itself alone. Raises Invalid or ValidationError, RecursionError for one that is nested for ever."""
    if not bounded(said):
        raise Invalid("it has a number that is none")
    if len(msgspec.json.encode(said)) > most:
        raise Invalid(f"it has more than the {most} bytes that were asked for")
    report = msgspec.convert(said, Report)
    if report.scope != (domain,) or (report.from_ms, report.to_ms) != (window.from_ms, window.to_ms):
        raise Invalid("it is of another trust domain, or of another window")
    for name in report.__struct_fields__:
        for row in getattr(report, name) if isinstance(getattr(report, name), tuple) else ():
            if getattr(row, "importer", getattr(row, "trust_domain", domain)) != domain:
                raise Invalid(f"its {name} are of another trust domain")
    for figure in report.figures:
        if min(figure.counts.values(), default=0) < 0 or not _follows(figure):
            raise Invalid(f"its rate of {figure.class_[:40]} is not what its counts say")
    for proof in report.proofs:
        if proof.origin not in (origin_of(domain, "journal"), origin_of(domain, "ledger")):
            raise Invalid("its proofs are of another trust domain")
    return report


def _follows(figure: Figure) -> bool:
    counts, headline = figure.counts, figure.headline
    base = counts.get("due", 0) - sum(counts.get(name, 0) for name in ("excused", "superseded", "unused"))
    return headline is None or (base > 0 and abs(headline - counts.get("on_time", 0) / base) <= 1e-6)
