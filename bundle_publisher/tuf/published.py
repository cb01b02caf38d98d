"""What a target holds of a protected publication, read back and judged: a target is not believed.

 1. the timestamp, signed under one root of our chain
 2. the snapshot that it lists, with that hash, signed under the same root
 3. the targets role that the snapshot lists, in the same way
 4. the root after our newest: if there is a true one, another publisher knows more than we do

Whatever fails counts as not there: it is replaced, and versions are times, so they rise all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuf.api.metadata import (  # type: ignore[attr-defined]  # it does not say what it exports
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from bundle_publisher.targets.port import Target
from bundle_publisher.tuf import root as roots
from bundle_publisher.tuf.delegated import check_lists, open_role, role_file
from bundle_publisher.tuf.edition import TIMESTAMP, Part, Top
from bundle_publisher.tuf.metadata import T, parse, signed_by
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.spiffe.ids import TrustDomain


@dataclass(frozen=True)
class Published:
    """What is there: the tag of the timestamp (None: there is none), and what it leads to, if it is ours and whole."""

    tag: str | None
    data: bytes
    top: Top | None


async def read(target: Target, chain: Sequence[Root], known: Top | None) -> Published:
    """What `target` holds. `known` is what was cut here last: when it is that, nothing more is read."""
    held = await target.read(TIMESTAMP)
    if held is None:
        return Published(None, b"", None)
    if known is not None and held.data == known.timestamp_data:
        return Published(held.tag, held.data, known)
    try:
        top = await _top(target, chain, held.data)
    except Invalid:
        top = None
    return Published(held.tag, held.data, top)


async def check_no_later_root(target: Target, documents: Sequence[bytes]) -> None:
    """Raise Denied when a root after our newest is published: with our keys readers would refuse everything."""
    number = len(documents) + 1
    held = await target.read(f"tuf/{number}.root.json")
    if held is None:
        return
    try:
        standing = await asyncio.to_thread(roots.standing, held.data, documents[-1])
    except TrustfedError:
        return  # a file that no reader takes for a root
    if standing.complete:
        raise Denied(
            f"root version {number} is published, and this hub knows {number - 1}",
            hint=f"trustfed publication root install {number}.root.json",
        )


async def part(target: Target, domain: str, listed: MetaFile, key: PublicationKey) -> Part | None:
    """A domain's part as it is published, if it is whole and its own key signed it; None otherwise.

    Its manifests stay where they are: they are large, and a bundle does not wait for them.
    """
    trust_domain = TrustDomain(domain)
    held = await target.read(role_file(domain, listed.version))
    if held is None:
        return None
    try:
        role = open_role(held.data, trust_domain, key)
        files = [held.data for name in role.files[:2] if (held := await target.read(name)) is not None]
        if role.version != listed.version or len(files) != 2:
            return None
        found = Part(key, role, files[0], files[1])
        check_lists(replace(role, mesh=None), found.envelope, found.cluster_document)
        open_envelope(found.envelope, trust_domain, key)
    except (Invalid, Denied):
        return None
    return found


def signed_under(
    root: Root, timestamp: Metadata[Timestamp], snapshot: Metadata[Snapshot], targets: Metadata[Targets]
) -> bool:
    """Whether these are signed by the keys that `root` names."""
    return signed_by(timestamp, root) and signed_by(snapshot, root) and signed_by(targets, root)


async def _top(target: Target, chain: Sequence[Root], data: bytes) -> Top | None:
    timestamp = parse(data, Timestamp, "the timestamp")
    trusted = next((root for root in reversed(chain) if signed_by(timestamp, root)), None)
    if trusted is None:
        return None
    snapshot_meta = timestamp.signed.snapshot_meta
    snapshot_data = await _listed(target, f"tuf/{snapshot_meta.version}.snapshot.json", snapshot_meta)
    snapshot = await _opened(snapshot_data, Snapshot, trusted)
    targets_meta = snapshot.signed.meta.get("targets.json") if snapshot else None
    if snapshot is None or targets_meta is None:
        return None
    targets_data = await _listed(target, f"tuf/{targets_meta.version}.targets.json", targets_meta)
    targets = await _opened(targets_data, Targets, trusted)
    if targets is None:
        return None
    if snapshot.signed.version != snapshot_meta.version or targets.signed.version != targets_meta.version:
        return None
    current = await asyncio.to_thread(signed_under, chain[-1], timestamp, snapshot, targets)
    return Top(targets, targets_data, snapshot, snapshot_data, timestamp, data, current)


async def _listed(target: Target, name: str, meta: MetaFile) -> bytes:
    held = await target.read(name)
    if held is None or not meta.hashes:
        return b""
    if len(held.data) != meta.length or hashlib.sha256(held.data).hexdigest() != meta.hashes.get("sha256"):
        return b""
    return held.data


async def _opened(data: bytes, kind: type[T], trusted: Root) -> Metadata[T] | None:
    if not data:
        return None
    metadata = await asyncio.to_thread(parse, data, kind, kind.type)
    return metadata if await asyncio.to_thread(signed_by, metadata, trusted) else None
