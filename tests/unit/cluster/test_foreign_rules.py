"""What a foreign bundle must be to be believed: each rule with the document that breaks it. Key sets count, not bytes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes.clocks import START
from tests.fakes.cluster import Domain, new_key
from trustfed.cluster.foreign import rules
from trustfed.cluster.foreign.rules import FORCEABLE, Fault, Holding, Offer, Refused, Verdict
from trustfed.cluster.state import ForeignPeer
from trustfed.spiffe.bundle import Bundle, JwtAuthority
from trustfed.spiffe.ids import TrustDomain

TDF = TrustDomain("td-f")
DOMAIN = Domain("td-f")
BUNDLE = DOMAIN.bundle()
NONE: dict[str, Holding] = {}


def peer(**fields: Any) -> ForeignPeer:
    """A peer that holds BUNDLE at sequence 5 with hint 60, unless said otherwise."""
    given = {
        "trust_domain": "td-f",
        "profile": "https_web",
        "url": "https://trust.example/",
        "endpoint_id": "",
        "ca": b"",
        "anchors": b"",
        "readers": (),
        "grant": "local-1",
        "added_at": START,
        "sequence": 5,
        "keys": rules.fingerprint(BUNDLE),
        "refresh_hint": 60,
        **fields,
    }
    return ForeignPeer(**given)


def document(**changes: Any) -> bytes:
    found = {**json.loads(BUNDLE.marshal()), **changes}
    return json.dumps({name: value for name, value in found.items() if value is not None}).encode()


def offer(other_keys: bool = False, **changes: Any) -> Offer:
    domain = Domain("td-f") if other_keys else DOMAIN
    found = json.loads(domain.bundle().marshal())
    found.update({"spiffe_sequence": 5, "spiffe_refresh_hint": 60, **changes})
    return rules.read(TDF, json.dumps({k: v for k, v in found.items() if v is not None}).encode())


# Reading: 1 to 3

UNREADABLE = {
    "half json": (document()[:100], Fault.MALFORMED),
    "no json": (b"<html>secret</html>", Fault.MALFORMED),
    "json array": (b"[]", Fault.MALFORMED),
    "no keys": (b"{}", Fault.MALFORMED),
    "member twice": (b'{"keys":[],"keys":[]}', Fault.MALFORMED),
    "key is no object": (b'{"keys":[1]}', Fault.MALFORMED),
    "private key": (document(keys=[{"kty": "EC", "crv": "P-256", "d": "AA"}]), Fault.MALFORMED),
    "sequence as text": (document(spiffe_sequence="5"), Fault.MALFORMED),
    "sequence below 0": (document(spiffe_sequence=-1), Fault.MALFORMED),
    "hint as float": (document(spiffe_refresh_hint=1.5), Fault.MALFORMED),
    "another domain's": (Domain("td-g").bundle().marshal(), Fault.OTHER_DOMAIN),
    "one authority of another domain": (
        document(keys=json.loads(document())["keys"] + json.loads(Domain("td-g").bundle().marshal())["keys"][:1]),
        Fault.OTHER_DOMAIN,
    ),
    "empty": (b'{"keys":[]}', Fault.EMPTY),
    "nothing that we know": (document(keys=[{"kty": "OKP", "use": "jwt-svid", "kid": "k"}]), Fault.EMPTY),
    "keys without use": (document(keys=[{"kty": "EC", "crv": "P-999"}]), Fault.EMPTY),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_what_is_no_bundle_of_this_domain_is_refused(fault: str) -> None:
    body, kind = UNREADABLE[fault]
    with pytest.raises(Refused) as caught:
        rules.read(TDF, body)
    assert caught.value.fault is kind
    assert "secret" not in caught.value.message + caught.value.hint


def test_a_bundle_larger_than_what_can_be_signed_is_refused() -> None:
    many = Bundle(TDF, (), tuple(JwtAuthority(f"k{n}" * 60, new_key().public_key()) for n in range(200)), 1)
    with pytest.raises(Refused) as caught:
        rules.read(TDF, many.marshal())
    assert caught.value.fault is Fault.TOO_LARGE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x5c", "kty", "use"]), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=40) | JSON.map(lambda value: document(keys=[value])) | JSON.map(lambda v: json.dumps(v).encode())
)
def test_whatever_is_served_is_read_or_refused(body: bytes) -> None:
    try:
        rules.read(TDF, body)
    except Refused as refused:
        assert "td-f" in refused.message


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(document()) - 1), st.integers(0, 255))
def test_one_changed_byte_is_read_or_refused(at: int, byte: int) -> None:
    body = bytearray(document())
    body[at] = byte
    with contextlib.suppress(Refused):
        rules.read(TDF, bytes(body))


def test_key_sets_are_compared_not_bytes() -> None:
    found = json.loads(BUNDLE.marshal())
    shuffled = {"spiffe_refresh_hint": 60, "keys": list(reversed(found["keys"])) + found["keys"][:1], "more": [1]}
    spaced = rules.read(TDF, json.dumps(shuffled, indent=4).encode())
    assert spaced.keys == rules.fingerprint(BUNDLE)
    assert rules.rewritten(spaced.bundle, 7) == rules.rewritten(BUNDLE, 7)
    renamed = Bundle(TDF, BUNDLE.x509_authorities, (JwtAuthority("other", DOMAIN.jwt_key.public_key()),))
    as_wit = Bundle(TDF, BUNDLE.x509_authorities, (), wit_authorities=BUNDLE.jwt_authorities)
    assert len({rules.fingerprint(b) for b in (BUNDLE, renamed, as_wit, Domain("td-f").bundle())}) == 4


def test_hints_are_bounded() -> None:
    for said, kept in ((None, 300), (0, 300), (1, 1), (60, 60), (86_400, 3600)):
        assert rules.bounded_hint(offer(spiffe_refresh_hint=said).bundle) == kept


# Judging: 4, 5


@pytest.mark.parametrize("other", ["td-a", "the federation's root"])
def test_a_key_of_this_domain_or_the_root_is_refused_even_when_forced(other: str) -> None:
    shared = {other: Holding(rules.keys_of(BUNDLE), peer=False)}
    for forced in (False, True):
        with pytest.raises(Refused, match=other) as caught:
            rules.judge(peer(keys=""), offer(), shared, forced=forced)
        assert caught.value.fault is Fault.SHARED_KEY and not caught.value.forceable
    assert rules.judge(peer(keys=""), offer(), {"td-f": Holding(rules.keys_of(BUNDLE))}) is Verdict.NEW


def test_who_held_a_key_first_keeps_it_and_an_operator_passes_over_a_copy_at_another_peer() -> None:
    copied = {"evil": Holding(rules.keys_of(BUNDLE))}
    held = rules.keys_of(BUNDLE)
    assert rules.judge(peer(), offer(), copied, held) is Verdict.SAME  # its own keys, unchanged
    with pytest.raises(Refused, match="evil holds") as caught:
        rules.judge(peer(), offer(), copied)  # a new one of it, which the other published first
    assert caught.value.forceable
    assert "trustfed peer remove evil" in caught.value.hint and "trustfed peer accept td-f" in caught.value.hint
    assert rules.judge(peer(), offer(), copied, forced=True) is Verdict.SAME


def test_a_key_counts_as_shared_whatever_it_is_for() -> None:
    stolen = Bundle(TDF, BUNDLE.x509_authorities, (JwtAuthority("j", DOMAIN.authorities[0].key.public_key()),))
    held = {"td-g": Holding(rules.keys_of(Bundle(TDF, BUNDLE.x509_authorities)))}
    only_token = Bundle(TDF, (), stolen.jwt_authorities)
    with pytest.raises(Refused):
        rules.judge(peer(keys=""), rules.read(TDF, only_token.marshal()), held)


def test_an_endpoint_that_serves_its_own_domain_needs_an_x509_authority() -> None:
    tokens_only = rules.read(TDF, Bundle(TDF, (), BUNDLE.jwt_authorities, 6).marshal())
    with pytest.raises(Refused) as caught:
        rules.judge(peer(profile="https_spiffe", endpoint_id="spiffe://td-f/server"), tokens_only, NONE, forced=True)
    assert caught.value.fault is Fault.NO_X509
    assert rules.judge(peer(profile="https_spiffe", endpoint_id="spiffe://td-g/server"), tokens_only, NONE)


# Judging: 6

CONTINUES = {
    "the first": (peer(keys="", sequence=None), offer(True), Verdict.NEW),
    "the first, without a sequence": (peer(keys="", sequence=None), offer(True, spiffe_sequence=None), Verdict.NEW),
    "the same": (peer(), offer(), Verdict.SAME),
    "another hint at the same sequence": (peer(), offer(spiffe_refresh_hint=90), Verdict.NEW),
    "a hint that was left out": (peer(refresh_hint=300), offer(spiffe_refresh_hint=None), Verdict.SAME),
    "a higher sequence": (peer(), offer(True, spiffe_sequence=6), Verdict.NEW),
    "only a higher sequence": (peer(), offer(spiffe_sequence=6), Verdict.NUMBER),
    "the sequence left out, same keys": (peer(), offer(spiffe_sequence=None), Verdict.SAME),
    "never a sequence, same keys": (peer(sequence=None), offer(spiffe_sequence=None), Verdict.SAME),
    "never a sequence, other keys": (peer(sequence=None), offer(True, spiffe_sequence=None), Verdict.NEW),
    "the first sequence": (peer(sequence=None), offer(), Verdict.NUMBER),
    "the first sequence, other keys": (peer(sequence=None), offer(True, spiffe_sequence=1), Verdict.NEW),
}


@pytest.mark.parametrize("case", CONTINUES)
def test_a_bundle_that_continues_what_is_held(case: str) -> None:
    held, offered, verdict = CONTINUES[case]
    assert rules.judge(held, offered, NONE) is verdict


BREAKS = {
    "an older sequence": (offer(True, spiffe_sequence=4), Fault.OLDER),
    "an older sequence, same keys": (offer(spiffe_sequence=4), Fault.OLDER),
    "sequence 0 after a restart": (offer(True, spiffe_sequence=0), Fault.OLDER),
    "other keys at the same sequence": (offer(True), Fault.FORK),
    "other keys, sequence left out": (offer(True, spiffe_sequence=None), Fault.SEQUENCE_LOST),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_bundle_that_breaks_off_is_refused_until_an_operator_accepts_it(case: str) -> None:
    offered, fault = BREAKS[case]
    with pytest.raises(Refused) as caught:
        rules.judge(peer(), offered, NONE)
    assert caught.value.fault is fault and fault in FORCEABLE
    assert "peer accept" in caught.value.hint
    assert rules.judge(peer(), offered, NONE, forced=True) in (Verdict.NEW, Verdict.NUMBER)


def test_a_sequence_that_was_left_out_once_is_not_forgotten() -> None:
    assert rules.number_after(peer(), offer(spiffe_sequence=None), forced=False) == 5
    assert rules.number_after(peer(), offer(True, spiffe_sequence=None), forced=True) is None
    assert rules.number_after(peer(), offer(True, spiffe_sequence=2), forced=True) == 2
    assert rules.number_after(replace(peer(), sequence=None), offer(spiffe_sequence=None), forced=False) is None
