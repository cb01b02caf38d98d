"""The rows of the hub's state: what is known of each root, domain, intermediate, grant, CRL and token.

Every row that readers follow carries the journal position of its last change.
"""

from __future__ import annotations

import msgspec


class Root(msgspec.Struct, frozen=True):
    """One root of the federation: status prepared, active, retiring or retired."""

    key_name: str
    certificate: bytes
    status: str
    cross: bytes = b""


class HubAuthority(msgspec.Struct, frozen=True):
    """One authority of the hub's own trust domain."""

    authority: str
    key_name: str
    twin: bytes
    intermediate: bytes
    root: str
    dns_names: tuple[str, ...]
    created_ms: int
    not_after_ms: int


class Domain(msgspec.Struct, frozen=True):
    """One trust domain: invited, enrolled or removed. `envelope` is the newest accepted one, exact bytes."""

    name: str
    owner: str
    status: str
    dns_suffixes: tuple[str, ...]
    token_hash: str
    token_expires_ms: int
    position: int
    publication_key: bytes = b""
    first_authority: str = ""
    first_csr_hash: str = ""
    epoch: int = 0
    sequence: int = 0
    envelope: bytes = b""
    envelope_position: int = 0
    enrolled_ms: int = 0
    removed_ms: int = 0
    removed_reason: str = ""
    bundle_endpoints: tuple[str, ...] = ()
    endpoints_position: int = 0
    simulated: bool = False  # by its invitation; a cluster's own word makes nothing simulated


class PublishedRole(msgspec.Struct, frozen=True):
    """A domain's newest TUF role with the two files that it lists; of a domain that is out only the version is left."""

    version: int
    metadata: bytes = b""
    cluster_document: bytes = b""
    envelope: bytes = b""


class TufRoot(msgspec.Struct, frozen=True):
    """One version of the protected publication's root."""

    document: bytes
    expires_ms: int


class Intermediate(msgspec.Struct, frozen=True):
    """One certificate that a root signed for an authority of a domain."""

    serial: str
    domain: str
    authority: str
    csr_hash: str
    root: str
    not_after_ms: int
    certificate: bytes
    revoked_ms: int = 0
    revoked_reason: str = ""
    revoked_position: int = 0


class Grant(msgspec.Struct, frozen=True):
    """One direction of trust: offered, accepted or ended."""

    id: str
    importer: str
    exporter: str
    status: str
    from_ms: int
    until_ms: int
    reason: str
    position: int
    accepted_by: str = ""
    fingerprint: str = ""
    ended_by: str = ""
    ended_reason: str = ""
    ended_ms: int = 0


class Crl(msgspec.Struct, frozen=True):
    """The newest CRL (DER) of one root."""

    root: str
    number: int
    next_update_ms: int
    certificate_list: bytes
    position: int


class ApiToken(msgspec.Struct, frozen=True):
    """One bearer token of the HTTPS API."""

    id: str
    name: str
    role: str
    token_hash: str
    expires_ms: int
    revoked: bool = False
    issued_by: str = ""  # the person it counts as; "": made before that was kept
    made_by: str = ""  # the identity that made it: "uid:1000", "token:3c1f…"; "": made before that was kept
