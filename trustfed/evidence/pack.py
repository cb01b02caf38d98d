"""An evidence pack: whole logs over contiguous ranges, and what they prove; one uncompressed tar file.

| member | holds |
|---|---|
| manifest.json | `Manifest`: scope, ranges, and the size and SHA-256 of every other member |
| definition.json | how success is counted (trustfed.evidence.definition), as canonical JSON |
| keys.json | `Keys`: the log's verifier key, endorsed by the domain's publication key; the cosigners' verifier keys |
| checkpoint | the journal's signed checkpoint with its cosignatures (C2SP tlog-checkpoint, tlog-cosignature) |
| opening.json | the roots of the subtrees that the ledger held before its first entry here, largest first: [hex, ...] |
| journal/N.ndjson.gz | every event from the first, one canonical line each |
| ledger/N.ndjson.gz | every fact from `ledger.first` to `ledger.last` |
| figures.json | what follows from these, as the exporter computed it |
| verify.py | a second verifier, which shares no code with ours |
| README.txt | what this is, and how it is checked |

A line is what the log hashed: leaf = SHA-256(0x00 || line) (RFC 6962 §2.1). Nothing is chosen: the journal is whole, and the
ledger's entries begin and end at checkpoints that the journal holds, so nothing can be left out between them.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from trustfed.errors import Invalid

FORMAT = "trustfed-evidence-pack/1"
MANIFEST, DEFINITION, KEYS, CHECKPOINT = "manifest.json", "definition.json", "keys.json", "checkpoint"
OPENING, FIGURES, SECOND, README = "opening.json", "figures.json", "verify.py", "README.txt"
CUT = "log.checkpoint"
"""The kind of the journal's events that are checkpoints of the ledger."""
SEGMENT = 65_536
MAX_UNPACKED = 256 << 20
"""Lines and bytes of one segment: what compressed bytes can grow to is bounded by what they are."""
MAX_SINGLE = 16 << 20
MAX_MEMBERS = 100_000
MAX_LINE = (1 << 20) + (64 << 10)
_CHUNK = 1 << 18


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member: its size and hash as it stands in the archive; for logs also what is in it."""

    name: str
    size: int
    sha256: str
    lines: int = 0
    unpacked: int = 0  # bytes


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Positions of a log, both included; an empty range has `last` = `first` - 1."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many entries."""
        return self.last - self.first + 1


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pack says it is. Nothing in it is believed: everything is checked against the signed checkpoint."""

    format: str
    trust_domain: str
    from_ms: int
    to_ms: int
    as_of_ms: int
    definition: str  # SHA-256, hex
    journal: Range
    ledger: Range
    members: tuple[Member, ...]
    software: str = ""


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose signatures are on the checkpoint, by the pack's own word."""

    log: str  # vkey
    endorsement: str  # DSSE of the publication key over the log key, base64
    publication_key: str  # SubjectPublicKeyInfo DER, base64
    cosigners: tuple[str, ...] = ()  # vkeys


def segment_name(log: str, number: int) -> str:
    """The member that holds segment `number` (from 1) of a log."""
    return f"{log}/{number:06d}.ndjson.gz"


class Unreadable(Invalid):
    """Not a pack, or a member of it cannot be read; `member` names which."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message, hint="ask for the pack again; it was cut or changed on its way")
        self.member = member


class Reader:
    """Opens a pack's file. Raises Unreadable unless it is a tar with a manifest that names exactly what is in it."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._members = self._index()
            self.manifest = self._manifest()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """The members' names, as they stand in the archive."""
        return list(self._members)

    def single(self, name: str) -> bytes:
        """One of the small members, whole. Raises Unreadable."""
        return self._raw(name, MAX_SINGLE)

    def changed(self) -> list[str]:
        """The members that are not what the manifest says, or are missing, or that it does not name; reads everything."""
        named = {member.name: member for member in self.manifest.members}
        found = [name for name in self._members if name not in named and name != MANIFEST]
        for name, member in named.items():
            held = self._members.get(name)
            if held is None or held.size != member.size or self._digest(held) != member.sha256:
                found.append(name)
        return found

    def lines(self, log: str, span: Range) -> Iterator[tuple[int, bytes]]:
        """(position, line) of a log, in order. Raises Unreadable where a segment cannot be read."""
        position, number = span.first, 0
        sizes = {member.name: member for member in self.manifest.members}
        while position <= span.last:
            number += 1
            name = segment_name(log, number)
            if name not in self._members or name not in sizes:
                raise Unreadable(f"{name} is missing: entries from {position} on are not here", name)
            for line in self._segment(sizes[name]):
                yield position, line
                position += 1
        if position != span.last + 1:
            raise Unreadable(f"the {log} has {position - span.last - 1} entries more than the manifest says", log)

    def _index(self) -> dict[str, tarfile.TarInfo]:
        found: dict[str, tarfile.TarInfo] = {}
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                for info in archive:
                    if not info.isfile() or info.issparse() or len(info.name) > 64 or info.name in found:
                        raise Unreadable(f"the archive holds {info.name[:80]!r}, which no pack has")
                    found[info.name] = info
                    if len(found) > MAX_MEMBERS:
                        raise Unreadable(f"the archive holds more than {MAX_MEMBERS} members")
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise Unreadable(f"this is no tar file: {error}") from None
        return found

    def _manifest(self) -> Manifest:
        try:
            manifest = msgspec.json.decode(self._raw(MANIFEST, MAX_SINGLE), type=Manifest)
        except msgspec.MsgspecError as error:
            raise Unreadable(f"{MANIFEST} does not fit: {str(error)[:200]}", MANIFEST) from None
        if manifest.format != FORMAT:
            raise Unreadable(f"{MANIFEST} is of format {manifest.format[:40]!r}; this program reads {FORMAT}", MANIFEST)
        return manifest

    def _raw(self, name: str, most: int) -> bytes:
        info = self._members.get(name)
        if info is None:
            raise Unreadable(f"{name} is missing", name)
        if info.size > most:
            raise Unreadable(f"{name} has {info.size} bytes; at most {most} are read", name)
        self._file.seek(info.offset_data)
        return self._file.read(info.size)

    def _digest(self, info: tarfile.TarInfo) -> str:
        digest, left = hashlib.sha256(), info.size
        self._file.seek(info.offset_data)
        while left and (chunk := self._file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        return digest.hexdigest()

    def _segment(self, member: Member) -> Iterator[bytes]:
        """The lines of one segment; never more than the manifest says, whatever the compressed bytes hold."""
        name, unpacked, info = member.name, member.unpacked, self._members[member.name]
        unzip, rest, at, left = zlib.decompressobj(wbits=31), b"", info.offset_data, info.size
        digest = hashlib.sha256()
        if unpacked > MAX_UNPACKED or member.lines > SEGMENT:
            raise Unreadable(f"{name} says that it holds more than {MAX_UNPACKED} bytes or {SEGMENT} lines", name)
        try:
            while not unzip.eof:
                if not unzip.unconsumed_tail and not left:
                    raise Unreadable(f"{name} is cut off", name)
                packed = unzip.unconsumed_tail
                if not packed:
                    self._file.seek(at)
                    packed = self._file.read(min(_CHUNK, left))
                    at, left = at + len(packed), left - len(packed)
                    digest.update(packed)
                data = unzip.decompress(packed, _CHUNK)
                unpacked -= len(data)
                if unpacked < 0 or len(rest) > MAX_LINE:
                    raise Unreadable(f"{name} holds more than the manifest says", name)
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
        except zlib.error as error:
            raise Unreadable(f"{name} cannot be unpacked: {error}", name) from None
        if rest or unzip.unused_data or left:
            raise Unreadable(f"{name} ends in the middle of a line, or goes on behind its end", name)
        if digest.hexdigest() != member.sha256:  # also where it was changed since it was first looked at
            raise Unreadable(f"{name} is not what the manifest says", name)
