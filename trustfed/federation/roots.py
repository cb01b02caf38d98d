"""The federation's roots as a versioned document, each version vouched for by the one before (TUF §5.3).

A root set names the root certificates, how many of their keys must sign (`threshold`), and the hub:

    {"hub": {"spiffe_id": ID, "trust_domain": NAME}, "roots": [base64 DER, ...], "threshold": int, "version": int}

as canonical JSON. It travels in DSSE, signed by its own roots' keys and, from version 2 on, also by those of the
version before. A reader pins one version by its hash (an enrolment token carries it) and walks from there, version by
version.

A document is taken as the next version, in this order:
 1. size, DSSE form, canonical payload, bounds, each certificate is a root's
 2. its version is the current one plus 1
 3. at least `threshold` of the current roots' keys signed it
 4. at least its own `threshold` of its own roots' keys signed it
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trustfed.errors import Denied, Invalid
from trustfed.federation import dsse
from trustfed.federation.dsse import Signature
from trustfed.spiffe import keys, strict_json
from trustfed.spiffe.certificate import Certificate, check_signature_algorithm, read
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

PAYLOAD_TYPE = "application/vnd.trustfed.roots+json"
MAX_ROOTS = 10
MAX_BYTES = 131_072
"""128 KiB: the largest signed root set that is made or read."""
MAX_ANSWER = 4_194_304
"""4 MiB: the longest list of signed root sets that is read."""
MAX_WALK = 1024
"""Versions in one walk."""
MAX_VERSION = 2**31 - 1


@dataclass(frozen=True)
class RootSet:
    """One version of the roots: `roots` are certificates (DER), `data` the canonical bytes, hashed and signed."""

    version: int
    roots: tuple[bytes, ...]
    threshold: int
    hub: SpiffeId
    data: bytes

    @classmethod
    def of(cls, version: int, roots: Sequence[bytes], hub: SpiffeId, threshold: int = 1) -> RootSet:
        """A new root set, not signed yet. Raises Invalid when it breaks a bound or a certificate is not a root's."""
        document: dict[str, object] = {
            "hub": {"spiffe_id": str(hub), "trust_domain": hub.trust_domain.name},
            "roots": [base64.b64encode(der).decode("ascii") for der in roots],
            "threshold": threshold,
            "version": version,
        }
        return cls.parse(strict_json.write(document))

    @classmethod
    def parse(cls, data: bytes) -> RootSet:
        """The root set in its canonical bytes (`.marshal()`), as kept after verification. Raises Invalid."""
        document = strict_json.parse_object(data, what="the root set", limit=MAX_BYTES)
        dsse.members(document, {"hub", "roots", "threshold", "version"}, "the root set")
        listed = document["roots"]
        if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_ROOTS:
            raise Invalid(f"the root set must hold 1 to {MAX_ROOTS} roots")
        roots = tuple(keys.base64_bytes(text, f"root {index} of the root set") for index, text in enumerate(listed))
        version = _whole(document["version"], "version", MAX_VERSION)
        threshold = _whole(document["threshold"], "threshold", len(roots))
        found = cls(version, roots, threshold, _hub(document["hub"]), bytes(data))
        if len(found.key_ids) != len(roots):
            raise Invalid(f"root set {version} names one key twice")
        if strict_json.write(document) != data:
            raise Invalid(f"root set {version} is not spelled in canonical JSON")
        return found

    def marshal(self) -> bytes:
        """The canonical bytes: `data`."""
        return self.data

    @property
    def hash(self) -> str:
        """`sha256:hex` over `data`: what a token pins."""
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    @functools.cached_property
    def key_ids(self) -> Mapping[str, bytes]:
        """Key id (`sha256:hex` over the SPKI) → root certificate (DER), for every root."""
        return {key_id(_root(der, index).public_key): der for index, der in enumerate(self.roots)}

    def payload_to_sign(self) -> bytes:
        """What the root keys sign (ECDSA P-256 / SHA-256): the DSSE PAE bytes."""
        return dsse.encoding_to_sign(PAYLOAD_TYPE, self.data)


def key_id(key: object) -> str:
    """`sha256:hex` over the SPKI of a root's public key. Raises Invalid unless it is ECDSA P-256."""
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise Invalid("a root key must be an ECDSA key on P-256")
    return "sha256:" + hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def assemble(root_set: RootSet, signatures: Sequence[Signature], previous: RootSet | None = None) -> bytes:
    """The signed document; `previous` is version n - 1, None for the first. Raises Invalid or Denied, as readers would.

    A Signature is (`key_id` of the root's key, DER signature over `payload_to_sign()`).
    """
    document = dsse.encode(PAYLOAD_TYPE, root_set.data, signatures)
    if previous is None:
        if root_set.version != 1:
            raise Denied(
                f"root set {root_set.version} cannot be first: it must be signed under {root_set.version - 1} too"
            )
        pin(document, root_set.version, root_set.hash)
    else:
        _follow(previous, document)
    return document


def pin(document: bytes, version: int, hash: str) -> RootSet:
    """The root set in a signed document if it has the version and hash that a token names. Invalid or Denied."""
    root_set, signatures = _open(document)
    if root_set.version != version or root_set.hash != hash:
        raise Denied(
            f"the server's root set {root_set.version} ({root_set.hash}) is not the pinned {version} ({shown(hash)})",
            hint="the token is for another federation, or somebody answers in the server's place",
        )
    _require(root_set, signatures, root_set)
    return root_set


def listed(body: bytes) -> tuple[bytes, ...]:
    """The signed documents in a server's answer `{"documents": [text, ...]}`, version n at index n - 1; none is verified.

    Raises Invalid, whatever the bytes are: nobody has proved who sent them.
    """
    try:
        documents = strict_json.parse_object(body, what="the root sets", limit=MAX_ANSWER)["documents"]
        assert isinstance(documents, list)
        return tuple(document.encode("ascii") for document in documents)
    except (KeyError, AssertionError, AttributeError, UnicodeEncodeError):
        raise Invalid(
            "the server's root documents are malformed", hint="is it the HTTPS door of a trustfed hub or cluster?"
        ) from None


def pinned(documents: Sequence[bytes], version: int, hash: str, now: datetime) -> RootSet:
    """The newest root set of all that a server listed, reached from the one that a token pins. Invalid or Denied.

    The versions before the pinned one are kept only to count by: nobody starts from them.
    """
    if len(documents) < version:
        raise Denied(
            f"the server has {len(documents)} root set versions, the token pins version {version}",
            hint="the token is for another federation",
        )
    return advance(pin(documents[version - 1], version, hash), documents[version:], now)


def advance(current: RootSet, documents: Sequence[bytes], now: datetime) -> RootSet:
    """The newest root set, reached from `current` one version at a time. Invalid or Denied name the version at fault.

    A document of the version just reached is skipped when it is the same. The roots in between may have expired (a
    cluster can have been away for long); of the last version at least one must be valid at `now` (aware).
    """
    if len(documents) > MAX_WALK:
        raise Invalid(f"{len(documents)} root sets in one walk; at most {MAX_WALK} are read", hint="walk in parts")
    for document in documents:
        current = _follow(current, document)
    roots = [_root(der, index) for index, der in enumerate(current.roots)]
    if not any(root.not_before <= now <= root.not_after for root in roots):
        raise Denied(
            f"no root of root set {current.version} is valid at {now.isoformat()}",
            hint="is this machine's clock right? Otherwise fetch newer root sets from the hub",
        )
    return current


def _follow(current: RootSet, document: bytes) -> RootSet:
    following, signatures = _open(document)  # 1
    if following.version == current.version and following.data == current.data:
        return current
    if following.version != current.version + 1:  # 2
        raise Denied(
            f"root set {following.version} does not follow root set {current.version}: {current.version + 1} must"
        )
    _require(current, signatures, following)  # 3
    _require(following, signatures, following)  # 4
    return following


def _open(document: bytes) -> tuple[RootSet, list[Signature]]:
    payload, signatures = dsse.decode(
        document, PAYLOAD_TYPE, "the signed root set", max_bytes=MAX_BYTES, max_signatures=2 * MAX_ROOTS
    )
    return RootSet.parse(payload), signatures


def _require(signers: RootSet, signatures: Sequence[Signature], signed: RootSet) -> None:
    """Raise Denied unless enough different keys of `signers` signed. Other signatures do not count and do not harm."""
    message, good = signed.payload_to_sign(), set()
    for signature in signatures:
        der = signers.key_ids.get(signature.key_id)
        if der is None or signature.key_id in good:
            continue
        key = _root(der, 0).public_key
        try:
            if isinstance(key, EllipticCurvePublicKey):
                key.verify(signature.value, message, ECDSA(SHA256()))
                good.add(signature.key_id)
        except InvalidSignature:
            continue
    if len(good) < signers.threshold:
        raise Denied(
            f"root set {signed.version} is signed by {len(good)} of the {signers.threshold} root keys that "
            f"version {signers.version} asks for"
        )


def _root(der: bytes, index: int) -> Certificate:
    """A root certificate: a CA, signed by itself, on P-256. Its validity is not looked at. Raises Invalid."""
    what = f"root {index} of the root set"
    root = read(der, what)
    key_id(root.public_key)
    check_signature_algorithm(root, what)
    if not root.ca or root.key_usage is None or not root.key_usage.key_cert_sign:
        raise Invalid(f"{what} is not a CA certificate")
    try:
        root.parsed.verify_directly_issued_by(root.parsed)
    except (InvalidSignature, ValueError, TypeError):
        raise Invalid(f"{what} is not signed by itself") from None
    return root


def _hub(value: object) -> SpiffeId:
    if not isinstance(value, dict):
        raise Invalid("hub in the root set is not an object")
    dsse.members(value, {"spiffe_id", "trust_domain"}, "hub in the root set")
    if not isinstance(value["spiffe_id"], str) or not isinstance(value["trust_domain"], str):
        raise Invalid("hub in the root set must hold strings")
    hub = SpiffeId.parse(value["spiffe_id"])
    if hub.trust_domain != TrustDomain.parse(value["trust_domain"]):
        raise Invalid(f"hub in the root set: {hub} is not in trust domain {shown(value['trust_domain'])}")
    return hub


def _whole(value: object, name: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise Invalid(f"{name} of the root set is {shown(value)}, not a whole number from 1 to {most}")
    return value


def reopen(document: bytes) -> RootSet:
    """A document that this process verified before it stored it; its own roots' signatures are checked again."""
    root_set, signatures = _open(document)
    _require(root_set, signatures, root_set)
    return root_set
