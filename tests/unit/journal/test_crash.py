"""kill -9 at any moment loses nothing that was acknowledged and leaves nothing half-written."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

from trustfed.journal.merkle.ranges import CompactRange
from trustfed.journal.sqlite import Store, open_store

ROUNDS = 10
WRITER = Path(__file__).with_name("crash_writer.py")


def write_until_killed(directory: Path, dice: random.Random) -> list[str]:
    """Let the writer run, kill it after a random number of acknowledgements, give all lines it managed to tell."""
    process = subprocess.Popen(
        [sys.executable, str(WRITER), str(directory)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(dice.randrange(1, 1500))]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]


async def everything(store: Store) -> tuple[list[dict[str, int]], set[str]]:
    bodies, keys, position = [], set(), 0
    events, facts_tree = CompactRange(), CompactRange()
    while records := await store.journal.read(len(bodies), 1000):
        bodies += [record.event.body for record in records]
        events.extend(record.leaf_hash for record in records)
    while facts := await store.ledger.read(position, 1000):
        keys |= {fact.fact.key for fact in facts}
        facts_tree.extend(fact.leaf_hash for fact in facts)
        position = facts[-1].position
    assert len(keys) == position
    for log, tree in ((store.events_log, events), (store.facts_log, facts_tree)):
        async with asyncio.timeout(30):
            await log.integrated(tree.size)
        assert await log.root(tree.size) == tree.root()
    return bodies, keys


def test_kill_9_loses_no_acknowledged_event_snapshot_or_fact(tmp_path: Path) -> None:
    dice = random.Random(20261121)
    acknowledged = {"event": 0, "snapshot": 0}
    facts: set[str] = set()

    async def check() -> None:
        store = open_store(tmp_path)
        try:
            verified = await store.verify()
            bodies, keys = await everything(store)
            snapshot = await store.snapshots.load()
        finally:
            await store.close()
        assert verified == (len(bodies), len(keys))
        assert len(bodies) >= acknowledged["event"]
        assert facts <= keys
        assert (snapshot.position if snapshot else 0) >= acknowledged["snapshot"]
        # All or nothing: each append's events are there from its first to its last.
        start = 0
        while start < len(bodies):
            count = bodies[start]["count"]
            assert bodies[start : start + count] == [{"first": start + 1, "count": count}] * count
            start += count

    for _ in range(ROUNDS):
        for line in write_until_killed(tmp_path, dice):
            what, _, value = line.partition(" ")
            if what == "fact":
                facts.add(value)
            elif what != "open":
                acknowledged[what] = int(value)
        asyncio.run(check())
    assert acknowledged["event"] > ROUNDS
    assert acknowledged["snapshot"] > 0
    assert len(facts) > 100 * ROUNDS
