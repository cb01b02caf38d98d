"""Bundles and bundle maps beyond their vectors: round trips, bounds, and that nothing is ever merged."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import forge
from tests.vectors.generate import load
from trustfed.errors import Invalid, NotFound, TrustfedError
from trustfed.spiffe.bundle import MAX_BUNDLE, MAX_SEQUENCE, Bundle, BundleMap, JwtAuthority
from trustfed.spiffe.ids import TrustDomain

HOME, PEER = TrustDomain(forge.HOME), TrustDomain(forge.PEER)
AUTHORITIES = [forge.authority(name).der() for name in ("one", "two", "three")]
CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]
PUBLIC = [forge.key("a", curve).public_key() for curve in CURVES] + [forge.rsa_key("a", 2048), forge.rsa_key("b", 4096)]
TOKENS = st.dictionaries(st.text("abc-_=/é", min_size=1, max_size=5), st.sampled_from(PUBLIC), max_size=6)


@st.composite
def bundles(draw: Callable[[st.SearchStrategy[object]], object]) -> Bundle:
    x509_authorities = draw(st.lists(st.sampled_from(AUTHORITIES), max_size=3))
    tokens = [JwtAuthority(kid, key) for kid, key in draw(TOKENS).items()]  # type: ignore[attr-defined]
    at = draw(st.integers(0, len(tokens)))
    sequence = draw(st.none() | st.integers(0, MAX_SEQUENCE))
    hint = draw(st.none() | st.integers(1, 86400))
    return Bundle(HOME, tuple(x509_authorities), tuple(tokens[:at]), sequence, hint, tuple(tokens[at:]))  # type: ignore[arg-type,misc]


@given(bundles())
def test_what_is_marshalled_parses_back(bundle: Bundle) -> None:
    data = bundle.marshal()
    assert Bundle.parse(HOME, data) == bundle
    assert Bundle.parse(HOME, data).marshal() == data
    whole = BundleMap({HOME: bundle})
    assert BundleMap.parse(whole.marshal()).bundle(HOME).x509_authorities == bundle.x509_authorities


@given(st.binary())
def test_any_bytes_are_a_bundle_or_a_refusal(data: bytes) -> None:
    for parse in (lambda: Bundle.parse(HOME, data), lambda: BundleMap.parse(data)):
        with pytest.raises(TrustfedError):
            parse()


@given(st.sampled_from(load("bundle")), st.data())
def test_a_damaged_bundle_is_read_or_refused(vector: forge.Vector, data: st.DataObject) -> None:
    damaged = bytearray(vector.files[".json"] or b"{}")
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for parse in (lambda: Bundle.parse(HOME, bytes(damaged)), lambda: BundleMap.parse(bytes(damaged))):
        try:
            parse()
        except TrustfedError as refusal:
            assert refusal.message.isprintable()


def test_a_document_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(Invalid, match="more than the 1048576 allowed"):
        Bundle.parse(HOME, b" " * (MAX_BUNDLE + 1))


def test_the_second_certificate_of_an_entry_is_not_believed() -> None:
    vector = next(vector for vector in load("bundle") if vector.name == "x5c-two-certificates")
    bundle = Bundle.parse(HOME, vector.files[".json"])
    assert bundle.x509_authorities == (forge.authority().der(),)


@pytest.mark.parametrize(
    "name", [v.name for v in load("bundle") if v.name.startswith("ignored-") and "x5c" not in v.name]
)
def test_what_is_unknown_is_ignored(name: str) -> None:
    vector = next(vector for vector in load("bundle") if vector.name == name)
    bundle = Bundle.parse(HOME, vector.files[".json"])
    assert [authority.key_id for authority in bundle.jwt_authorities] == ["one"]
    assert bundle.wit_authorities == () == bundle.x509_authorities


def test_an_entry_without_a_certificate_gives_no_authority() -> None:
    for vector in load("bundle"):
        if vector.name in {"ignored-no-x5c", "ignored-empty-x5c", "empty"}:
            assert Bundle.parse(HOME, vector.files[".json"]).x509_authorities == ()


def test_wit_authorities_never_verify_jwt_svids() -> None:
    bundle = Bundle(HOME, (), (), wit_authorities=(JwtAuthority("w", PUBLIC[0]),))
    assert bundle.jwt_authority("w") is None


def test_marshal_is_one_certificate_per_entry_and_has_no_kid_on_x509() -> None:
    document = json.loads(Bundle(HOME, tuple(AUTHORITIES), (JwtAuthority("k", PUBLIC[0]),), 3, 60).marshal())
    x509_entries = [entry for entry in document["keys"] if entry["use"] == "x509-svid"]
    assert [len(entry["x5c"]) for entry in x509_entries] == [1, 1, 1]
    assert all("kid" not in entry for entry in x509_entries)
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (3, 60)


def test_pem_is_what_other_software_reads() -> None:
    read = x509.load_pem_x509_certificates(Bundle(HOME, tuple(AUTHORITIES)).x509_pem())
    assert len(read) == 3
    assert Bundle(HOME).x509_pem() == b""


def test_a_map_keeps_domains_apart() -> None:
    home, peer = Bundle(HOME, (), (JwtAuthority("k", PUBLIC[0]),)), Bundle(PEER, (), (JwtAuthority("k", PUBLIC[1]),))
    whole = BundleMap.parse(BundleMap({HOME: home, PEER: peer}).marshal())
    assert whole.bundle(HOME) == home
    assert whole.bundle(PEER) == peer
    with pytest.raises(NotFound, match="no bundle of trust domain elsewhere"):
        whole.bundle(TrustDomain("elsewhere"))
    with pytest.raises(Invalid, match="stands under the name"):
        BundleMap({HOME: peer})


def test_a_map_leaves_refresh_hints_out() -> None:
    assert b"refresh_hint" not in BundleMap({HOME: Bundle(HOME, refresh_hint=60)}).marshal()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bundle(HOME, sequence=True),
        lambda: Bundle(HOME, sequence=-1),
        lambda: Bundle(HOME, refresh_hint=0),
        lambda: Bundle(HOME, (b"hello",)),
        lambda: Bundle(PEER, (AUTHORITIES[0],)),
        lambda: Bundle(HOME, (), (JwtAuthority("k", PUBLIC[0]), JwtAuthority("k", PUBLIC[1]))),
        lambda: JwtAuthority("", PUBLIC[0]),
        lambda: JwtAuthority("k", forge.rsa_key("weak", 1024)),
        lambda: JwtAuthority("k", forge.key("k1", ec.SECP256K1()).public_key()),
    ],
)
def test_no_constructor_goes_round_the_rules(make: Callable[[], object]) -> None:
    with pytest.raises(Invalid):
        make()
