"""The files of a spool: what their names say, and what their bytes hold.

    facts-RUN-FIRST-LAST    a sealed NodeReport: the facts FIRST to LAST of one epoch

Each is written once. RUN rises with each epoch, so that files sort by age. A file that grows is written anew under its new
name before the old one is removed: after a crash one may lie within another, and the longer one counts if it opens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from agent.cache.disk import Disk
from agent.cache.refusal import Refused
from agent.cache.sealing import Sealer
from trustfed.proto import evidence_pb2 as pb

MOST_FACTS = 500
"""In one file, and in one message to the cluster."""
MOST_BYTES = 64 * 1024
"""Of the facts in one file, unless one alone has more."""
MOST_FILE_BYTES = 512 * 1024
_NAME = re.compile(r"facts-([1-9]\d{0,8})-([1-9]\d{0,11})-([1-9]\d{0,11})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One file, by its name; `size` is that of the file in bytes."""

    run: int
    first: int
    last: int
    size: int = 0

    @property
    def count(self) -> int:
        """How many facts."""
        return self.last - self.first + 1

    @property
    def name(self) -> str:
        """The file's name, and what it is sealed as."""
        return f"facts-{self.run}-{self.first}-{self.last}"


def parse(name: str) -> Part | None:
    """The part that a name says; None for any other file."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    run, first, last = map(int, found.groups())
    return Part(run, first, last) if first <= last < first + MOST_FACTS else None


def listed(names: Iterable[str]) -> list[Part]:
    """The parts among these files, oldest first; of two that begin with the same fact the longer one first."""
    return sorted(filter(None, map(parse, names)), key=lambda part: (part.run, part.first, -part.last))


def seal(sealer: Sealer, part: Part, epoch: bytes, facts: Iterable[pb.AgentFact]) -> bytes:
    """The file of these facts."""
    report = pb.NodeReport(epoch=epoch, first=part.first, facts=facts)
    return sealer.file(part.name, report.SerializeToString())


def read(disk: Disk, sealer: Sealer, part: Part) -> tuple[pb.NodeReport, int]:
    """What a file holds, and its size. Raises Refused for what it must not be, NotFound, Unavailable."""
    data = disk.read(part.name, MOST_FILE_BYTES)
    plain = sealer.open_file(part.name, data)
    try:
        report = pb.NodeReport.FromString(plain)
    except DecodeError:
        raise Refused("damaged", f"{part.name} cannot be read") from None
    if report.first != part.first or len(report.facts) != part.count or len(report.epoch) != 16:
        raise Refused("swapped", f"{part.name} does not hold what it is called")
    return report, len(data)
