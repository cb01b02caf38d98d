"""A trust domain's own part of the protected publication: a TUF targets role with its envelope and cluster document, and,
where the domain has a mesh, the manifests of it.

    {"signatures": [{"keyid": ..., "sig": hex of ASN.1 DER}],
     "signed": {"_type": "targets", "expires": ..., "spec_version": "1.0.31", "version": n,
                "targets": {"clusters/NAME": {"hashes": {"sha256": ...}, "length": n}, "envelopes/NAME": ..., "mesh/NAME": ...}}}

Signed by the domain's publication key, so the hub that publishes it can neither forge nor mix it. The form is fixed to
the byte: everything is ASCII without escapes, so TUF's canonical JSON is sorted JSON without blanks. No TUF library is
asked, which every cluster would have to load; a test lets python-tuf read what is written here.

Opening, in this order:
 1. size, strict JSON, exactly these members
 2. one signature, under the key id of the domain's publication key
 3. that signature, by that key
 4. the one spelling of a role of this domain, with exactly its two targets, or these and its manifests
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bundle_publisher import manifests
from trustfed.errors import Denied, Invalid
from trustfed.federation import cluster_document, envelope
from trustfed.federation.envelope import PublicationKey
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import TrustDomain, shown

SPEC_VERSION = "1.0.31"
LIFE = timedelta(days=30)
"""From signing to expiry, always: so the time of signing can be read off the expiry."""
MAX_BYTES = 4096
AHEAD = timedelta(hours=1)
"""How far a role's version, which is the time of its signing, may lie in the hub's future: an end that nobody can reach
in one step, so that a stolen key cannot use the numbers up."""
MAX_NAME = 190  # `SHA256.NAME` and `VERSION.NAME.json` are single names in a folder, of 255 bytes at most
RESERVED = frozenset({"root", "targets", "snapshot", "timestamp"})
MAX_VERSION = 2**53 - 1

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Listed:
    """A target file as a role lists it."""

    length: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Listed:
        """How these bytes are listed."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Role:
    """A verified role: only `open_role` makes one. `data` are the exact bytes, to be published."""

    trust_domain: TrustDomain
    version: int
    expires: datetime
    envelope: Listed
    cluster: Listed
    data: bytes
    mesh: Listed | None = None

    @property
    def signed_at(self) -> datetime:
        """When the domain signed it, to the second."""
        return self.expires - LIFE

    @property
    def files(self) -> tuple[str, ...]:
        """The names that its target files are published under (TUF §6.2, consistent snapshots): two, or three."""
        name = self.trust_domain.name
        found = (f"envelopes/{self.envelope.sha256}.{name}", f"clusters/{self.cluster.sha256}.{name}")
        return found if self.mesh is None else (*found, f"mesh/{self.mesh.sha256}.{name}")


def target_paths(trust_domain: TrustDomain) -> tuple[str, str, str]:
    """The targets that a domain's role may list, as TUF clients ask for them."""
    return f"envelopes/{trust_domain.name}", f"clusters/{trust_domain.name}", f"mesh/{trust_domain.name}"


def role_file(trust_domain: str, version: int) -> str:
    """The name that this version of a domain's role is published under."""
    return f"tuf/{version}.{trust_domain}.json"


def check_name(trust_domain: TrustDomain) -> None:
    """Raise Invalid for a domain that no role can be named after."""
    if trust_domain.name in RESERVED:
        raise Invalid(f"trust domain {trust_domain} has the name of one of TUF's own roles", hint="plain bundles only")
    if len(trust_domain.name) > MAX_NAME:
        raise Invalid(
            f"the name of trust domain {shown(trust_domain.name)} is longer than {MAX_NAME} characters",
            hint="file names end at 255: it is published as a plain bundle only",
        )


@lru_cache(maxsize=4096)
def key_id(key: PublicationKey) -> str:
    """The id of a key in TUF metadata (§4.2): SHA-256 of its canonical JSON."""
    pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    spelled = f'{{"keytype":"ecdsa","keyval":{{"public":"{pem}"}},"scheme":"ecdsa-sha2-nistp256"}}'
    return hashlib.sha256(spelled.encode()).hexdigest()


def payload_to_sign(
    trust_domain: TrustDomain,
    version: int,
    signed_at: datetime,
    envelope_data: bytes,
    cluster_data: bytes,
    mesh: Listed | None = None,
) -> bytes:
    """What the publication key signs for these target files. `version` must be above every one before it."""
    check_name(trust_domain)
    listed = (Listed.of(envelope_data), Listed.of(cluster_data), mesh)
    return strict_json.write(_signed(trust_domain, version, _expires(signed_at), *listed))


def assemble(
    trust_domain: TrustDomain,
    version: int,
    signed_at: datetime,
    envelope_data: bytes,
    cluster_data: bytes,
    der_signature: bytes,
    key: PublicationKey,
    mesh: Listed | None = None,
) -> Role:
    """The role with the signature that a key store made over `payload_to_sign`; opened before it is returned.

    Raises Invalid or Denied.
    """
    listed = (Listed.of(envelope_data), Listed.of(cluster_data), mesh)
    document = {
        "signatures": [{"keyid": key_id(key), "sig": der_signature.hex()}],
        "signed": _signed(trust_domain, version, _expires(signed_at), *listed),
    }
    return open_role(strict_json.write(document), trust_domain, key)


def open_role(data: bytes, trust_domain: TrustDomain, key: PublicationKey) -> Role:
    """The role in `data`, if it is `trust_domain`'s and signed by `key`. Its expiry is the caller's to judge.

    Raises Invalid (form) or Denied (key).
    """
    check_name(trust_domain)
    what = f"the role of {trust_domain}"
    document = strict_json.parse_object(data, what=what, limit=MAX_BYTES)  # 1
    if set(document) != {"signatures", "signed"} or not isinstance(document["signed"], dict):
        raise Invalid(f"{what} must have exactly the members signatures and signed")
    signature = _signature(document["signatures"], key, what)  # 2
    signed = document["signed"]
    try:
        key.public_key.verify(signature, strict_json.write(signed), ECDSA(SHA256()))  # 3
    except InvalidSignature:
        raise Denied(f"{what} has a signature that the key {key.fingerprint} did not make") from None
    role = _read(signed, trust_domain, data, what)  # 4
    if _signed(trust_domain, role.version, role.expires, role.envelope, role.cluster, role.mesh) != signed:
        raise Invalid(f"{what} has another form than a role of that domain")
    return role


def check_lists(role: Role, envelope_data: bytes, cluster_data: bytes, mesh_data: bytes | Listed | None = None) -> None:
    """Raise Denied unless the role lists exactly these files; `Listed` stands for one that was hashed before."""
    for name, listed, data in (
        ("envelope", role.envelope, envelope_data),
        ("cluster document", role.cluster, cluster_data),
        ("file of manifests", role.mesh, mesh_data),
    ):
        if (Listed.of(data) if isinstance(data, bytes) else data) != listed:
            raise Denied(f"the role of {role.trust_domain} lists another {name} than the one that came with it")


def _signed(
    trust_domain: TrustDomain,
    version: int,
    expires: datetime,
    listed_envelope: Listed,
    listed_cluster: Listed,
    listed_mesh: Listed | None,
) -> dict[str, object]:
    envelopes, clusters, mesh = target_paths(trust_domain)
    targets = {clusters: _file(listed_cluster), envelopes: _file(listed_envelope)}
    if listed_mesh is not None:
        targets[mesh] = _file(listed_mesh)
    return {
        "_type": "targets",
        "expires": expires.strftime(_TIME),
        "spec_version": SPEC_VERSION,
        "targets": targets,
        "version": version,
    }


def _file(listed: Listed) -> dict[str, object]:
    return {"hashes": {"sha256": listed.sha256}, "length": listed.length}


def _expires(signed_at: datetime) -> datetime:
    return signed_at.astimezone(UTC).replace(microsecond=0) + LIFE


def _signature(found: object, key: PublicationKey, what: str) -> bytes:
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        raise Invalid(f"{what} must carry exactly one signature")
    if set(found[0]) != {"keyid", "sig"} or not isinstance(found[0]["sig"], str):
        raise Invalid(f"the signature of {what} must have exactly the members keyid and sig")
    if found[0]["keyid"] != key_id(key):
        raise Denied(
            f"{what} is signed by key {shown(found[0]['keyid'])}, not by the publication key {key.fingerprint}",
            hint="only the domain's own publication key may sign its role",
        )
    try:
        signature = bytes.fromhex(found[0]["sig"])
    except ValueError:
        signature = b""
    if not signature or signature.hex() != found[0]["sig"]:
        raise Invalid(f"the signature of {what} is not lower-case hexadecimal")
    return signature


def _read(signed: dict[str, object], trust_domain: TrustDomain, data: bytes, what: str) -> Role:
    version, targets = signed.get("version"), signed.get("targets")
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise Invalid(f"the version of {what} is not a whole number from 1 to {MAX_VERSION}")
    try:
        expires = datetime.strptime(str(signed.get("expires")), _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise Invalid(f"the expiry of {what} is not a time in UTC") from None
    if expires.year < 2000:
        raise Invalid(f"the expiry of {what} is not of this century")
    envelopes, clusters, mesh = target_paths(trust_domain)
    if not isinstance(targets, dict) or set(targets) - {mesh} != {envelopes, clusters}:
        raise Invalid(f"{what} must list exactly {envelopes} and {clusters}, or these and {mesh}")
    return Role(
        trust_domain,
        version,
        expires,
        _listed(targets[envelopes], envelope.MAX_BYTES, what),
        _listed(targets[clusters], cluster_document.MAX_BYTES, what),
        data,
        _listed(targets[mesh], manifests.MAX_BYTES, what) if mesh in targets else None,
    )


def _listed(found: object, most: int, what: str) -> Listed:
    length = found.get("length") if isinstance(found, dict) else None
    hashes = found.get("hashes") if isinstance(found, dict) else None
    sha256 = hashes.get("sha256") if isinstance(hashes, dict) else None
    if type(length) is not int or not 1 <= length <= most:
        raise Invalid(f"the length of a target in {what} is not from 1 to {most}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise Invalid(f"the hash of a target in {what} is not a SHA-256")
    return Listed(length, sha256)
