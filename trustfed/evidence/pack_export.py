"""Making an evidence pack: whole logs over contiguous ranges, between checkpoints (trustfed.evidence.pack says what is in it).

1. cut a checkpoint: the ledger's goes into the journal, the journal's is signed    2. write the journal, whole
3. choose the ledger's range: from the last checkpoint a lead before the scope, to the first one after all of it could end
4. write it, folding it as a verifier will    5. put the archive together, the manifest last
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol

import msgspec

from trustfed.errors import Conflict, Invalid
from trustfed.evidence import pack, pack_share
from trustfed.evidence.definition import Definition
from trustfed.evidence.mirrored import Decisions
from trustfed.evidence.model import BUCKET_MS
from trustfed.evidence.pack import CUT, MAX_UNPACKED, SEGMENT, Keys, Manifest, Member, Range, segment_name
from trustfed.evidence.pack_figures import Tally, Window, figures_of
from trustfed.journal.events import RecordedFact
from trustfed.journal.merkle.checkpoint import origin_of, peek_checkpoint
from trustfed.journal.merkle.ranges import Subtree
from trustfed.journal.ports import MAX_READ, Journal, Ledger
from trustfed.runtime.timestamps import from_ms

_LEVEL = 1  # of compression: six times smaller already, and an export is read more often than kept


class Subtrees(Protocol):
    """What is asked of the ledger's Merkle log."""

    async def subtrees(self, begin: int) -> Sequence[Subtree]:
        """The subtrees of the first `begin` entries."""
        ...


class Source(Protocol):
    """The process whose evidence is exported."""

    @property
    def trust_domain(self) -> str: ...

    @property
    def journal(self) -> Journal: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def first(self) -> int:
        """The first fact that retention has kept."""
        ...

    @property
    def facts_log(self) -> Subtrees: ...

    async def checkpoint(self) -> bytes:
        """Cut the ledger's checkpoint into the journal, and give the journal's, signed, with its cosignatures."""
        ...

    async def keys(self) -> Keys: ...


class Scope(msgspec.Struct, frozen=True):
    """On-time limits in [from_ms, to_ms), both on 5 minutes; `lead_ms` is the longest life that may reach in."""

    from_ms: int
    to_ms: int
    lead_ms: int

    def check(self) -> None:
        """Raise Invalid for a scope that is none."""
        if not 0 <= self.from_ms < self.to_ms:
            raise Invalid("the scope ends before it begins", hint="--from must be earlier than --to")
        if self.from_ms % 300_000 or self.to_ms % 300_000:
            raise Invalid("the scope must begin and end on 5 minutes", hint="for example 2026-03-01T12:05:00Z")


class _Log:
    """Writes one log's segments as files, off the loop."""

    def __init__(self, folder: Path, log: str) -> None:
        self._folder, self._log = folder, log
        self._lines: list[bytes] = []
        self._number = self._bytes = 0
        self.members: list[Member] = []

    def add(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            if len(self._lines) == SEGMENT or self._bytes + len(line) >= MAX_UNPACKED:
                self._write(self._lines)
                self._lines, self._bytes = [], 0
            self._lines.append(line)
            self._bytes += len(line) + 1

    def end(self) -> list[Member]:
        if self._lines:
            self._write(self._lines)
            self._lines = []
        return self.members

    def _write(self, lines: Sequence[bytes]) -> None:
        self._number += 1
        name, raw = segment_name(self._log, self._number), b"\n".join(lines) + b"\n"
        packing = zlib.compressobj(_LEVEL, wbits=31)
        data = packing.compress(raw) + packing.flush()
        (self._folder / name).parent.mkdir(exist_ok=True)
        (self._folder / name).write_bytes(data)
        self.members.append(Member(name, len(data), hashlib.sha256(data).hexdigest(), len(lines), len(raw)))


async def export(
    source: Source,
    scope: Scope,
    definition: Definition,
    out: Path,
    *,
    now_ms: int,
    software: str = "",
) -> Manifest:
    """Write the pack of `scope` to `out`, which must not exist. Raises Invalid, Conflict, and what the stores raise.

    Bounded in memory by one segment; in `out`'s folder it needs the pack's size twice.
    """
    scope.check()
    if await asyncio.to_thread(out.exists):
        raise Conflict(f"{out} exists already", hint="choose another name")
    note = await source.checkpoint()  # 1
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".pack-") as work:
        folder = Path(work)
        size = peek_checkpoint(note).size
        journal, cuts, decisions = await _journal(source, folder, size)  # 2
        needed = decisions.longest_ms(definition, scope.from_ms, scope.to_ms)
        begin, end = _range(cuts, scope, source.first, needed, definition.close_ms)  # 3
        opening = [root.hex() for _, root in await source.facts_log.subtrees(begin)]
        manifest = Manifest(
            pack.FORMAT,
            source.trust_domain,
            scope.from_ms,
            scope.to_ms,
            now_ms,
            definition.hash,
            Range(1, size),
            Range(begin + 1, end),
            (),
            software,
        )
        ledger, tally = await _ledger(source, folder, definition, manifest)  # 4
        figures = figures_of(manifest, definition, tally)
        singles = {
            pack.DEFINITION: definition.canonical(),
            pack.KEYS: msgspec.json.format(msgspec.json.encode(await source.keys())),
            pack.CHECKPOINT: note,
            pack.OPENING: msgspec.json.encode(opening),
            pack.FIGURES: msgspec.json.format(msgspec.json.encode(figures)),
            pack.SECOND: resources.files("trustfed.evidence").joinpath("auditor.py").read_bytes(),
            pack.README: resources.files("trustfed.evidence").joinpath("pack_readme.txt").read_bytes(),
        }
        members = [
            *(Member(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in singles.items()),
            *journal,
            *ledger,
        ]
        manifest = msgspec.structs.replace(manifest, members=tuple(members))
        await asyncio.to_thread(_archive, folder, out, singles, manifest)  # 5
        return manifest


async def _journal(source: Source, folder: Path, size: int) -> tuple[list[Member], list[tuple[int, int]], Decisions]:
    """Write all events up to `size`; the ledger's checkpoints among them as (at, ledger size), and what was decided."""
    log, cuts, position, decisions = _Log(folder, "journal"), [(0, 0)], 0, Decisions()
    origin = origin_of(source.trust_domain, "ledger")
    while position < size:
        records = await source.journal.read(position, min(MAX_READ, size - position))
        cuts += [
            (one.event.at, one.event.body["size"])
            for one in records
            if one.event.kind == CUT and one.event.body["origin"] == origin
        ]
        for one in records:
            decisions.take(one.position, one.event)
        position = records[-1].position
        await asyncio.to_thread(log.add, [one.canonical for one in records])
    return await asyncio.to_thread(log.end), cuts, decisions


def _range(cuts: Sequence[tuple[int, int]], scope: Scope, first: int, needed_ms: int, close_ms: int) -> tuple[int, int]:
    """The ledger sizes between which all lies that the scope can depend on.

    `needed_ms` before the scope there can have been what falls due in it: raises Conflict when that has left by retention.
    """
    kept = [(at, size) for at, size in cuts if size >= first - 1]
    if len(kept) < 2 and kept[-1:] != [cuts[-1]]:
        raise Conflict(
            "nothing of the ledger is retained and covered by a checkpoint yet", hint="try again in a moment"
        )
    lead = max(scope.lead_ms, needed_ms)
    begin = max((size for at, size in kept if at <= scope.from_ms - lead), default=kept[0][1])
    since = min(at for at, size in kept if size == begin)
    if begin and since > scope.from_ms - needed_ms:
        first_from = -(-(since + needed_ms) // BUCKET_MS) * BUCKET_MS
        raise Conflict(
            f"the scope depends on facts since {_text(scope.from_ms - needed_ms)}, and what was recorded before"
            f" {_text(since)} has left by retention",
            hint=f"--from {_text(first_from)} or later",
        )
    over = scope.to_ms + lead + close_ms
    end = min((size for at, size in kept if at >= over and size >= begin), default=kept[-1][1])
    return begin, max(begin, end)


def _text(at_ms: int) -> str:
    return from_ms(max(at_ms, 0)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _ledger(
    source: Source, folder: Path, definition: Definition, manifest: Manifest
) -> tuple[list[Member], Tally]:
    """Write the manifest's range, and count it: meanwhile here, or where it is long in processes of their own."""
    log, span, of = _Log(folder, "ledger"), manifest.ledger, pack_share.shares(manifest.ledger.count)
    window = Window(manifest.trust_domain, definition, manifest.from_ms, manifest.to_ms)

    def fold(records: Sequence[RecordedFact]) -> None:
        for one in records if of == 1 else ():
            window.take(one.position, one.fact)
        log.add([one.canonical for one in records])

    position = span.first - 1
    while position < span.last:
        records = await source.ledger.read(position, min(MAX_READ, span.last - position))
        await asyncio.to_thread(fold, records)
        position = records[-1].position
    members = await asyncio.to_thread(log.end)
    if of == 1:
        return members, await asyncio.to_thread(window.tally, manifest.as_of_ms)
    draft, counted = folder / "draft.tar", msgspec.structs.replace(manifest, members=tuple(members))
    await asyncio.to_thread(_archive, folder, draft, {}, counted, keep=True)
    with pack_share.counting(draft, counted, definition.body(), of) as counting:
        tally = await asyncio.to_thread(counting.tally)
    draft.unlink()
    return members, tally


def _archive(folder: Path, out: Path, singles: dict[str, bytes], manifest: Manifest, *, keep: bool = False) -> None:
    """The tar, complete or not there at all; unless they are to be kept, its segments are gone from the folder then."""
    part = folder / "pack.tar"
    with tarfile.open(part, "w:", format=tarfile.USTAR_FORMAT) as archive:
        for member in manifest.members:
            info = tarfile.TarInfo(member.name)
            info.size, info.mtime = member.size, manifest.as_of_ms // 1000
            if member.name in singles:
                archive.addfile(info, io.BytesIO(singles[member.name]))
            else:
                with (folder / member.name).open("rb") as data:
                    archive.addfile(info, data)
                if not keep:
                    (folder / member.name).unlink()
        said = msgspec.json.format(msgspec.json.encode(manifest))
        info = tarfile.TarInfo(pack.MANIFEST)
        info.size, info.mtime = len(said), manifest.as_of_ms // 1000
        archive.addfile(info, io.BytesIO(said))
    part.chmod(0o600)
    part.rename(out)


def keys_of(log: str, endorsement: bytes, publication_key: bytes, cosigners: Sequence[str]) -> Keys:
    """`Keys` of raw parts."""
    return Keys(
        log, base64.b64encode(endorsement).decode(), base64.b64encode(publication_key).decode(), tuple(cosigners)
    )
