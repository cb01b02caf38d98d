"""The root of the protected publication, as a ceremony: made, signed by several people offline, installed (TUF §5.3, §6.1).

A root names the threshold of offline keys that sign the next one, and the hub's three online keys. The rules:
 1. form: four roles, P-256 keys only, consistent snapshots, no key in two roles, the online roles one key each
 2. it is signed by its own threshold of its own root keys
 3. version n + 1 is also signed by the threshold of version n
 4. it has not expired when it is installed
All versions stay published, for readers walk from the one that they pinned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from tuf.api.metadata import Key, Metadata, Role, Root  # type: ignore[attr-defined]  # it does not say what it exports

from bundle_publisher.tuf.metadata import ONLINE, assemble, parse, payload_to_sign, publication_key, tuf_key
from trustfed.errors import Conflict, Denied, Invalid
from trustfed.federation.envelope import PublicationKey
from trustfed.spiffe import strict_json

MAX_BYTES = 65_536
MAX_KEYS = 16
MAX_VERSIONS = 256  # as many as python-tuf's client walks at once
MAX_LIFE = timedelta(days=3660)


@dataclass(frozen=True)
class Standing:
    """How a root stands in its ceremony: who has signed of its own keys, and of those of the version before."""

    version: int
    expires: datetime
    threshold: int
    signed: tuple[str, ...]  # fingerprints
    unsigned: tuple[str, ...]
    missing: int
    previous_signed: tuple[str, ...] = ()
    previous_unsigned: tuple[str, ...] = ()
    previous_missing: int = 0

    @property
    def complete(self) -> bool:
        """Whether enough have signed."""
        return not self.missing and not self.previous_missing


def create(
    online: Mapping[str, PublicationKey],
    offline: Sequence[PublicationKey],
    threshold: int,
    expires: datetime,
    *,
    previous: bytes | None = None,
) -> bytes:
    """A root that nobody has signed yet: version 1, or the one after `previous`. Raises Invalid."""
    version = _form(previous).signed.version + 1 if previous else 1
    if not 1 <= threshold <= len(offline) <= MAX_KEYS:
        raise Invalid(
            f"a threshold of {threshold} does not fit {len(offline)} offline keys",
            hint=f"from 1 to the number of keys, which is at most {MAX_KEYS}",
        )
    if len({*offline, *online.values()}) != len(offline) + len(online):
        raise Invalid("one key is named twice", hint="every person, and every online role, has a key of its own")
    if set(online) != set(ONLINE):
        raise Invalid(
            "the online keys must be those of targets, snapshot and timestamp", hint="trustfed publication keys"
        )
    roles = {"root": Role([tuf_key(key).keyid for key in offline], threshold)}
    roles |= {name: Role([tuf_key(online[name]).keyid], 1) for name in ONLINE}
    keys: dict[str, Key] = {tuf_key(key).keyid: tuf_key(key) for key in (*offline, *online.values())}
    root = Root(version, None, expires.replace(microsecond=0), keys, roles, consistent_snapshot=True)
    return assemble(_check(root), {})


def renew(
    previous: bytes,
    expires: datetime,
    *,
    online: Mapping[str, PublicationKey] | None = None,
    offline: Sequence[PublicationKey] | None = None,
    threshold: int | None = None,
) -> bytes:
    """The version after `previous`, unsigned: as it is but for what is given."""
    old = _form(previous).signed
    return create(
        online if online is not None else online_keys(old),
        offline if offline is not None else offline_keys(old),
        threshold if threshold is not None else old.roles["root"].threshold,
        expires,
        previous=previous,
    )


def sign(document: bytes, key: EllipticCurvePrivateKey, *, previous: bytes | None = None) -> bytes:
    """The same root with one more signature. Invalid for a key that neither it nor `previous` names."""
    metadata, mine = _form(document), PublicationKey.of(key.public_key())
    key_id = tuf_key(mine).keyid
    named = set(metadata.signed.roles["root"].keyids)
    if previous is not None:
        named |= set(_form(previous).signed.roles["root"].keyids)
    if key_id not in named:
        raise Invalid(
            f"the key {mine.fingerprint} is none of this root's keys",
            hint="a key that signs for the version before it only wants --previous FILE",
        )
    try:
        made = {held: bytes.fromhex(signature.signature) for held, signature in metadata.signatures.items()}
    except ValueError:
        raise Invalid("a signature in the root is not hexadecimal", hint="begin with an unsigned one") from None
    made[key_id] = key.sign(payload_to_sign(metadata.signed), ECDSA(SHA256()))
    return assemble(metadata.signed, made)


def standing(document: bytes, previous: bytes | None = None) -> Standing:
    """Who has signed, and how many must yet. Raises Invalid, and Conflict when it does not follow `previous`."""
    metadata = _form(document)
    root, payload = metadata.signed, metadata.signed_bytes
    own = root.get_verification_result("root", payload, metadata.signatures)
    given = Standing(
        root.version,
        root.expires,
        root.roles["root"].threshold,
        _fingerprints(own.signed),
        _fingerprints(own.unsigned),
        own.missing,
    )
    if previous is None:
        return given
    old = _form(previous).signed
    if root.version != old.version + 1:
        raise Conflict(f"root version {root.version} does not follow version {old.version}")
    before = old.get_verification_result("root", payload, metadata.signatures)
    return Standing(
        *(given.version, given.expires, given.threshold, given.signed, given.unsigned, given.missing),
        _fingerprints(before.signed),
        _fingerprints(before.unsigned),
        before.missing,
    )


def check_next(document: bytes, chain: Sequence[bytes], now: datetime) -> Metadata[Root]:
    """The root, if it may be installed after those of `chain`. Raises Invalid, Denied or Conflict."""
    found = standing(document, chain[-1] if chain else None)
    if not chain and found.version != 1:
        raise Conflict(
            f"this is root version {found.version}, and the first is missing", hint="install version 1 first"
        )
    if found.version > MAX_VERSIONS:
        raise Invalid(f"root version {found.version} is above {MAX_VERSIONS}, which no reader walks to")
    if not found.complete:
        raise Denied(
            f"root version {found.version} lacks {found.missing} signature(s) of its own keys"
            + (f" and {found.previous_missing} of version {found.version - 1}'s" if found.previous_missing else ""),
            hint="trustfed publication root sign",
        )
    if found.expires <= now:
        raise Invalid(f"root version {found.version} expired on {found.expires:%Y-%m-%d}", hint="make one that lives")
    return _form(document)


def same(one: bytes, other: bytes) -> bool:
    """Whether both are one root, signed by enough, perhaps by others of its keys."""
    try:
        return _form(one).signed == _form(other).signed and not standing(one).missing and not standing(other).missing
    except Invalid:
        return False


def open_chain(documents: Sequence[bytes]) -> list[Root]:
    """The roots of a chain that was checked when it was installed, oldest first."""
    return [parse(document, Root, "a root").signed for document in documents]


def online_keys(root: Root) -> dict[str, PublicationKey]:
    """The hub's key of each online role."""
    return {name: publication_key(root.keys[root.roles[name].keyids[0]]) for name in ONLINE}


def offline_keys(root: Root) -> list[PublicationKey]:
    """The keys that sign roots."""
    return [publication_key(root.keys[key_id]) for key_id in root.roles["root"].keyids]


def _form(document: bytes) -> Metadata[Root]:
    strict_json.parse_object(document, what="the root", limit=MAX_BYTES)  # what two readers could read in two ways
    metadata = parse(document, Root, "the root")
    _check(metadata.signed)
    return metadata


def _check(root: Root) -> Root:
    """Rule 1."""
    if root.consistent_snapshot is not True:
        raise Invalid("a root of this publication must ask for consistent snapshots")
    if set(root.roles) != {"root", *ONLINE}:
        raise Invalid("a root must name exactly the roles root, targets, snapshot and timestamp")
    named = [key_id for role in root.roles.values() for key_id in role.keyids]
    if len(set(named)) != len(named) or set(named) != set(root.keys):
        raise Invalid("a root must name each of its keys in exactly one role", hint="every role has keys of its own")
    for name in ONLINE:
        if len(root.roles[name].keyids) != 1 or root.roles[name].threshold != 1:
            raise Invalid(f"a root must name one online key for {name}")
    if not 1 <= root.roles["root"].threshold <= len(root.roles["root"].keyids) <= MAX_KEYS:
        raise Invalid("the threshold of a root does not fit the number of its keys")
    for key_id, key in root.keys.items():
        if tuf_key(publication_key(key)).keyid != key_id:
            raise Invalid("a root names a key by another id than its own")
    return root


def _fingerprints(keys: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(sorted(publication_key(key).fingerprint for key in keys.values()))
