"""python-tuf's Metadata API in the words of this house: bytes in, verified values out, signatures from our key stores.

Only who builds, verifies or signs a repository's top-level metadata imports this: python-tuf costs 27 MB and half a
second, because its signing library looks for every cloud's SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Protocol, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import (  # type: ignore[attr-defined]  # it does not say what it exports
    Signature,
    SSlibKey,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]  # it does not say what it exports
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from trustfed.errors import Invalid
from trustfed.federation.envelope import PublicationKey

ONLINE = ("targets", "snapshot", "timestamp")
"""The roles whose keys the hub holds."""
LIMITS = {"root": 65_536, "targets": 5_000_000, "snapshot": 2_000_000, "timestamp": 16_384}
"""Bytes; at most what python-tuf's client reads (tuf.ngclient.UpdaterConfig)."""

T = TypeVar("T", Root, Targets, Snapshot, Timestamp)


class Signer(Protocol):
    """A key store, as far as a repository needs one: named P-256 keys."""

    async def public_key(self, name: str) -> EllipticCurvePublicKey:
        """The public half of a key. Raises NotFound."""
        ...

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        """ECDSA with SHA-256, ASN.1 DER, one for each message."""
        ...


@lru_cache(maxsize=4096)
def tuf_key(key: PublicationKey) -> SSlibKey:
    """A P-256 key as TUF metadata names it."""
    return SSlibKey.from_crypto(key.public_key)


def publication_key(key: object) -> PublicationKey:
    """The key that TUF metadata names. Raises Invalid unless it is ECDSA on P-256 under its right id."""
    try:
        pem = cast(SSlibKey, key).keyval["public"].encode()
        found = PublicationKey.of(cast(EllipticCurvePublicKey, load_pem_public_key(pem)))
    except Invalid:
        raise
    except Exception:  # whatever a library finds wrong with a key
        raise Invalid("a key in TUF metadata is no public key") from None
    if tuf_key(found) != key:
        raise Invalid("a key in TUF metadata is not in its one form: ECDSA on P-256, id by its content")
    return found


def parse(data: bytes, kind: type[T], what: str) -> Metadata[T]:
    """Metadata of this kind; nothing is verified yet. Raises Invalid."""
    limit = LIMITS[kind.type]
    if len(data) > limit:
        raise Invalid(f"{what} has {len(data)} bytes, more than {limit}")
    try:
        found: Metadata[T] = Metadata.from_bytes(data)
    except Exception:  # the deserializer's own error says nothing of use
        raise Invalid(f"{what} is no TUF metadata") from None
    if found.signed.type != kind.type:
        raise Invalid(f"{what} is TUF metadata of {found.signed.type}, not of {kind.type}")
    if type(found.signed.version) is not int:
        raise Invalid(f"the version of {what} is not a whole number")
    return found


def signed_by(metadata: Metadata[T], root: Root) -> bool:
    """Whether the keys that `root` names for this role signed."""
    try:
        role = metadata.signed.type
        return bool(root.get_verification_result(role, metadata.signed_bytes, metadata.signatures))
    except Exception:  # a signature in an odd form, numbers without a canonical form
        return False


def assemble(signed: Signed, signatures: Mapping[str, bytes]) -> bytes:
    """The metadata file, with DER signatures by key id."""
    made = {key_id: Signature(key_id, der.hex()) for key_id, der in signatures.items()}
    return Metadata(signed, made).to_bytes()  # type: ignore[type-var]


def payload_to_sign(signed: Signed) -> bytes:
    """What is signed: TUF's canonical JSON."""
    return Metadata(signed).signed_bytes  # type: ignore[type-var]


def described(data: bytes, version: int) -> MetaFile:
    """How a file of metadata is listed by the role above it: version, length and hash."""
    return MetaFile.from_data(version, data, ["sha256"])


def next_version(now: datetime, *above: int) -> int:
    """A version above all of `above`, and above every one made in an earlier second.

    Versions are times, so that they rise even when the store was put back, or lost, and with it what was published.
    """
    return max(int(now.timestamp()), *(number + 1 for number in above), 1)
