"""How a node gets in, and back in: the agent's side of the cluster's HTTPS door. Everything here blocks.

Enrolment, once, by a token or by what a store says (agent.bootstrap):
 1. key: a new P-256 key is on disk, 0600, before anything leaves; the same key asks again after a crash
 2. home: the envelope, from whoever answers, believed only by the publication key pinned
 3. server: an SVID by that bundle with exactly the cluster's SPIFFE ID, before a token is sent
 4. request: signed as a whole by the node's key
 5. answer: under the same publication key, an SVID for this node and this key; then one file is written

Renewal by nonce, when the SVID has expired or the cluster cannot be reached with it: the home bundle is refreshed as in 2,
the server is verified as in 3, the old key signs the request, the new key gets the SVID. Of several doors the first that
is the cluster's is used.

No root is asked: whoever holds the federation's root could certify a door of their own, and must get no token by it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key

from agent import addresses
from agent.identity import IdentityFile, NodeIdentity, checked_key, private_bytes, public_bytes
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.federation import enrolment
from trustfed.federation.envelope import Envelope, PublicationKey, open_envelope
from trustfed.federation.names import cluster_id, node_id, node_name
from trustfed.federation.token import EnrolmentToken
from trustfed.runtime import https_client
from trustfed.runtime.files import read_private, write_atomic
from trustfed.runtime.https_client import Server
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import client_context
from trustfed.runtime.version import SOFTWARE
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

_KEY_FILE = "node.key"
_GLANCE_SECONDS = 2.0
"""For one step at a door that is only asked for an envelope; the door as a whole may take three times that."""
AGAIN = "enrol this node again with a new token: trustfed node token, then agent serve --join @FILE"
"""What a person must do for a node that its cluster does not renew."""


Now = Callable[[], datetime]


class Banned(Denied):
    """The cluster says, and has shown that it is the cluster, that this node is banned."""


@dataclass(frozen=True)
class Invitation:
    """How a node may get in: whose doors to knock at, by which key they are known, and what is shown there.

    `newcomer` is who the node becomes, None where the cluster names it; `held` a home envelope that a newer one must continue.
    """

    trust_domain: TrustDomain
    publication_key: PublicationKey
    doors: tuple[tuple[str, int], ...]
    attestor: str
    payload: str = field(repr=False)
    newcomer: SpiffeId | None = None
    held: Envelope | None = None


def enrol(folder: Path, token: EnrolmentToken, now: datetime) -> NodeIdentity:
    """Enrol this node. Safe to run again after a crash at any moment. Raises Invalid, Denied, Conflict, Unavailable."""
    return join(folder, invitation(token), now)


def invitation(token: EnrolmentToken) -> Invitation:
    """What a token says. Raises Invalid, Denied for one that leads to no cluster."""
    if token.server_id != cluster_id(token.name):
        raise Denied(f"the token is for {token.server_id}, which is no cluster")
    newcomer, door = node_id(token.name, token.newcomer), (token.host, token.port)
    return Invitation(token.name, token.pinned(), (door,), "join_token", token.encode(), newcomer)


def join(folder: Path, invited: Invitation, now: datetime) -> NodeIdentity:
    """Get in by the first door that is the cluster's; like `enrol`. What the cluster itself says there is the answer,
    a stranger's no is not; while some door cannot be reached, that is why (it may be the cluster's)."""
    key, failure = enrolment_key(folder), None  # 1
    for door in invited.doors:
        known: list[Server] = []
        try:
            return _join_at(door, key, folder, invited, _running(now), known)
        except TrustfedError as error:
            if known and not isinstance(error, Unavailable):
                raise
            if failure is None or isinstance(error, Unavailable):
                failure = error
    raise failure or Unavailable(f"trust domain {invited.trust_domain} tells no address to attest at")


def _join_at(
    door: tuple[str, int],
    key: ec.EllipticCurvePrivateKey,
    folder: Path,
    invited: Invitation,
    now: Now,
    known: list[Server],
) -> NodeIdentity:
    """Steps 2 to 5 at one door; `known` gets the server once it has shown that it is the cluster."""
    domain, server_id = invited.trust_domain, cluster_id(invited.trust_domain)
    home = open_envelope(_envelope(*door), domain, invited.publication_key, after=invited.held)  # 2
    server = _server(*door, home, server_id, now, known)  # 3
    request = {
        "attestor": invited.attestor,
        "payload": invited.payload,
        "public_key": enrolment.text(public_bytes(key)),
        "software": SOFTWARE,
    }
    answer = https_client.post(server, "/v1/node/attest", _proven(enrolment.ATTEST, request, key))  # 4
    if PublicationKey(_member(answer, "publication_key")) != invited.publication_key:  # 5
        raise Denied("the cluster answered with another publication key than the one pinned", hint=AGAIN)
    home = open_envelope(_member(answer, "envelope"), domain, invited.publication_key, after=home)
    chain = _chain(answer)
    svid = verify_x509_svid(chain, home.bundle, now(), expected=invited.newcomer)
    if svid.id != node_id(domain, node_name(svid.id)):
        raise Denied(f"the cluster answered with an SVID of {svid.id}, which is not a node of {domain}")
    identity = NodeIdentity(
        svid,
        checked_key(key, chain[0]),
        now(),
        door,
        _address(answer),
        server_id,
        invited.publication_key,
        home,
        *_addresses(answer),
    )
    IdentityFile(folder).save(identity)
    (folder / _KEY_FILE).unlink(missing_ok=True)
    return identity


def renew(identity: NodeIdentity, now: datetime) -> NodeIdentity:
    """A new SVID on a new key, by showing the old one, at the first of the cluster's doors that opens.

    Raises Banned (the cluster says so), Denied (a person must act), Unavailable.
    """
    present = _running(now)
    home, door, server, nonce = _open_door(identity, present)
    key = ec.generate_private_key(ec.SECP256R1())
    request = {
        "leaf": enrolment.text(identity.svid.chain[0]),
        "public_key": enrolment.text(public_bytes(key)),
        "nonce": nonce,
    }
    try:
        answer = https_client.post(server, "/v1/node/renew", _proven(enrolment.RENEW, request, identity.key))
    except Denied as error:
        # Whoever said this has shown that it is the cluster: `_open_door`.
        kind = Banned if error.message.startswith(f"node {_name(identity)} is banned") else Denied
        raise kind(error.message, hint=AGAIN if kind is Denied else error.hint or AGAIN) from None
    home = open_envelope(_member(answer, "envelope"), identity.trust_domain, identity.publication_key, after=home)
    chain = _chain(answer)
    svid = verify_x509_svid(chain, home.bundle, present(), expected=identity.svid.id)
    grpc_addresses, https_addresses = _addresses(answer)
    return replace(
        identity,
        svid=svid,
        key=checked_key(key, chain[0]),
        issued_at=present(),
        door=door,
        grpc=identity.grpc if identity.grpc in grpc_addresses else _address(answer),
        home=home,
        grpc_addresses=grpc_addresses or identity.grpc_addresses,
        https_addresses=https_addresses or identity.https_addresses,
    )


def refresh(identity: NodeIdentity) -> NodeIdentity:
    """The home bundle as the cluster publishes it now, for an agent that was away while authorities changed."""
    failure: TrustfedError | None = None
    for door in doors(identity):
        try:
            return replace(identity, home=_home(identity, door, _GLANCE_SECONDS))
        except TrustfedError as error:  # the next door may be the cluster's
            failure = failure or error
    assert failure is not None
    raise failure


def doors(identity: NodeIdentity) -> list[tuple[str, int]]:
    """The cluster's HTTPS doors, the one that answered last first."""
    told = addresses.in_turn(addresses.of(*identity.door), identity.https_addresses)
    return [parse_address(address) for address in told]


def _open_door(identity: NodeIdentity, now: Now) -> tuple[Envelope, tuple[str, int], Server, str]:
    """The first door behind which the cluster answers, its nonce, and the home bundle that it was known by."""
    failure: TrustfedError | None = None
    for door in doors(identity):
        try:
            home = _home(identity, door)
            server = _server(*door, home, identity.server_id, now)
            return home, door, server, _nonce(server)
        except TrustfedError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _nonce(server: Server) -> str:
    try:
        nonce = json.loads(https_client.get(server, "/v1/nonce"))["nonce"]
        assert isinstance(nonce, str)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise Invalid("the cluster's nonce is malformed", hint="is it a trustfed cluster?") from None
    return nonce


def _home(identity: NodeIdentity, door: tuple[str, int], timeout: float = 10.0) -> Envelope:
    return open_envelope(
        _envelope(*door, timeout), identity.trust_domain, identity.publication_key, after=identity.home
    )


def _name(identity: NodeIdentity) -> str:
    return identity.svid.id.path.rpartition("/")[2]


def enrolment_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The key that this node attests with, on disk before anything leaves. Raises Invalid, Unavailable."""
    path = folder / _KEY_FILE
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


def _envelope(host: str, port: int, timeout: float = 10.0) -> bytes:
    """What whoever answers there has as its envelope; nothing of it is verified yet."""
    return https_client.get(Server(host, port, https_client.pinned_content_context(), None, timeout), "/envelope")


def _server(
    host: str, port: int, home: Envelope, server_id: SpiffeId, now: Now, known: list[Server] | None = None
) -> Server:
    """The cluster's door, known by the home bundle and its exact ID. It is put into `known` once it has shown that."""

    def verify(chain: tuple[bytes, ...]) -> None:
        verify_x509_svid(chain, home.bundle, now(), expected=server_id)
        if known is not None:
            known.append(server)

    server = Server(host, port, client_context(None, home.bundle.x509_authorities), verify)
    return server


def _running(now: datetime) -> Now:
    """The time as it runs on from `now`: an exchange may last longer than an SVID is backdated."""
    began = time.monotonic()
    return lambda: now + timedelta(seconds=time.monotonic() - began)


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


def _addresses(answer: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All gRPC and all HTTPS addresses of the cluster; older ones tell none."""
    lists = (answer.get("grpc_addresses"), answer.get("https_addresses"))
    grpc, https = (addresses.usable(told) if isinstance(told, list) else () for told in lists)
    return grpc, https


def _malformed(name: str) -> Invalid:
    return Invalid(f"{name} in the cluster's answer is malformed", hint="is it a trustfed cluster?")
