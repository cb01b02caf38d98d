"""An engine's state as chunks of JSON, and back: for a restart, and to carry open obligations over a trimmed ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import msgspec

from trustfed.errors import Invalid
from trustfed.evidence.model import FEW
from trustfed.evidence.pending import Pending
from trustfed.evidence.serials import Serial, Slot

if TYPE_CHECKING:
    from trustfed.evidence.engine import Engine

VERSION = 1
_PER_CHUNK = 500
_T = TypeVar("_T")


class _Head(msgspec.Struct):
    version: int
    trust_domain: str
    definition: str
    position: int
    clock: int
    as_of: int
    first_position: int
    first_at: int
    malformed: int
    silent: dict[str, int]
    silences: dict[str, list[tuple[int, int]]]
    gone: list[tuple[str, int]]
    commands: list[tuple[str, tuple[str, int, int]]]
    probes: dict[str, tuple[str, int]]
    unknown: list[tuple[str, int]]
    offsets: dict[str, tuple[int, int]]
    retired: list[tuple[str, int]]


class _SlotState(msgspec.Struct):
    instance: str
    slot: str
    floor: int
    newest: int
    probed_ms: int
    closed_ms: int
    # States of before know none of these: then the next serial tells.
    last: str = ""
    last_ms: int = 0
    told_ms: int = 0


class _Part(msgspec.Struct):
    serials: list[Serial] = []
    slots: list[_SlotState] = []
    pending: list[Pending] = []


def saved(engine: Engine) -> Iterator[bytes]:
    """The head first, then serials, slots and obligations in the order in which they came to be."""
    yield msgspec.json.encode(
        _Head(
            VERSION,
            engine.trust_domain,
            engine.definition.hash,
            engine.position,
            engine.clock,
            engine.as_of,
            engine.first_position,
            engine.first_at,
            engine.malformed,
            engine.silent,
            engine.silences,
            list(engine.gone.items()),
            list(engine.commands.items()),
            engine.probes.last,
            list(engine.unknown.items()),
            engine.offsets,
            list(engine.few.retired.items()),
        )
    )
    for slots in _batched(engine.slots.values()):
        states = [_SlotState(*(getattr(one, name) for name in _SlotState.__struct_fields__)) for one in slots]
        yield msgspec.json.encode(_Part(slots=states))
    for serials in _batched(engine.live.values()):
        yield msgspec.json.encode(_Part(serials=serials))
    for serials in _batched(one for slot in engine.slots.values() for one in slot.serials.values() if one.ended):
        yield msgspec.json.encode(_Part(serials=serials))
    for pending in _batched(one for slot in engine.slots.values() for one in slot.obligations):
        yield msgspec.json.encode(_Part(pending=pending))
    for pending in _batched(engine.few.open.values()):
        yield msgspec.json.encode(_Part(pending=pending))


def restore(engine: Engine, chunks: Iterable[bytes]) -> None:
    """Fill a new engine with what `saved` gave. Raises Invalid for another domain, definition, version, or damage."""
    parts = iter(chunks)
    try:
        head = msgspec.json.decode(next(parts), type=_Head)
        rest = [msgspec.json.decode(part, type=_Part) for part in parts]
    except (StopIteration, msgspec.MsgspecError) as error:
        raise Invalid(f"this is no saved state of an engine: {error}", hint="fold the ledger from its start") from None
    if (head.version, head.trust_domain, head.definition) != (VERSION, engine.trust_domain, engine.definition.hash):
        raise Invalid(
            f"the saved state is of {head.trust_domain} under definition {head.definition[:12]}",
            hint="fold the ledger from its start",
        )
    for name in (
        "position",
        "clock",
        "as_of",
        "first_position",
        "first_at",
        "malformed",
        "silent",
        "silences",
        "offsets",
    ):
        setattr(engine, name, getattr(head, name))
    engine.gone, engine.unknown, engine.commands = dict(head.gone), dict(head.unknown), dict(head.commands)
    engine.probes.last, engine.few.retired = head.probes, dict(head.retired)
    for part in rest:
        for state in part.slots:
            key = (state.instance, state.slot)
            engine.slots[key] = Slot(*key, **{name: getattr(state, name) for name in _SlotState.__struct_fields__[2:]})
    _serials(engine, [serial for part in rest for serial in part.serials])
    for part in rest:
        for it in part.pending:
            _pending(engine, it)
    heapify(engine.limits)
    heapify(engine.looks)
    heapify(engine.ends)


def _serials(engine: Engine, serials: list[Serial]) -> None:
    grace, close = 2 * engine.definition.unknown_grace_ms, engine.definition.close_ms
    for serial in serials:
        slot = engine.slots.get((serial.instance, serial.slot))
        if not serial.ended:
            engine.live[serial.serial] = serial
        after = close if serial.ended else grace
        engine.ends.append((serial.not_after_ms + after, engine.tick(), serial))
        if serial.kept and slot is not None:
            slot.serials[serial.serial] = serial
    for slot in engine.slots.values():
        slot.serials = dict(sorted(slot.serials.items(), key=lambda item: item[1].position))


def _pending(engine: Engine, it: Pending) -> None:
    close, grace = it.hard_ms + engine.definition.close_ms, engine.definition.unknown_grace_ms
    if it.class_ in FEW:
        engine.few.keep(it)
        engine.limits.append((close, engine.tick(), it))
        engine.looks.append((it.hard_ms, engine.tick(), it))
        return
    engine.slots[it.instance, it.slot].obligations.append(it)
    engine.excuse(it, it.excused_ms)
    engine.by_node.setdefault(it.node, {})[it.id] = it
    if it.entry:
        engine.by_entry.setdefault(it.entry, {})[it.id] = it
    engine.limits.append((it.on_time_ms if it.on_time_ms >= engine.clock else close, engine.tick(), it))
    engine.looks.append((it.hard_ms + grace, engine.tick(), it))
    if it.released_ms:
        engine.looks.append((it.on_time_ms, engine.tick(), it))


def _batched(items: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, _PER_CHUNK)):
        yield batch
