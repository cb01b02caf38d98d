"""Where the nodes of a trust domain attest: the document that the domain publishes beside its envelope.

    {"attestors": [name, ...], "grpc_addresses": [HOST:PORT, ...], "https_addresses": [HOST:PORT, ...],
     "publication_key": base64 SPKI, "server_id": the SPIFFE ID that answers there, "trust_domain": name}

Canonical JSON, listed by the domain's own role (decision 0008), so who reads it from a store that is not believed knows
that the domain wrote it. It says where to knock, never whom to trust: the envelope does that.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trustfed.errors import Denied, Invalid
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.names import cluster_id
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

MAX_BYTES = 16_384
MAX_ADDRESSES = 16
MAX_ATTESTORS = 16
MAX_ADDRESS = 300
_MEMBERS = {"attestors", "grpc_addresses", "https_addresses", "publication_key", "server_id", "trust_domain"}
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", re.ASCII)
_ATTESTOR = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)


@dataclass(frozen=True)
class ClusterDocument:
    """One domain's addresses; a value of this class is valid however it was made. Raises Invalid."""

    trust_domain: TrustDomain
    publication_key: PublicationKey
    https_addresses: tuple[str, ...]
    grpc_addresses: tuple[str, ...]
    attestors: tuple[str, ...]

    def __post_init__(self) -> None:
        what = f"the cluster document of {self.trust_domain}"
        _check_texts(self.https_addresses, MAX_ADDRESSES, f"https_addresses of {what}")
        _check_texts(self.grpc_addresses, MAX_ADDRESSES, f"grpc_addresses of {what}")
        for address in (*self.https_addresses, *self.grpc_addresses):
            match = _ADDRESS.fullmatch(address) if len(address) <= MAX_ADDRESS else None
            if match is None or not 0 < int(match[1]) < 65_536:
                raise Invalid(f"{what} names the address {shown(address)}, which is not HOST:PORT")
        _check_texts(self.attestors, MAX_ATTESTORS, f"attestors of {what}")
        for attestor in self.attestors:
            if not _ATTESTOR.fullmatch(attestor):
                raise Invalid(f"{what} names the attestor {shown(attestor)}, which is no attestor's name")

    @property
    def server_id(self) -> SpiffeId:
        """Who answers at every one of the addresses."""
        return cluster_id(self.trust_domain)


def write(document: ClusterDocument) -> bytes:
    """The one spelling of a document."""
    return strict_json.write(
        {
            "attestors": list(document.attestors),
            "grpc_addresses": list(document.grpc_addresses),
            "https_addresses": list(document.https_addresses),
            "publication_key": base64.b64encode(document.publication_key.spki).decode(),
            "server_id": str(document.server_id),
            "trust_domain": document.trust_domain.name,
        }
    )


def read(data: bytes, trust_domain: TrustDomain) -> ClusterDocument:
    """The document in `data`, if it is `trust_domain`'s. Raises Invalid (form) or Denied (another domain)."""
    what = f"the cluster document of {trust_domain}"
    found = strict_json.parse_object(data, what=what, limit=MAX_BYTES)
    if set(found) != _MEMBERS:
        raise Invalid(f"{what} must have exactly the members {', '.join(sorted(_MEMBERS))}")
    if found["trust_domain"] != trust_domain.name:
        raise Denied(f"{what} speaks of another trust domain, {shown(found['trust_domain'])}")
    document = ClusterDocument(
        trust_domain,
        _key(found["publication_key"], what),
        *(_texts(found[name], f"{name} of {what}") for name in ("https_addresses", "grpc_addresses", "attestors")),
    )
    if found["server_id"] != str(document.server_id):
        raise Denied(f"{what} names the server {shown(found['server_id'])}, not {document.server_id}")
    if write(document) != data:
        raise Invalid(f"{what} is not spelled in canonical JSON")
    return document


def _key(value: object, what: str) -> PublicationKey:
    try:
        return PublicationKey(base64.b64decode(value, validate=True))  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        raise Invalid(f"publication_key of {what} is not base64") from None


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid(f"{what} is not a list of texts")
    return tuple(value)


def _check_texts(texts: Sequence[str], most: int, what: str) -> None:
    if len(texts) > most:
        raise Invalid(f"{what}: {len(texts)} are listed", hint=f"at most {most}")
    if len(set(texts)) != len(texts):
        raise Invalid(f"{what}: one is listed twice")
