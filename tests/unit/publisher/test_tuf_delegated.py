"""A domain's own role: python-tuf reads what is written here, and every other spelling is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import SPECIFICATION_VERSION, DelegatedRole, Delegations, Metadata, Targets

from bundle_publisher.tuf import delegated
from bundle_publisher.tuf.metadata import parse, tuf_key
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation import cluster_document
from trustfed.federation.cluster_document import ClusterDocument
from trustfed.federation.envelope import PublicationKey
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import TrustDomain

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DOMAIN = TrustDomain("prod-us_west.example")
PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = PublicationKey.of(PRIVATE.public_key())
FILES = (b"the envelope", b"the document")


def signature(payload: bytes) -> bytes:
    return PRIVATE.sign(payload, ec.ECDSA(hashes.SHA256()))


def role(version: int = 7) -> delegated.Role:
    payload = delegated.payload_to_sign(DOMAIN, version, NOW, *FILES)
    return delegated.assemble(DOMAIN, version, NOW, *FILES, signature(payload), KEY)


def test_a_role_lists_the_manifests_of_a_mesh_too() -> None:
    """python-tuf finds them, and a role is no other role's: with and without them it is another signature."""
    mesh = b"# the manifests"
    listed = delegated.Listed.of(mesh)
    payload = delegated.payload_to_sign(DOMAIN, 8, NOW, *FILES, listed)
    made = delegated.assemble(DOMAIN, 8, NOW, *FILES, signature(payload), KEY, listed)
    found = parse(made.data, Targets, "the role").signed.targets
    assert list(found) == sorted(delegated.target_paths(DOMAIN))
    found["mesh/" + DOMAIN.name].verify_length_and_hashes(mesh)
    assert made.files[2] == f"mesh/{listed.sha256}.{DOMAIN.name}"
    delegated.check_lists(made, *FILES, mesh)
    for other in (None, b"# others"):
        with pytest.raises(Denied, match="manifests"):
            delegated.check_lists(made, *FILES, other)
    with pytest.raises(Denied, match="manifests"):
        delegated.check_lists(role(), *FILES, mesh)
    with pytest.raises(Denied, match="did not make"):
        delegated.assemble(DOMAIN, 8, NOW, *FILES, signature(payload), KEY)


def test_python_tuf_reads_the_role_and_verifies_it() -> None:
    made = role()
    metadata = parse(made.data, Targets, "the role")
    paths = list(delegated.target_paths(DOMAIN))
    delegator = Delegations(
        {tuf_key(KEY).keyid: tuf_key(KEY)},
        {DOMAIN.name: DelegatedRole(DOMAIN.name, [tuf_key(KEY).keyid], 1, True, paths=paths)},
    )
    Targets(delegations=delegator).verify_delegate(DOMAIN.name, metadata.signed_bytes, metadata.signatures)
    assert set(metadata.signed.targets) == set(paths[:2])
    for path, data in zip(paths[:2], FILES, strict=True):
        metadata.signed.targets[path].verify_length_and_hashes(data)
    assert (metadata.signed.version, metadata.signed.expires) == (7, made.expires)
    assert Metadata.from_bytes(made.data).to_bytes() == made.data
    assert delegated.key_id(KEY) == tuf_key(KEY).keyid
    assert ".".join(SPECIFICATION_VERSION) == delegated.SPEC_VERSION


def test_when_it_was_signed_can_be_read_off() -> None:
    assert role().signed_at == NOW


def _signed_anew(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(role().data)
    change(document["signed"])
    document["signatures"][0]["sig"] = signature(strict_json.write(document["signed"])).hex()
    return strict_json.write(document)


def _document(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(role().data)
    change(document)
    return strict_json.write(document)


def _more_targets(signed: dict[str, Any]) -> None:
    signed["targets"]["envelopes/another"] = next(iter(signed["targets"].values()))


def _another_target(signed: dict[str, Any]) -> None:
    signed["targets"]["envelopes/another"] = signed["targets"].pop("envelopes/" + DOMAIN.name)


def _delegating(signed: dict[str, Any]) -> None:
    signed["delegations"] = {"keys": {}, "roles": []}


def _of_each(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def changed(signed: dict[str, Any]) -> None:
        for target in signed["targets"].values():
            change(target)

    return changed


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", Invalid, "not JSON"),
        (b"x" * 5000, Invalid, "more than"),
        (b"{" * 2000, Invalid, "nested|not JSON"),
        (_document(lambda d: d.update(more=1)), Invalid, "exactly the members"),
        (_document(lambda d: d.update(signatures=d["signatures"] * 2)), Invalid, "exactly one signature"),
        (_document(lambda d: d.update(signatures=[])), Invalid, "exactly one signature"),
        (_document(lambda d: d["signatures"][0].update(keyid="0" * 64)), Denied, "not by the publication key"),
        (_document(lambda d: d["signatures"][0].update(sig="zz")), Invalid, "hexadecimal"),
        (_document(lambda d: d["signatures"][0].update(sig=d["signatures"][0]["sig"].upper())), Invalid, "lower-case"),
        (_document(lambda d: d["signatures"][0].update(sig="30")), Denied, "did not make"),
        (_document(lambda d: d["signed"].update(version=8)), Denied, "did not make"),
        (_signed_anew(lambda s: s.update(version=0)), Invalid, "version"),
        (_signed_anew(lambda s: s.update(version=True)), Invalid, "version"),
        (_signed_anew(lambda s: s.update(version=2**53)), Invalid, "version"),
        (_signed_anew(lambda s: s.update(expires="tomorrow")), Invalid, "expiry"),
        (_signed_anew(lambda s: s.update(expires="2026-7-1T12:00:00Z")), Invalid, "another form"),
        (_signed_anew(lambda s: s.update(expires="1970-07-01T12:00:00Z")), Invalid, "century"),
        (_signed_anew(lambda s: s.update(_type="root")), Invalid, "another form"),
        (_signed_anew(lambda s: s.update(spec_version="2.0.0")), Invalid, "another form"),
        (_signed_anew(_delegating), Invalid, "another form"),
        (_signed_anew(_more_targets), Invalid, "must list exactly"),
        (_signed_anew(_another_target), Invalid, "must list exactly"),
        (_signed_anew(_of_each(lambda t: t.update(length=2**40))), Invalid, "length"),
        (_signed_anew(_of_each(lambda t: t.update(length=0))), Invalid, "length"),
        (_signed_anew(_of_each(lambda t: t.update(hashes={"md5": "00"}))), Invalid, "SHA-256"),
        (_signed_anew(_of_each(lambda t: t["hashes"].update(md5="00"))), Invalid, "another form"),
        (_signed_anew(_of_each(lambda t: t.update(custom={}))), Invalid, "another form"),
    ],
)
def test_another_form_is_refused(data: bytes, kind: type[TrustfedError], message: str) -> None:
    with pytest.raises(kind, match=message):
        delegated.open_role(data, DOMAIN, KEY)


def test_a_role_is_of_one_domain() -> None:
    with pytest.raises(Invalid, match="must list exactly"):
        delegated.open_role(role().data, TrustDomain("other"), KEY)


def test_other_files_than_the_listed_are_refused() -> None:
    with pytest.raises(Denied, match="another envelope"):
        delegated.check_lists(role(), b"the envelopE", FILES[1])
    with pytest.raises(Denied, match="another cluster document"):
        delegated.check_lists(role(), FILES[0], FILES[1] + b" ")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_junk_gives_one_of_our_errors(data: bytes) -> None:
    with pytest.raises(TrustfedError):
        delegated.open_role(data, DOMAIN, KEY)
    with pytest.raises(TrustfedError):
        cluster_document.read(data, DOMAIN)


def _cluster(**changed: Any) -> ClusterDocument:
    given = {
        "https_addresses": ("c.example:9443", "[::1]:9443"),
        "grpc_addresses": ("127.0.0.1:8443",),
        "attestors": ("join_token",),
        **changed,
    }
    return ClusterDocument(DOMAIN, KEY, **given)


def test_a_cluster_document_has_one_spelling() -> None:
    data = cluster_document.write(_cluster())
    assert cluster_document.read(data, DOMAIN) == _cluster()
    assert json.loads(data)["server_id"] == f"spiffe://{DOMAIN}/trustfed/cluster"
    for other in (data + b" ", data.replace(b'","', b'", "'), data.replace(b"{", b'{"more":1,')):
        with pytest.raises(Invalid):
            cluster_document.read(other, DOMAIN)
    with pytest.raises(Denied, match="another trust domain"):
        cluster_document.read(data, TrustDomain("other"))
    with pytest.raises(Denied, match="names the server"):
        cluster_document.read(data.replace(b"/trustfed/cluster", b"/trustfed/hub"), DOMAIN)


@pytest.mark.parametrize(
    "changed",
    [
        {"https_addresses": ("http://x",)},
        {"https_addresses": ("x:0",)},
        {"grpc_addresses": ("x:99999",)},
        {"grpc_addresses": ("x y:1",)},
        {"grpc_addresses": ("x:1", "x:1")},
        {"grpc_addresses": tuple(f"x:{port}" for port in range(1, 18))},
        {"grpc_addresses": ("x" * 300 + ":1",)},
        {"attestors": ("Join Token",)},
        {"attestors": tuple(f"a{number}" for number in range(17))},
    ],
)
def test_a_cluster_document_is_bounded(changed: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        _cluster(**changed)
