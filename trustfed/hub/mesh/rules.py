"""What of a domain's word on its mesh is taken, and what is refused with which sentence. Pure.

1. the domain's own publication key signed it, and it says what it is carried as
2. a gateway leads to no address that must not be reached
3. it is newer than what is held of this name, or the same
4. the domain has room: so many of a kind, so many bytes in all
5. an exported host belongs to the first domain that exports it, and to all domains of the same registered owner
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.mesh import KINDS, Gateway
from trustfed.federation.mesh_statement import Statement, open_statement
from trustfed.hub.domains import enrolled
from trustfed.hub.mesh.events import MeshTold, MeshWithdrawn
from trustfed.hub.mesh.state import Told, key
from trustfed.hub.state import HubState
from trustfed.journal.table import Table
from trustfed.runtime.reach import Reach
from trustfed.spiffe.ids import TrustDomain, shown

MOST: Mapping[str, int] = {"gateway": 64, "export": 5_000, "import": 1_000}
MAX_BYTES = 8 * 1024 * 1024
"""Of all statements of one domain."""
MAX_NAME = 253


@dataclass(frozen=True)
class Gone:
    """A domain takes something back; `sequence` is that of the removal."""

    kind: str
    name: str
    sequence: int


@dataclass
class Judged:
    """What came of a report: what is recorded, and what is refused with which words."""

    events: list[MeshTold | MeshWithdrawn] = field(default_factory=list)
    refused: dict[str, tuple[Statement, str]] = field(default_factory=dict)


def check_said(kind: str, name: str, sequence: int) -> None:
    """Raise Invalid for what cannot name an item: its own cluster would never send it."""
    if kind not in KINDS or not 1 <= len(name) <= MAX_NAME or not name.isprintable() or sequence < 1:
        raise Invalid(f"a mesh report names {shown(kind)} {shown(name)} with the sequence {sequence}")


def opened(state: HubState, domain: str, kind: str, name: str, sequence: int, data: bytes, reach: Reach) -> Statement:
    """The verified statement (1, 2). Raises Invalid, Denied."""
    said = open_statement(data, TrustDomain(domain), _key(enrolled(state, domain).publication_key))  # 1
    if (said.kind, said.name, said.sequence) != (kind, name, sequence):
        raise Invalid(f"{kind} {shown(name)} carries a statement on {said.kind} {shown(said.name)}")
    if isinstance(said.item, Gateway):  # 2
        check_address(said.item, reach)
    return said


@lru_cache(maxsize=2_048)
def _key(spki: bytes) -> PublicationKey:
    """A key costs more to read than a signature to verify."""
    return PublicationKey(spki)


def check_address(gateway: Gateway, reach: Reach) -> None:
    """Raise Denied for a gateway whose address must not be reached."""
    try:
        reach.check(gateway.address)
    except Denied as error:
        why = error.message.partition(":")[0]
        raise Denied(
            f"gateway {gateway.name}: {why}", hint="mesh.allow_networks in the configuration names exceptions"
        ) from None


def same_said(held: bytes, data: bytes) -> bool:
    """Whether a statement says what the one that is held says; a signature made anew is no news."""
    if held == data:
        return True
    try:
        said = json.loads(data)["payload"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return bool(json.loads(held)["payload"] == said)


def judge(state: HubState, domain: str, said: Sequence[Statement], gone: Sequence[Gone], at_ms: int) -> Judged:
    """What of a report is recorded; removals come first. Nothing in it can harm what came beside it."""
    enrolled(state, domain)
    found, rows = Judged(), {at: row.sequence for at, row in state.mesh.of(domain).items()}
    room = _Room(state.mesh.of(domain))
    for one in gone:
        held = rows.get(at := key(one.kind, one.name))
        if held is not None and one.sequence >= held:
            found.events.append(MeshWithdrawn(domain, one.kind, one.name, one.sequence, at_ms))
            del rows[at]
            room.without(at)
    for statement in said:
        held = rows.get(at := key(statement.kind, statement.name))
        if held == statement.sequence and same_said(state.mesh.of(domain)[at].statement, statement.data):
            continue
        try:
            if held is not None and statement.sequence <= held:  # 3
                was = "something else was said as" if statement.sequence == held else "it is older than"
                raise Conflict(
                    f"{statement.kind} {statement.name} with sequence {statement.sequence}: {was} {held}; "
                    "restored from a backup? trustfed cluster epoch"
                )
            if statement.kind == "export":
                _check_host(state, domain, statement.name)  # 5
            room.put(at, statement)  # 4
        except TrustfedError as error:
            found.refused[at] = (statement, error.message)
            continue
        rows[at] = statement.sequence
        found.events.append(MeshTold(domain, statement.kind, statement.name, statement.sequence, statement.data, at_ms))
    return found


def _check_host(state: HubState, domain: str, host: str) -> None:
    for other in state.mesh.hosts.get(host) or ():
        if state.domains[other].owner != state.domains[domain].owner:
            raise Conflict(
                f"{host} is exported by {other} already, which belongs to {shown(state.domains[other].owner)}: "
                f"it is taken from {domain} when that ends"
            )


class _Room:
    """How much a domain has said, and whether more fits."""

    def __init__(self, rows: Table[Told]) -> None:
        self._sizes = {at: len(row.statement) for at, row in rows.items()}
        self._total = sum(self._sizes.values())
        self._counts = dict.fromkeys(KINDS, 0)
        for row in rows.values():
            self._counts[row.kind] += 1  # type: ignore[index]

    def without(self, at: str) -> None:
        self._total -= self._sizes.pop(at)
        self._counts[at.partition("/")[0]] -= 1  # type: ignore[index]

    def put(self, at: str, statement: Statement) -> None:
        """Raises Denied when there is no room."""
        new, total = at not in self._sizes, self._total - self._sizes.get(at, 0) + len(statement.data)
        if new and self._counts[statement.kind] >= MOST[statement.kind]:
            raise Denied(f"{statement.trust_domain} has {MOST[statement.kind]} {statement.kind}s, and no more fit")
        if total > MAX_BYTES:
            raise Denied(f"the mesh of {statement.trust_domain} would take more than {MAX_BYTES} bytes")
        self._counts[statement.kind] += new
        self._sizes[at], self._total = len(statement.data), total
