"""How nodes get in, and back in: the cluster's side of attestation and of renewal after expiry.

Attestation: 1 the request's proof holds for its own key · 2 the attestor verifies the payload, bound to that key · 3 the
journal decides whom it admits · 4 the SVID is recorded and signed · 5 the answer is journalled with the decision, so that
the same key gets the same answer.

Renewal by an old SVID, also an expired one: 1 the old leaf is a node's, signed by an authority of this domain that is not
tainted · 2 the node is not banned · 3 the leaf ended within the window, and began after the node's last attestation · 4 its key
signed the whole request · 5 the nonce in it is ours, fresh, and spent by this: only who holds a node's key can spend any.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from uuid import uuid4

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ca.lifecycle import Kind
from trustfed.cluster import nodes
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.attestation.port import Admission, Attestors
from trustfed.cluster.config import Policy
from trustfed.cluster.issuance import Issuance
from trustfed.cluster.presence import Presence
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.federation import enrolment
from trustfed.federation.names import cluster_id, node_id, node_name
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.nonces import Nonces
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.x509svid import X509Svid, parse_leaf

log = logs.get("cluster.admission")

_ATTEST = {"attestor", "payload", "public_key", "software", "proof"}
_RENEWALS, _RENEW_SPAN = 10, timedelta(minutes=1)
_RENEW = {"leaf", "public_key", "nonce", "proof"}


class NodeAdmission:
    """Answers /v1/node/attest and /v1/node/renew."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        issuance: Issuance,
        attestors: Attestors,
        presence: Presence,
        nonces: Nonces,
        policy: Policy,
        addresses: Addresses,
        clock: Clock,
    ) -> None:
        self._fold, self._issuance, self._attestors, self._presence = fold, issuance, attestors, presence
        self._renewed: dict[str, tuple[datetime, int]] = {}
        self._nonces, self._policy, self._addresses, self._clock = nonces, policy, addresses, clock

    async def attest(self, body: bytes, peer: str = "") -> dict[str, object]:
        """Admit a node that can prove who it is; `peer` is its address. Raises Invalid, Denied, Conflict, Unavailable."""
        request = enrolment.read(body, "the attestation request", _ATTEST)
        public_key = enrolment.binary(request, "public_key")
        enrolment.check_proof(enrolment.ATTEST, request, _p256(public_key), "the attestation request")  # 1
        attestor = self._attestors.get(request["attestor"])
        if attestor is None:
            raise Invalid(
                f"node attestor {request['attestor'][:40]!r} is not known here",
                hint=f"one of {', '.join(self._attestors)}",
            )
        key_hash = "sha256:" + hashlib.sha256(public_key).hexdigest()
        evidence = await attestor.verify(request["payload"], key_hash, peer)  # 2
        now = self._clock.now()
        admission = attestor.admit(self._fold.state, evidence, key_hash, now)

        def admit(state: ClusterState, chain: tuple[bytes, ...]) -> list[TypedEvent]:
            again = attestor.admit(state, evidence, key_hash, now)  # 3
            return nodes.attest(state, again, attestor.name, key_hash, chain, self._policy.max_nodes, now)

        admit(self._fold.state, ())  # nothing is signed for, or answered to, whom the decision would refuse
        stored = self._stored(admission, key_hash)
        if stored is not None:
            return self._answer(admission.node, stored)
        command = hashlib.sha256(f"{attestor.name} {key_hash} {evidence}".encode()).hexdigest()
        issued = await self._issuance.node_svid(admission.node, public_key, "", f"attest-{command}")  # 4
        await self._fold.execute(  # 5
            lambda state: admit(state, issued.chain),
            command_id=uuid4().hex,
            actor=f"node:{admission.node}",
            reason="attested",
            now=now,
        )
        nodes.standing(self._fold.state, admission.node, issued.not_before)  # it may have been banned meanwhile
        chain = self._stored(attestor.admit(self._fold.state, evidence, key_hash, now), key_hash) or issued.chain
        self._presence.alive(admission.node, issued.not_after)
        log.info("node attested", node=admission.node, attestor=attestor.name)
        return self._answer(admission.node, chain)

    async def renew(self, body: bytes) -> dict[str, object]:
        """A new SVID for a node that shows its old one and signs with its key."""
        request = enrolment.read(body, "the renewal request", _RENEW)
        now, state = self._clock.now(), self._fold.state
        leaf = enrolment.binary(request, "leaf")
        svid = parse_leaf(leaf)
        name = node_name(svid.id)
        if svid.id != node_id(TrustDomain.parse(state.trust_domain), name):
            raise Denied(f"{svid.id} is not a node of {state.trust_domain}")
        _check_signed_here(state, leaf)  # 1
        nodes.standing(state, name, svid.not_before)  # 2, 3
        self._check_end(svid, now)  # 3
        certificate = x509.load_der_x509_certificate(leaf)
        key = certificate.public_key()
        if not isinstance(key, EllipticCurvePublicKey):
            raise Denied("the old SVID has a key that no node has")
        enrolment.check_proof(enrolment.RENEW, request, key, "the renewal request")  # 4
        self._pace(name, now)
        self._nonces.spend(request["nonce"], now)  # 5
        public_key = enrolment.binary(request, "public_key")
        _p256(public_key)
        issued = await self._issuance.node_svid(
            name, public_key, serial_text(svid.serial), f"renew-{request['nonce']}"[:128]
        )
        nodes.standing(self._fold.state, name, svid.not_before)  # it may have been banned meanwhile
        self._presence.alive(name, issued.not_after)
        log.info("node renewed by its old SVID", node=name, old_end=svid.not_after.isoformat())
        return self._answer(name, issued.chain)

    def nonce(self) -> dict[str, object]:
        """A fresh nonce for `renew`."""
        nonce, expires_ms = self._nonces.give(self._clock.now())
        return {"nonce": nonce, "expires_ms": expires_ms}

    def _stored(self, admission: Admission, key_hash: str) -> tuple[bytes, ...] | None:
        """The answer that this key got before, while it is of use."""
        node = self._fold.state.nodes.get(admission.node)
        if node is None or node.evidence != admission.evidence or node.key_hash != key_hash:
            return None
        return node.chain if parse_leaf(node.chain[0]).not_after > self._clock.now() else None

    def _pace(self, name: str, now: datetime) -> None:
        """One node cannot spend the nonces of all."""
        if len(self._renewed) >= self._policy.max_nodes:
            self._renewed = {node: held for node, held in self._renewed.items() if held[0] + _RENEW_SPAN > now}
        begun, count = self._renewed.get(name, (now, 0))
        if not begun <= now < begun + _RENEW_SPAN:
            begun, count = now, 0
        if count >= _RENEWALS:
            raise Unavailable(f"node {name} renewed {count} times within {_RENEW_SPAN}", hint="try again in a minute")
        self._renewed[name] = (begun, count + 1)

    def _check_end(self, svid: X509Svid, now: datetime) -> None:
        if svid.not_after + self._policy.renew_window < now:
            raise Denied(
                f"the SVID of {svid.id} ended at {svid.not_after.isoformat()}, beyond the window of {self._policy.renew_window}",
                hint="attest again with a new token: trustfed node token",
            )

    def _answer(self, name: str, chain: tuple[bytes, ...]) -> dict[str, object]:
        state = self._fold.state
        assert state.domain is not None
        domain = TrustDomain.parse(state.trust_domain)
        return {
            "node": name,
            "trust_domain": state.trust_domain,
            "node_id": str(node_id(domain, name)),
            "chain": [enrolment.text(der) for der in chain],
            "grpc": self._addresses.grpc[0],
            "grpc_addresses": self._addresses.grpc,
            "https_addresses": self._addresses.https,
            "server_id": str(cluster_id(domain)),
            "envelope": enrolment.text(state.envelope),
            "publication_key": enrolment.text(state.domain.publication_key),
            "root_documents": [document.decode() for document in state.root_documents],
        }


def _check_signed_here(state: ClusterState, leaf: bytes) -> None:
    """Whoever signed this leaf was an authority of ours, even if it has left the bundle since; a tainted one does not count."""
    certificate = x509.load_der_x509_certificate(leaf)
    for authority in state.authorities.values():
        if authority.kind is not Kind.X509 or authority.tainted_at is not None:
            continue
        twin = x509.load_der_x509_certificate(authority.twin)
        if twin.subject == certificate.issuer:
            try:
                certificate.verify_directly_issued_by(twin)
                return
            except (InvalidSignature, ValueError, TypeError):
                continue
    raise Denied("the old SVID was not signed by an authority of this trust domain that is still believed")


def _p256(spki: bytes) -> EllipticCurvePublicKey:
    try:
        key = load_der_public_key(spki)
    except Exception:  # pyca raises several kinds for bytes that are no key
        raise Invalid("public_key is not a DER SubjectPublicKeyInfo") from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise Invalid("a node's key must be an ECDSA key on P-256")
    return key
