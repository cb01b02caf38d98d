"""X509-SVID verification beyond its vectors: the domain is named first, time is exact, no bytes get past a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import forge
from tests.vectors.forge import DAY, NOW, Draft, authority, key, uri
from tests.vectors.generate import load
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError
from trustfed.spiffe import certificate
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_peer, verify_x509_svid
from trustfed.spiffe.x509svid import X509Svid, check_authority, parse_leaf

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a fault that damage makes
HOME, PEER = TrustDomain(forge.HOME), TrustDomain(forge.PEER)
ID = SpiffeId.parse(f"spiffe://{HOME}/payments/api")
LEAF, AUTHORITY = Draft().der(), authority().der()
BUNDLE = Bundle(HOME, (AUTHORITY,))
THEIRS = authority("theirs", names=[uri(PEER.id)]).der()


def their_leaf(id_: str) -> bytes:
    return Draft(issuer="theirs", signer=key("theirs"), names=[uri(id_)]).der()


@dataclass
class Recorder:
    """A bundle source that remembers which domains it was asked for."""

    bundles: BundleMap
    asked: list[TrustDomain] = field(default_factory=list)

    def bundle(self, trust_domain: TrustDomain) -> Bundle:
        self.asked.append(trust_domain)
        return self.bundles.bundle(trust_domain)


SOURCE = BundleMap({HOME: BUNDLE, PEER: Bundle(PEER, (THEIRS,))})


def test_what_a_verified_svid_says() -> None:
    svid = verify_x509_svid([LEAF], BUNDLE, NOW)
    assert svid == X509Svid(ID, (LEAF,), NOW - DAY, NOW + DAY, svid.serial)
    assert forge.unpem(svid.pem()) == [LEAF]
    assert parse_leaf(LEAF) == svid


def test_a_peer_is_looked_up_in_its_own_domain_only() -> None:
    source = Recorder(SOURCE)
    assert verify_peer([LEAF], source, NOW).id == ID
    assert str(verify_peer([their_leaf(f"spiffe://{PEER}/a")], source, NOW).id) == f"spiffe://{PEER}/a"
    assert source.asked == [HOME, PEER]


def test_one_domains_authority_cannot_name_another_domains_workload() -> None:
    with pytest.raises(Denied, match="no authority of trust domain prod-us-west"):
        verify_peer([their_leaf(str(ID))], SOURCE, NOW)
    with pytest.raises(Denied, match="not of trust domain prod-eu-north"):
        verify_x509_svid([their_leaf(str(ID))], SOURCE.bundle(PEER), NOW)


def test_a_domain_without_a_bundle_is_not_found() -> None:
    with pytest.raises(NotFound, match="nowhere"):
        verify_peer([Draft(names=[uri("spiffe://nowhere/a")]).der()], SOURCE, NOW)


def test_the_expected_peer_and_no_other() -> None:
    assert verify_peer([LEAF], SOURCE, NOW, expected=ID).id == ID
    source = Recorder(SOURCE)
    for other in (f"spiffe://{HOME}/payments", f"spiffe://{HOME}/payments/API", f"spiffe://{PEER}/payments/api"):
        with pytest.raises(Denied, match="the peer must be"):
            verify_peer([LEAF], source, NOW, expected=SpiffeId.parse(other))


@pytest.mark.parametrize(
    ("now", "valid"),
    [
        (NOW - DAY, True),
        (NOW - DAY - timedelta(seconds=1), False),
        (NOW + DAY, True),
        (NOW + DAY + timedelta(microseconds=1), False),
    ],
)
def test_both_ends_of_the_validity_belong_to_it(now: datetime, valid: bool) -> None:
    if valid:
        assert verify_x509_svid([LEAF], BUNDLE, now).id == ID
    else:
        with pytest.raises(Denied, match=r"expired at|not valid before"):
            verify_x509_svid([LEAF], BUNDLE, now)


def test_the_authority_must_be_valid_too_even_if_the_leaf_is() -> None:
    young = authority(not_before=NOW - DAY / 2).der()
    with pytest.raises(Denied, match="named as issuer, is not valid before"):
        verify_x509_svid([LEAF], Bundle(HOME, (young,)), NOW - 3 * DAY / 4)


def test_a_leaf_in_the_bundle_is_no_authority() -> None:
    with pytest.raises(Invalid, match="not a CA"):
        check_authority(LEAF, HOME)
    with pytest.raises(Invalid, match="not a CA"):
        Bundle(HOME, (LEAF,))


def test_an_authority_presented_as_a_leaf_is_no_identity() -> None:
    for chain in ([AUTHORITY], [AUTHORITY, AUTHORITY]):
        with pytest.raises(Invalid, match="no path"):
            verify_x509_svid(chain, BUNDLE, NOW)


def test_the_chain_is_bounded_before_it_is_parsed() -> None:
    with pytest.raises(Invalid, match="a chain of 1000 certificates"):
        verify_peer([b"x"] * 1000, SOURCE, NOW)


def test_a_useless_certificate_behind_the_leaf_changes_nothing() -> None:
    other = authority("unrelated").der()
    assert verify_x509_svid([LEAF, other, AUTHORITY, other], BUNDLE, NOW).chain == (LEAF, other, AUTHORITY, other)
    with pytest.raises(Invalid, match="certificate 2 of the chain: not a DER"):
        verify_x509_svid([LEAF, other, b"x"], BUNDLE, NOW)


def test_presented_authorities_are_not_believed() -> None:
    theirs = Draft(issuer="theirs", signer=key("theirs")).der()
    with pytest.raises(Denied, match="no authority of trust domain"):
        verify_x509_svid([theirs, authority("theirs").der()], BUNDLE, NOW)


def test_no_single_bit_of_a_leaf_can_change() -> None:
    for at in range(len(LEAF)):
        for bit in range(8):
            damaged = bytearray(LEAF)
            damaged[at] ^= 1 << bit
            with pytest.raises(TrustfedError):
                verify_peer([bytes(damaged)], SOURCE, NOW)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    for judge in (
        parse_leaf,
        lambda der: check_authority(der, HOME),
        lambda der: verify_peer([LEAF, der], SOURCE, NOW),
    ):
        with pytest.raises(TrustfedError):
            judge(data)


@given(st.sampled_from([v for v in load("x509svid") if v.files[".pem"]]), st.data())
def test_a_damaged_certificate_is_never_believed(vector: forge.Vector, data: st.DataObject) -> None:
    """One byte changed anywhere in the leaf: a refusal, and no other exception."""
    chain = forge.unpem(vector.files[".pem"])
    damaged = bytearray(chain[0])
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TrustfedError) as refusal:
        verify_peer([bytes(damaged), *chain[1:]], SOURCE, NOW)
    assert refusal.value.message.isprintable()


def test_read_takes_any_buffer_and_no_text() -> None:
    assert certificate.read(memoryview(LEAF), "x").der == LEAF  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="not bytes"):
        certificate.read("text", "x")  # type: ignore[arg-type]
