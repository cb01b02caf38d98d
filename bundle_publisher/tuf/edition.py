"""One edition of the protected publication: what is to be published (`Wanted`) and the signed files that say so.

Top to bottom: timestamp → snapshot → (targets → one delegated role per trust domain) → its two target files. An edition
is cut once, and the same bytes go to every target. What was published is never taken back: a version only rises, a
name never leaves the snapshot (TUF §5.5), and a role that a target holds in a newer version is taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tuf.api.metadata import (  # type: ignore[attr-defined]  # it does not say what it exports
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Snapshot,
    Targets,
    Timestamp,
)

from bundle_publisher.targets.port import Document
from bundle_publisher.tuf.delegated import Role, role_file, target_paths
from bundle_publisher.tuf.metadata import (
    Signer,
    assemble,
    described,
    next_version,
    parse,
    payload_to_sign,
    publication_key,
    tuf_key,
)
from trustfed.federation.envelope import PublicationKey

TIMESTAMP = "tuf/timestamp.json"
LIFE = timedelta(days=30)
"""Of targets and snapshot; they are signed anew when less than RENEW is left."""
RENEW = timedelta(days=20)
FOR_EVER = "public, max-age=31536000, immutable"
ASK_ALWAYS = "no-cache"
"""A cache may keep the timestamp, and asks each time whether it still holds (RFC 9111 §5.2.2.4)."""


@dataclass(frozen=True)
class Part:
    """What one trust domain publishes: its role and the files that the role lists.

    `mesh` reads the manifests when they are written somewhere: they are large, and lie on the disk. It gives None when
    they are not there any more; then a target that has the role has them, or gets them when their cluster comes back.
    """

    key: PublicationKey
    role: Role
    envelope: bytes
    cluster_document: bytes
    mesh: Callable[[], bytes | None] = field(default=lambda: None, compare=False)

    def documents(self) -> list[Document]:
        """The two small target files."""
        names = self.role.files
        return [
            Document(names[0], self.envelope, cache_control=FOR_EVER),
            Document(names[1], self.cluster_document, cache_control=FOR_EVER),
        ]

    def manifests(self) -> Document | None:
        """The large one, read now; None when the role lists none or it is not there."""
        data = self.mesh() if self.role.mesh is not None else None
        return None if data is None else Document(self.role.files[2], data, "application/yaml", FOR_EVER)


@dataclass(frozen=True)
class Wanted:
    """What is to be published: all roots, and the part of each domain by name.

    `keys` names every domain that is known: its publication key, or None for one that takes part no more. `floors` are
    the versions that were ever accepted of a role: nothing lower is published under that name.
    """

    roots: tuple[bytes, ...]
    parts: Mapping[str, Part] = field(default_factory=dict)
    keys: Mapping[str, PublicationKey | None] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Top:
    """The three files that the hub's own keys sign, as they were read or made: consistent with each other."""

    targets: Metadata[Targets]
    targets_data: bytes
    snapshot: Metadata[Snapshot]
    snapshot_data: bytes
    timestamp: Metadata[Timestamp]
    timestamp_data: bytes
    current: bool = True
    """Signed by the keys that the newest root names."""

    def roles(self) -> dict[str, MetaFile]:
        """The version of each domain's role that the snapshot lists, by domain."""
        listed = self.snapshot.signed.meta.items()
        return {name.removesuffix(".json"): meta for name, meta in listed if name != "targets.json"}

    def key_of(self, domain: str) -> PublicationKey | None:
        """The key that a domain's role is delegated to here. Raises Invalid for one that is no P-256 key."""
        delegations = self.targets.signed.delegations
        role = delegations.roles.get(domain) if delegations and delegations.roles else None
        if delegations is None or role is None or len(role.keyids) != 1 or role.keyids[0] not in delegations.keys:
            return None
        return publication_key(delegations.keys[role.keyids[0]])

    def due(self, ttl: timedelta) -> datetime:
        """When something of it must be signed anew."""
        return min(
            self.timestamp.signed.expires - ttl / 2,
            self.snapshot.signed.expires - RENEW,
            self.targets.signed.expires - RENEW,
        )


@dataclass(frozen=True)
class Edition:
    """Everything of one publication."""

    roots: tuple[bytes, ...]
    top: Top
    parts: Mapping[str, Part]

    def files(self) -> list[list[Document]]:
        """All but the large ones and the timestamp, in the order in which they must be there: each list rests on those before."""
        return [
            [document for part in self.parts.values() for document in part.documents()],
            [_json(role_file(name, part.role.version), part.role.data) for name, part in self.parts.items()],
            [_json(f"tuf/{self.top.targets.signed.version}.targets.json", self.top.targets_data)],
            [_json(f"tuf/{self.top.snapshot.signed.version}.snapshot.json", self.top.snapshot_data)],
            # Right before the timestamp: with a new online key readers need both, and fail closed in between.
            *([_json(f"tuf/{number}.root.json", data)] for number, data in enumerate(self.roots, start=1)),
        ]

    def large(self) -> dict[str, Callable[[], Document | None]]:
        """The files of manifests by name, each read when it is written: together they do not fit into memory."""
        return {part.role.files[2]: part.manifests for part in self.parts.values() if part.role.mesh is not None}

    def timestamp(self) -> Document:
        """The file that makes this edition the published one."""
        return Document(TIMESTAMP, self.top.timestamp_data, cache_control=ASK_ALWAYS)


def shows(top: Top, wanted: Wanted) -> bool:
    """Whether what is published says all that is wanted, with nothing to sign anew but for age."""
    if not top.current or top.targets.signed.delegations != _delegations(wanted.parts):
        return False
    listed = top.roles()
    for name, part in wanted.parts.items():
        if listed.get(name) != described(part.role.data, part.role.version):
            return False
    return all(name in listed and listed[name].version >= floor for name, floor in wanted.floors.items())


async def cut(
    wanted: Wanted,
    before: Sequence[Top],
    signer: Signer,
    names: Mapping[str, str],
    now: datetime,
    ttl: timedelta,
    *,
    above: int = 0,
) -> Top:
    """Sign what says `wanted`, above all of `before` and the version `above`; what is newest and still says it stays.

    `names` are the signer's keys for targets, snapshot and timestamp. Raises what the signer raises.
    """
    kept = newest_of(before)
    above = max(above, clash(before))
    # Hundreds of domains take a while to spell out and to read: the loop goes on meanwhile.
    delegations, meta = await asyncio.to_thread(_tables, wanted, before)
    key_ids = await _key_ids(signer, names)

    versions = [above, *(top.targets.signed.version for top in before)]
    targets, targets_data = (kept.targets, kept.targets_data) if kept else (None, b"")
    if targets is None or targets.signed.delegations != delegations or not _stays(targets.signed, versions, now):
        new_targets = Targets(next_version(now, *versions), None, now + LIFE, {}, delegations)
        targets_data = await _sign(new_targets, "targets", signer, names, key_ids)
        targets = await asyncio.to_thread(parse, targets_data, Targets, "targets")
    meta["targets.json"] = described(targets_data, targets.signed.version)

    versions = [above, *(top.snapshot.signed.version for top in before)]
    snapshot, snapshot_data = (kept.snapshot, kept.snapshot_data) if kept else (None, b"")
    if snapshot is None or snapshot.signed.meta != meta or not _stays(snapshot.signed, versions, now):
        new_snapshot = Snapshot(next_version(now, *versions), None, now + LIFE, meta)
        snapshot_data = await _sign(new_snapshot, "snapshot", signer, names, key_ids)
        snapshot = await asyncio.to_thread(parse, snapshot_data, Snapshot, "snapshot")

    versions = [above, *(top.timestamp.signed.version for top in before)]
    listed = described(snapshot_data, snapshot.signed.version)
    new_timestamp = Timestamp(next_version(now, *versions), None, now + ttl, listed)
    timestamp_data = await _sign(new_timestamp, "timestamp", signer, names, key_ids)
    timestamp = parse(timestamp_data, Timestamp, "timestamp")
    return Top(targets, targets_data, snapshot, snapshot_data, timestamp, timestamp_data)


def _stays(signed: Targets | Snapshot, versions: Sequence[int], now: datetime) -> bool:
    """Whether this one need not be signed anew: above `versions[0]`, the newest of the others, and far from its end."""
    return versions[0] < signed.version == max(versions) and signed.expires - now > RENEW


def newest_of(tops: Sequence[Top]) -> Top | None:
    """The one that readers would take over all others, if there is one."""
    return max(tops, key=lambda top: top.timestamp.signed.version, default=None)


def clash(tops: Sequence[Top]) -> int:
    """The highest version that two of these give to different files, as publishers that know nothing of each other may;
    0 when there is none.
    """
    found = 0
    for files in (
        [(top.timestamp.signed.version, top.timestamp_data) for top in tops],
        [(top.snapshot.signed.version, top.snapshot_data) for top in tops],
        [(top.targets.signed.version, top.targets_data) for top in tops],
    ):
        for version, data in files:
            if any(version == other and data != of_other for other, of_other in files):
                found = max(found, version)
    return found


def leads(top: Top, tops: Sequence[Top]) -> bool:
    """Whether no part of `top` is older than the same part of any of `tops`."""
    return all(
        other.timestamp.signed.version <= top.timestamp.signed.version
        and other.snapshot.signed.version <= top.snapshot.signed.version
        and other.targets.signed.version <= top.targets.signed.version
        for other in tops
    )


def publishable(wanted: Wanted, before: Sequence[Top]) -> Wanted:
    """What may be published of `wanted`: a part below a version that was published of its name waits until it is above."""
    highest = dict(wanted.floors)
    for top in before:
        for name, meta in top.roles().items():
            highest[name] = max(highest.get(name, 0), meta.version)
    parts = {name: part for name, part in sorted(wanted.parts.items()) if part.role.version >= highest.get(name, 0)}
    return Wanted(wanted.roots, parts, wanted.keys, wanted.floors)


def _tables(wanted: Wanted, before: Sequence[Top]) -> tuple[Delegations, dict[str, MetaFile]]:
    return _delegations(wanted.parts), _meta(wanted, before)


def _delegations(parts: Mapping[str, Part]) -> Delegations:
    roles, keys = {}, dict[str, Key]()
    for name, part in sorted(parts.items()):
        key = tuf_key(part.key)
        keys[key.keyid] = key
        paths = list(target_paths(part.role.trust_domain))
        roles[name] = DelegatedRole(name, [key.keyid], 1, terminating=True, paths=paths)
    return Delegations(keys, roles)


def _meta(wanted: Wanted, before: Sequence[Top]) -> dict[str, MetaFile]:
    """The snapshot's list: no name ever leaves it, and no version goes down."""
    listed: dict[str, MetaFile] = {}
    for name, floor in wanted.floors.items():
        listed[name] = MetaFile(floor)
    for top in before:
        for name, meta in top.roles().items():
            if name not in listed or meta.version >= listed[name].version:
                listed[name] = meta
    for name, part in wanted.parts.items():
        listed[name] = described(part.role.data, part.role.version)
    return {f"{name}.json": meta for name, meta in sorted(listed.items())}


async def _sign(
    signed: Targets | Snapshot | Timestamp,
    role: str,
    signer: Signer,
    names: Mapping[str, str],
    key_ids: Mapping[str, str],
) -> bytes:
    payload = await asyncio.to_thread(payload_to_sign, signed)
    (signature,) = await signer.sign(names[role], [payload])
    return await asyncio.to_thread(assemble, signed, {key_ids[role]: signature})


async def _key_ids(signer: Signer, names: Mapping[str, str]) -> dict[str, str]:
    public = {role: await signer.public_key(name) for role, name in names.items()}
    return {role: tuf_key(PublicationKey.of(key)).keyid for role, key in public.items()}


def _json(name: str, data: bytes) -> Document:
    return Document(name, data, cache_control=FOR_EVER)
