"""What differs between desired state and state, and the decision that brings them together. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.desired.wanted import Local, Wanted
from trustfed.cluster.mesh.state import Mesh, key
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Invalid, TrustfedError
from trustfed.federation.mesh import body_of, read_item, write_item
from trustfed.journal.events import TypedEvent
from trustfed.runtime.reach import Reach

PUT, CHANGE, DROP, HELD = "put", "change", "drop", "held"
"""What is missing; what is otherwise; what nothing wants any more; what another source put, whatever the documents say."""


class Difference(Struct, frozen=True):
    """One thing that is not as the directory says. `where` is FILE:LINE, "" for a drop; `members` what differs."""

    action: str
    kind: str
    name: str
    where: str = ""
    members: tuple[str, ...] = ()
    held_by: str = ""


@dataclass(frozen=True)
class Terms:
    """How a directory is applied: what is no longer wanted dropped, what others put taken over or left to them."""

    prune: bool = False
    take: bool = False
    leave: bool = False


def differences(mesh: Mesh, wanted: Mapping[tuple[str, str], Wanted]) -> list[Difference]:
    """All that differs, drops last. What the directory never named and another source put is none of its business."""
    found = []
    for (kind, name), one in wanted.items():
        held_by, members = _compared(mesh, one)
        if held_by is None:
            found.append(Difference(PUT, kind, name, one.where))
        elif held_by != own.DIRECTORY:
            found.append(Difference(HELD, kind, name, one.where, members, held_by))
        elif members:
            found.append(Difference(CHANGE, kind, name, one.where, members))
    found += [Difference(DROP, kind, name) for kind, name in _of_directory(mesh) if (kind, name) not in wanted]
    return found


def decide(
    state: ClusterState,
    wanted: Mapping[tuple[str, str], Wanted],
    terms: Terms,
    now: datetime,
    reach: Reach,
) -> list[TypedEvent]:
    """The whole directory as one decision: every document is checked before any is kept.

    Raises what `own.Draft` does, with FILE:LINE before it; Conflict for what another source put, unless `terms` say that
    it is taken over or left.
    """
    draft = own.Draft(state, own.DIRECTORY, now, reach=reach, take=terms.take)
    differ = differences(state.mesh, wanted)
    for one in differ:
        if one.action == DROP or (one.action == HELD and terms.leave):
            continue
        if one.action == HELD and not terms.take:
            raise Conflict(
                f"{one.where}: {one.kind} {one.name} was put by {one.held_by}",
                hint="--take-over makes it the directory's",
            )
        value = wanted[one.kind, one.name].value
        try:
            if isinstance(value, Local):
                draft.local(value.host, value.sidecars, value.answers, value.rules, value.ports)
            else:
                draft.put(value)
        except TrustfedError as error:
            kind = Invalid if isinstance(error, Invalid) else type(error)
            raise kind(f"{one.where}: {error.message}", hint=error.hint) from None
    # Dropped last: in a change of gateways the new ones are there before the old ones leave.
    for one in differ:
        if one.action == DROP and terms.prune:
            if one.kind == own.LOCAL:
                draft.forget(one.name)
            else:
                draft.drop(one.kind, one.name)
    return draft.done()


def _compared(mesh: Mesh, one: Wanted) -> tuple[str | None, tuple[str, ...]]:
    """Whose it is now (None: nobody's), and the members that differ."""
    value = one.value
    if isinstance(value, Local):
        seen = mesh.local.get(one.name)
        if seen is None:
            return None, ()
        held: Mapping[str, object] = {
            "sidecars": seen.sidecars,
            "answers": list(seen.answers),
            "rules": json.loads(seen.rules or b"[]"),
            "ports": list(seen.ports),
        }
        wants: Mapping[str, object] = {
            "sidecars": value.sidecars,
            "answers": sorted(set(value.answers)),
            "rules": json.loads(own.rules_of(value.rules, one.where)),
            "ports": list(own.ports_of(value.ports, one.where)),
        }
        source = seen.source
    else:
        item = mesh.own.get(key(one.kind, one.name))
        if item is None:
            return None, ()
        if item.item == write_item(value):
            return item.source, ()
        held, wants, source = body_of(read_item(item.kind, item.item)), body_of(value), item.source
    differ = sorted(name for name in {*held, *wants} if held.get(name) != wants.get(name))
    return source, tuple(differ)


def _of_directory(mesh: Mesh) -> Iterator[tuple[str, str]]:
    yield from sorted((one.kind, one.name) for one in mesh.own.values() if one.source == own.DIRECTORY)
    yield from sorted((own.LOCAL, one.host) for one in mesh.local.values() if one.source == own.DIRECTORY)
