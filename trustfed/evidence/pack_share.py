"""Counting a pack's facts in several processes: each reads them all, and folds its share of the instances.

Rules ask about one instance, or about a node, an entry or a command that everybody hears of. So a share is folded as the whole
would be if it takes, in order, 1. the facts of its own instances, 2. those that are about no instance, 3. of all others the
clock, and that their entry and node are there again (rules 6, 13). The first share also has the authorities.

`python -P -m trustfed.evidence.pack_share`: one `Order` from standard input, one `Answer` to standard output, as JSON. Each
process checks that what it reads is what the manifest says, so all of them read the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.evidence import facts as f
from trustfed.evidence.definition import read_definition
from trustfed.evidence.pack import Manifest, Reader
from trustfed.evidence.pack_figures import Tally, Window
from trustfed.evidence.rules import SLOT_CLASS
from trustfed.journal.events import Fact

WORTH = 50_000
"""Facts from which on a process more is worth its start."""
MAX_SHARES = 3
"""One process more reads, hashes and compares for all of them, and cannot feed more."""

_ARGV = (sys.executable, "-P", "-m", "trustfed.evidence.pack_share")
_OF_INSTANCES = frozenset({f.ISSUED, f.REFUSED, f.DELIVERED, f.LOADED, f.CONFIRMED, f.RELEASED, f.EXPIRED})
_OF_ALL = frozenset({f.NODE_SILENT, f.NODE_HEARD, f.NODE_ENDED, f.ENTRY_ENDED, f.CLUSTER_GAP, f.FORCED, f.LOST})
_FACT = msgspec.json.Decoder(Fact)


class Order(msgspec.Struct, frozen=True):
    """Which share of which pack."""

    path: str
    manifest: Manifest
    definition: dict[str, Any]
    share: int
    of: int


class Answer(msgspec.Struct, frozen=True):
    """What was found, or why nothing was."""

    tally: Tally | None = None
    fault: str = ""


class _Whose(msgspec.Struct):
    instance: Any = None
    slot: Any = None


class Glance(msgspec.Struct):
    """As much of a fact as says whose it is."""

    at: int
    kind: str
    key: str
    body: _Whose


GLANCE = msgspec.json.Decoder(Glance)


def shares(entries: int) -> int:
    """How many processes are to count so many entries; 1: this one, by itself."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if entries < WORTH or cpus < 2 else min(cpus, MAX_SHARES)


@contextlib.contextmanager
def counting(path: Path, manifest: Manifest, definition: dict[str, Any], of: int) -> Iterator[Counting]:
    """Begin to count in `of` processes; they are gone when the context ends. Raises Unavailable where none can be started."""
    begun = Counting()
    try:
        for share in range(of):
            begun.start(Order(str(path.absolute()), manifest, definition, share, of))
        yield begun
    finally:
        begun.end()


class Counting:
    """Processes at work."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, order: Order) -> None:
        """Let one more process count. Raises Unavailable where none can be started."""
        try:
            process = subprocess.Popen(_ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise Unavailable(
                f"no process can be started to count: {(error.strerror or str(error)).lower()}",
                hint="processes or memory of this machine are used up",
            ) from None
        self._processes.append(process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as order_in:
            order_in.write(msgspec.json.encode(order))

    def tally(self) -> Tally:
        """Wait for all of them. Raises Invalid for facts that cannot be counted, Unavailable if a process was ended."""
        found = Tally()
        for process in self._processes:
            assert process.stdout is not None
            data = process.stdout.read()
            if not data:
                raise Unavailable("a process that counted was ended", hint="was there too little memory? verify again")
            answer = msgspec.json.decode(data, type=Answer)
            if answer.tally is None:
                raise Invalid(answer.fault)
            found.add(answer.tally)
        return found

    def end(self) -> None:
        """End what still runs."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def count(order: Order) -> Tally:
    """The tally of one share. Raises Invalid, and what facts that are none raise."""
    manifest = order.manifest
    window = Window(manifest.trust_domain, read_definition(order.definition), manifest.from_ms, manifest.to_ms)
    with Reader(Path(order.path)) as reader:
        if reader.manifest != manifest:
            raise Invalid("the pack was changed while it was read")
        for position, line in reader.lines("ledger", manifest.ledger):
            take(window, position, line, order.share, order.of)
    return window.tally(manifest.as_of_ms)


def take(window: Window, position: int, line: bytes, share: int, of: int) -> None:
    """Take one fact as share `share` (from 0) of `of`. Raises Invalid for one that is about no instance of ours."""
    seen, engine = GLANCE.decode(line), window.engine
    if seen.kind in _OF_INSTANCES:
        if isinstance(seen.body.instance, int | float):  # 1, 1.0 and true are one instance to who counts them all
            raise Invalid(f"fact {position} is about an instance that is a number")
        if zlib.crc32(str(seen.body.instance).encode()) % of == share:
            window.take(position, _FACT.decode(line))
            return
        engine.past(seen.at)
        if seen.kind == f.ISSUED and (engine.gone or engine.excused) and seen.body.slot in SLOT_CLASS:
            engine.there_again(_FACT.decode(line))
    elif seen.kind in _OF_ALL or (seen.kind == f.AUTHORITY_STEP and share == 0):
        window.take(position, _FACT.decode(line))
    else:
        engine.past(seen.at)


def main() -> int:
    """Count what standard input orders."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        answer = Answer(count(order))
    except TrustfedError as error:
        answer = Answer(fault=error.message)
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
        answer = Answer(fault=f"{type(error).__name__}: {str(error)[:200]}")
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
