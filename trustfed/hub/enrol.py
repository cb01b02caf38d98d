"""How a trust domain gets in, and back in: the wire of enrolment, and the checks that need no state.

All over HTTPS, JSON objects, binary values in base64 (RFC 4648 §4), unknown members refused. A newcomer does not trust
the hub's certificate yet: it first fetches the root documents, takes only what its token pins, then checks the server.

    GET  /v1/roots   → {"documents": [each signed root set, its JSON as a string; version 1 first]}
    POST /v1/enrol   {"token", "publication_key": SPKI, "authority_id", "csr", "envelope", "proof"}
                     → {"trust_domain", "intermediate", "root", "documents", "suffixes", "hub", "policy"}
    GET  /v1/nonce   → {"nonce", "expires_ms"}                                one use, two minutes
    POST /v1/resign  {"trust_domain", "authority_id", "csr", "nonce", "proof"}
                     → {"intermediate", "root", "documents"}                  for who has no valid SVID left

with "hub": {"trust_domain", "spiffe_id", "grpc": "HOST:PORT"} and "policy": {"intermediate_ttl": seconds}.

`envelope` is the newcomer's first signed envelope: it must hold the self-signed twin of the authority in `csr`, so that
there is no moment without a bundle to verify it by. The publication key makes `proof` (trustfed.federation.enrolment).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509

from ca.authority import check_csr
from trustfed.errors import Invalid
from trustfed.federation.enrolment import ENROL, RESIGN, binary, check_proof, read
from trustfed.federation.envelope import Envelope, PublicationKey, open_envelope
from trustfed.federation.token import EnrolmentToken
from trustfed.hub.domains import Enrol
from trustfed.spiffe.ids import TrustDomain

_ENROL_MEMBERS = {"token", "publication_key", "authority_id", "csr", "envelope", "proof"}
_RESIGN_MEMBERS = {"trust_domain", "authority_id", "csr", "nonce", "proof"}


@dataclass(frozen=True)
class EnrolRequest:
    """A well-formed request whose proof holds; what it says of itself is checked against the invitation next."""

    token_hash: str
    key: PublicationKey
    authority: str
    csr: bytes
    envelope: bytes

    def command(self) -> Enrol:
        """The request as the fold decides on it."""
        return Enrol(self.token_hash, self.key, self.authority, csr_hash(self.csr), self.envelope)


@dataclass(frozen=True)
class ResignRequest:
    """A well-formed request; its proof is verified once the domain's registered key is known."""

    trust_domain: TrustDomain
    authority: str
    csr: bytes
    nonce: str
    document: dict[str, str]

    def verify(self, key: PublicationKey) -> None:
        """Denied unless the domain's publication key made the proof."""
        check_proof(RESIGN, self.document, key.public_key, f"the request of {self.trust_domain}")


def read_enrolment(data: bytes) -> EnrolRequest:
    """The enrolment request in a body, its proof verified. Raises Invalid, or Denied when the proof does not hold."""
    document = read(data, "the enrolment request", _ENROL_MEMBERS)
    token = EnrolmentToken.decode(document["token"], "cluster")
    key = PublicationKey(binary(document, "publication_key"))
    check_proof(ENROL, document, key.public_key, "the enrolment request")
    return EnrolRequest(
        token_hash=token.secret_hash(),
        key=key,
        authority=document["authority_id"],
        csr=binary(document, "csr"),
        envelope=binary(document, "envelope"),
    )


def read_resign(data: bytes) -> ResignRequest:
    """The request for a new intermediate in a body. Raises Invalid."""
    document = read(data, "the request", _RESIGN_MEMBERS)
    return ResignRequest(
        trust_domain=TrustDomain.parse(document["trust_domain"]),
        authority=document["authority_id"],
        csr=binary(document, "csr"),
        nonce=document["nonce"],
        document=document,
    )


def check_first(request: EnrolRequest, trust_domain: TrustDomain) -> Envelope:
    """The newcomer's first envelope: the domain's own, by its key, with the twin of the authority to be signed."""
    public_key = check_csr(request.csr, trust_domain, request.authority)
    envelope = open_envelope(request.envelope, trust_domain, request.key)
    for anchor in envelope.bundle.x509_authorities:
        if x509.load_der_x509_certificate(anchor).public_key() == public_key:
            return envelope
    raise Invalid(
        f"the first envelope of {trust_domain} lacks the authority of the request",
        hint="its bundle must hold that authority's self-signed certificate",
    )


def csr_hash(csr: bytes) -> str:
    """How the journal names a request: the same one gets the same answer."""
    return "sha256:" + hashlib.sha256(csr).hexdigest()
