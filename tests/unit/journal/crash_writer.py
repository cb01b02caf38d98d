"""Appends to a store for ever and tells each acknowledgement in one write(2); test_crash.py kills it at any moment.

usage: crash_writer.py DIRECTORY
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from trustfed.journal.events import Event, Fact
from trustfed.journal.ports import Snapshot
from trustfed.journal.sqlite import Store, open_store


def _tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def _events(store: Store, head: int) -> None:
    while True:
        count = head % 7 + 1
        events = [
            Event(f"{head}-{n}", f"command-{head}", 1, "actor", "", "", "x.y", 1, {"first": head + 1, "count": count})
            for n in range(count)
        ]
        head = await store.journal.append(head, events)
        _tell(f"event {head}")
        if head % 5 == 0:
            await store.snapshots.save(Snapshot(head, 1, b"s" * 20_000 + str(head).encode()))
            _tell(f"snapshot {head}")


async def _facts(store: Store, caller: int) -> None:
    number = 0
    while True:
        keys = [f"{os.getpid()}-{caller}-{number}-{n}" for n in range(number % 40 + 1)]
        await store.ledger.append([Fact(1, "x509.issued", key, {"text": "t" * 200}) for key in keys])
        for key in keys:
            _tell(f"fact {key}")
        number += 1


async def _main() -> None:
    store = open_store(Path(sys.argv[1]))
    head = 0
    while records := await store.journal.read(head, 1000):
        head = records[-1].position
    _tell(f"open {head}")
    async with asyncio.TaskGroup() as group:
        group.create_task(_events(store, head))
        for caller in range(4):
            group.create_task(_facts(store, caller))


asyncio.run(_main())
