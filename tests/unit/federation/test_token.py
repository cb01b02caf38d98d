"""The enrolment string: every cut and every altered character is refused, and nothing ever quotes the secret."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from trustfed.errors import Invalid
from trustfed.federation import names
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.token import EnrolmentToken, secret_hash
from trustfed.spiffe.ids import TrustDomain

HUB = TrustDomain("hub.example")
SECRET = bytes(range(100, 132))
TOKEN = EnrolmentToken(
    kind="cluster",
    address="https://hub.example:8443",
    name=HUB,
    server_id=names.hub_id(HUB),
    newcomer="west",
    root_version=3,
    root_hash="sha256:" + "ab" * 32,
    secret=SECRET,
    expires_at=datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC),
)


def forge(change: dict[str, object], *, drop: str = "") -> str:
    """A token whose check digits hold, with other content."""
    encoded = TOKEN.encode().rpartition("-1-")[2]
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    document = {**json.loads(raw[2:-6]), **change}
    document.pop(drop, None)
    body = json.dumps(document).encode()
    head = (2 + len(body) + 6).to_bytes(2, "big") + body
    check = hashlib.sha256(b"trustfed enrolment token" + head).digest()[:6]
    return "trustfed-cluster-1-" + base64.urlsafe_b64encode(head + check).decode().rstrip("=")


def test_round_trip() -> None:
    text = TOKEN.encode()
    assert text.startswith("trustfed-cluster-1-") and text.isascii() and not text.split()[1:]
    assert EnrolmentToken.decode(f"  {text}\r\n", "cluster") == TOKEN
    assert (TOKEN.host, TOKEN.port) == ("hub.example", 8443)
    node = replace(TOKEN, kind="node", newcomer="node-1", address="https://[::1]")
    assert EnrolmentToken.decode(node.encode(), "node") == node
    assert (node.host, node.port) == ("::1", 443)
    pinned = PublicationKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    node = replace(node, publication_key=base64.b64encode(pinned.spki).decode())
    assert EnrolmentToken.decode(node.encode(), "node").pinned() == pinned


@pytest.mark.parametrize("key", ["AAAA", "no base64", "é"])
def test_a_publication_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(Invalid, match="publication_key"):
        replace(TOKEN, publication_key=key)
    with pytest.raises(Invalid, match="publication_key"):
        TOKEN.pinned()


def test_cut_at_every_character() -> None:
    text = TOKEN.encode()
    for length in range(len(text)):
        with pytest.raises(Invalid) as refusal:
            EnrolmentToken.decode(text[:length], "cluster")
        if length:
            assert "cut short" in str(refusal.value), length


def test_every_altered_character() -> None:
    text = TOKEN.encode()
    for index, character in enumerate(text):
        with pytest.raises(Invalid) as refusal:
            EnrolmentToken.decode(text[:index] + ("A" if character != "A" else "B") + text[index + 1 :], "cluster")
        assert text[20:40] not in str(refusal.value)


@pytest.mark.parametrize("tail", ["A", "AAAA", "=", " x", "\nA"])
def test_appended(tail: str) -> None:
    with pytest.raises(Invalid):
        EnrolmentToken.decode(TOKEN.encode() + tail, "cluster")


def test_the_other_kind_is_named() -> None:
    with pytest.raises(Invalid, match="enrols a cluster, but a token for a node"):
        EnrolmentToken.decode(TOKEN.encode(), "node")


def test_unknown_version_and_strangers() -> None:
    with pytest.raises(Invalid, match="does not know"):
        EnrolmentToken.decode("trustfed-cluster-2-AAAA", "cluster")
    for text in ("", "hello", "trustfed", "@file", "A" * 9000, "\x00", "trustfed-cluster-1-é"):
        with pytest.raises(Invalid):
            EnrolmentToken.decode(text, "cluster")


@pytest.mark.parametrize(
    "change",
    [
        {"address": "http://hub.example"},
        {"address": "https://user@hub.example"},
        {"address": "https://hub.example/path"},
        {"address": "https://hub.example:0"},
        {"address": "https://hub.example:99999"},
        {"address": "https://hub.example\n"},
        {"address": 7},
        {"name": "other"},
        {"name": "UPPER"},
        {"server_id": "spiffe://other/trustfed/hub"},
        {"server_id": "https://hub.example"},
        {"newcomer": "spiffe://west"},
        {"newcomer": "../west"},
        {"newcomer": ""},
        {"newcomer": 5},
        {"root_version": 0},
        {"root_version": True},
        {"root_version": 1.0},
        {"root_version": "1"},
        {"root_hash": "sha256:" + "AB" * 32},
        {"root_hash": "md5:00"},
        {"secret": ""},
        {"secret": base64.urlsafe_b64encode(b"x" * 31).decode()},
        {"secret": 5},
        {"expires_at": 10**18},
        {"expires_at": -(10**18)},
        {"expires_at": "2026"},
        {"more": 1},
    ],
)
def test_content_out_of_bounds(change: dict[str, object]) -> None:
    with pytest.raises(Invalid, match="enrolment token is not usable"):
        EnrolmentToken.decode(forge(change), "cluster")


@pytest.mark.parametrize(
    "member", ["address", "name", "server_id", "newcomer", "root_hash", "secret", "expires_at", "publication_key"]
)
def test_missing_member(member: str) -> None:
    with pytest.raises(Invalid, match="exactly the members"):
        EnrolmentToken.decode(forge({}, drop=member), "cluster")


def test_the_forger_of_this_test_makes_good_tokens() -> None:
    assert EnrolmentToken.decode(forge({}), "cluster") == TOKEN


def test_secret_is_stored_as_a_hash_and_never_shown() -> None:
    assert TOKEN.secret_hash() == secret_hash(SECRET) == "sha256:" + hashlib.sha256(SECRET).hexdigest()
    assert "secret=" not in repr(TOKEN) and SECRET.decode("latin-1")[:8] not in repr(TOKEN)
    with pytest.raises(Invalid) as refusal:
        replace(TOKEN, secret=b"too short to be one")
    assert "too short" not in str(refusal.value)


def test_times_without_zone_or_with_fractions() -> None:
    for moment in (datetime(2026, 1, 1), datetime(2026, 1, 1, 0, 0, 0, 5, UTC)):  # noqa: DTZ001
        with pytest.raises(Invalid, match="expires_at"):
            replace(TOKEN, expires_at=moment)
