"""Whatever is ordered, in whatever order: the rules of the federation hold, and a replay sees the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from trustfed.errors import TrustfedError
from trustfed.hub import domains, grants
from trustfed.hub import state as hub_state
from trustfed.hub.events import KINDS, DomainEnrolled, EnvelopeAccepted, HubCreated, IntermediateSigned, codec
from trustfed.hub.state import HubState, apply
from trustfed.journal.table import decode_state, encode_state
from trustfed.spiffe.ids import TrustDomain

NAMES = ("a", "b", "c")
START = datetime(2026, 1, 1, tzinfo=UTC)

_name = st.sampled_from(NAMES)
_order = st.one_of(
    st.tuples(st.just("invite"), _name),
    st.tuples(st.just("enrol"), _name),
    st.tuples(st.just("sign"), _name, st.integers(1, 5)),
    st.tuples(st.just("remove"), _name),
    st.tuples(st.just("offer"), _name, _name, st.integers(1, 30)),
    st.tuples(st.just("end"), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.integers(1, 20)),
)


class _Hub:
    """The pure rules with a clock, and the events they gave."""

    def __init__(self) -> None:
        self.now, self.events, self.count = START, [], 0
        self.state = HubState()
        self._take([HubCreated("i", "hub.example")])

    def order(self, kind: str, *values: object) -> None:
        self.count += 1
        try:
            self._take(getattr(self, f"_{kind}")(*values))
        except TrustfedError:
            return  # a refusal records nothing

    def _take(self, events: list[msgspec.Struct]) -> None:
        for event in events:
            self.events.append(event)
            self.state = apply(self.state, event)

    def _invite(self, name: str) -> list[msgspec.Struct]:
        command = domains.Invite(TrustDomain(name), "team", (), f"hash-{self.count}", self.now + timedelta(days=7))
        return list(domains.invite(self.state, command, self.now))

    def _enrol(self, name: str) -> list[msgspec.Struct]:
        held = self.state.domains.get(name)
        if held is None or domains.invited(self.state, held.token_hash, self.now).status != "invited":
            return []
        enrolled = DomainEnrolled(name, held.token_hash, b"key", "authority", "csr", 1)
        return [enrolled, EnvelopeAccepted(name, 1, held.sequence + 1, b"data")]

    def _sign(self, name: str, days: int) -> list[msgspec.Struct]:
        at = int(self.now.timestamp() * 1000)
        signed = IntermediateSigned(name, "x", "csr", f"{self.count:x}", "root-1", at, at + days * 86_400_000, b"c")
        return list(domains.record_intermediate(self.state, signed, self.now))

    def _remove(self, name: str) -> list[msgspec.Struct]:
        return list(domains.remove(self.state, name, "reason", self.now))

    def _offer(self, importer: str, exporter: str, days: int) -> list[msgspec.Struct]:
        until = self.now + timedelta(days=days)
        command = grants.Offer(f"g{self.count}", TrustDomain(importer), TrustDomain(exporter), until, "reason")
        return list(grants.offer(self.state, command, self.now))

    def _end(self, index: int) -> list[msgspec.Struct]:
        ids = sorted(self.state.grants)
        return list(grants.end(self.state, ids[index % len(ids)], "x", "reason", self.now)) if ids else []

    def _wait(self, days: int) -> list[msgspec.Struct]:
        self.now += timedelta(days=days)
        return list(grants.end_expired(self.state, self.now))


@settings(max_examples=150, deadline=None)
@given(st.lists(_order, max_size=40))
def test_no_order_of_commands_breaks_a_rule(orders: list[tuple[object, ...]]) -> None:
    hub = _Hub()
    for order in orders:
        before = hub.state
        hub.order(*order)  # type: ignore[arg-type]
        state, now = hub.state, int(hub.now.timestamp() * 1000)
        open_ones = [(g.importer, g.exporter) for g in state.grants.values() if g.status != "ended"]
        assert len(open_ones) == len(set(open_ones))  # one open grant per direction
        for grant in state.grants.values():
            sides = {state.domains[side].status for side in (grant.importer, grant.exporter)}
            assert grant.status == "ended" or sides == {"enrolled"}  # nobody trusts who is not in
            assert grant.status == "ended" or grant.until_ms > now or order[0] != "wait"
        for name, domain in state.domains.items():
            old = before.domains.get(name)
            assert old is None or (domain.epoch, domain.sequence) >= (old.epoch, old.sequence)  # never back
            live = [s for s in state.signed_for(name) if s.not_after_ms > now and not s.revoked_ms]
            assert not (domain.status == "removed" and live)
        assert sum(len(serials) for _, serials in state.serials_of.items()) == len(state.intermediates)
        assert state.position == len(hub.events)
    assert decode_state(encode_state(hub.state), HubState) == hub.state


def test_every_kind_of_event_has_a_rule_and_a_journal_form() -> None:
    fallback = hub_state._apply.dispatch(object)
    for kind, declared in KINDS.items():
        assert hub_state._apply.dispatch(declared) is not fallback, kind
    encoded = codec().encode(EnvelopeAccepted("a", 1, 2, b"\x00\xff"))
    assert encoded == ("envelope.accepted", 1, {"data": "AP8=", "domain": "a", "epoch": 1, "sequence": 2})
