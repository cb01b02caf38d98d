"""How a node gets in, and back in: the agent's side of the cluster's HTTPS door. Everything here blocks.

Enrolment, by a token, once:
 1. key: a new P-256 key is on disk, 0600, before anything leaves; the same key asks again after a crash
 2. home: the envelope, from whoever answers, believed only by the publication key in the token
 3. server: an SVID by that bundle with exactly the SPIFFE ID in the token, before the token is sent
 4. request: signed as a whole by the node's key
 5. answer: under the same publication key, an SVID for this node and this key; then one file is written

Renewal by nonce, when the SVID has expired or the cluster cannot be reached with it: the home bundle is refreshed as in 2,
the server is verified as in 3, the old key signs the request, the new key gets the SVID.

No root is asked: whoever holds the federation's root could certify a door of their own, and must get no token by it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key

from agent.identity import IdentityFile, NodeIdentity, checked_key, private_bytes, public_bytes
from trustfed.errors import Denied, Invalid, NotFound
from trustfed.federation import enrolment
from trustfed.federation.envelope import Envelope, PublicationKey, open_envelope
from trustfed.federation.names import cluster_id, node_id
from trustfed.federation.token import EnrolmentToken
from trustfed.runtime import https_client
from trustfed.runtime.files import read_private, write_atomic
from trustfed.runtime.https_client import Server
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import client_context
from trustfed.runtime.version import SOFTWARE
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.verify import verify_x509_svid

_KEY_FILE = "node.key"
_AGAIN = "enrol this node again with a new token: trustfed node token, then agent serve --join @FILE"


def enrol(folder: Path, token: EnrolmentToken, now: datetime) -> NodeIdentity:
    """Enrol this node. Safe to run again after a crash at any moment. Raises Invalid, Denied, Conflict, Unavailable."""
    key = _enrolment_key(folder / _KEY_FILE)  # 1
    publication_key = token.pinned()
    home = open_envelope(_envelope(token.host, token.port), token.name, publication_key)  # 2
    server = _server(token.host, token.port, home, token.server_id, now)  # 3
    request = {
        "attestor": "join_token",
        "payload": token.encode(),
        "public_key": enrolment.text(public_bytes(key)),
        "software": SOFTWARE,
    }
    answer = https_client.post(server, "/v1/node/attest", _proven(enrolment.ATTEST, request, key))  # 4
    expected = node_id(token.name, token.newcomer)
    if token.server_id != cluster_id(token.name):
        raise Denied(f"the token is for {token.server_id}, which is no cluster")
    if PublicationKey(_member(answer, "publication_key")) != publication_key:  # 5
        raise Denied("the cluster answered with another publication key than the token's", hint=_AGAIN)
    home = open_envelope(_member(answer, "envelope"), token.name, publication_key, after=home)
    chain = _chain(answer)
    svid = verify_x509_svid(chain, home.bundle, now, expected=expected)
    identity = NodeIdentity(
        svid,
        checked_key(key, chain[0]),
        now,
        (token.host, token.port),
        _address(answer),
        token.server_id,
        publication_key,
        home,
    )
    IdentityFile(folder).save(identity)
    (folder / _KEY_FILE).unlink(missing_ok=True)
    return identity


def renew(identity: NodeIdentity, now: datetime) -> NodeIdentity:
    """A new SVID on a new key, by showing the old one. Raises Denied (a person must act), Unavailable."""
    home = refresh(identity).home
    server = _server(*identity.door, home, identity.server_id, now)
    try:
        nonce = json.loads(https_client.get(server, "/v1/nonce"))["nonce"]
        assert isinstance(nonce, str)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise Invalid("the cluster's nonce is malformed", hint="is it a trustfed cluster?") from None
    key = ec.generate_private_key(ec.SECP256R1())
    request = {
        "leaf": enrolment.text(identity.svid.chain[0]),
        "public_key": enrolment.text(public_bytes(key)),
        "nonce": nonce,
    }
    try:
        answer = https_client.post(server, "/v1/node/renew", _proven(enrolment.RENEW, request, identity.key))
    except Denied as error:
        raise Denied(error.message, hint=error.hint or _AGAIN) from None
    home = open_envelope(_member(answer, "envelope"), identity.trust_domain, identity.publication_key, after=home)
    chain = _chain(answer)
    svid = verify_x509_svid(chain, home.bundle, now, expected=identity.svid.id)
    return replace(
        identity,
        svid=svid,
        key=checked_key(key, chain[0]),
        issued_at=now,
        grpc=_address(answer),
        home=home,
    )


def refresh(identity: NodeIdentity) -> NodeIdentity:
    """The home bundle as the cluster publishes it now, for an agent that was away while authorities changed."""
    data = _envelope(*identity.door)
    home = open_envelope(data, identity.trust_domain, identity.publication_key, after=identity.home)
    return replace(identity, home=home)


def _enrolment_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_der_private_key(read_private(path, 4096), None)
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        raise ValueError
    except NotFound:
        key = ec.generate_private_key(ec.SECP256R1())
        write_atomic(path, private_bytes(key))
        return key
    except (ValueError, TypeError):
        raise Invalid(f"{path} is not a key of ours", hint="remove it and use a new token") from None


def _envelope(host: str, port: int) -> bytes:
    """What whoever answers there has as its envelope; nothing of it is verified yet."""
    return https_client.get(Server(host, port, https_client.pinned_content_context(), None), "/envelope")


def _server(host: str, port: int, home: Envelope, server_id: SpiffeId, now: datetime) -> Server:
    """The cluster's door, known by the home bundle and its exact ID."""

    def verify(chain: tuple[bytes, ...]) -> None:
        verify_x509_svid(chain, home.bundle, now, expected=server_id)

    return Server(host, port, client_context(None, home.bundle.x509_authorities), verify)


def _proven(kind: str, request: dict[str, str], key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    proof = key.sign(enrolment.proof_input(kind, request), ec.ECDSA(SHA256()))
    return {**request, "proof": enrolment.text(proof)}


def _chain(answer: Mapping[str, Any]) -> tuple[bytes, ...]:
    try:
        return tuple(base64.b64decode(item, validate=True) for item in answer["chain"])
    except (KeyError, ValueError, TypeError):
        raise _malformed("chain") from None


def _member(answer: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(answer[name], validate=True)
    except (KeyError, ValueError, TypeError):
        raise _malformed(name) from None


def _address(answer: Mapping[str, Any]) -> str:
    address = answer.get("grpc")
    if not isinstance(address, str):
        raise _malformed("grpc")
    parse_address(address)
    return address


def _malformed(name: str) -> Invalid:
    return Invalid(f"{name} in the cluster's answer is malformed", hint="is it a trustfed cluster?")
