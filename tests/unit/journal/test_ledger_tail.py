"""What was just written is read from memory: the same that the file gives, bounded, and gone when it has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustfed.journal import tail as module
from trustfed.journal.events import Fact, RecordedFact
from trustfed.journal.sqlite import open_store
from trustfed.journal.tail import Tail


def facts(first: int, count: int) -> list[Fact]:
    return [
        Fact(n, "agent.held", "n1", {"n": n, "late": n % 2 == 0, "serials": [str(n)]})
        for n in range(first, first + count)
    ]


async def test_memory_and_file_give_the_same(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for first in (1, 5, 9):
        await store.ledger.append(facts(first, 4))
    windows = [(0, 1_000), (0, 3), (4, 5), (11, 10), (12, 10), (40, 1)]
    near = [await store.ledger.read(*window) for window in windows]
    await store.close()
    again = open_store(tmp_path)
    assert near == [await again.ledger.read(*window) for window in windows]
    await again.ledger.append(facts(13, 2))
    assert [one.position for one in await again.ledger.read(10, 4)] == [11, 12, 13, 14]
    assert [one.position for one in await again.ledger.read(12, 4)] == [13, 14]
    await again.close()


async def test_what_left_by_retention_is_not_read_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    await store.ledger.append(facts(1, 8))
    monkeypatch.setattr(store.ledger, "_first", 5)  # as a trim leaves it
    assert [one.position for one in await store.ledger.read(4, 2)] == [5, 6]
    reads = []
    monkeypatch.setattr(Tail, "read", lambda self, *window: reads.append(window) or [])
    await store.ledger.read(3, 2)  # the file's to refuse
    assert not reads
    await store.close()


def test_it_is_bounded_and_has_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FACTS", 3)
    tail = Tail()
    tail.put(2, facts(1, 2), [b"x"] * 2)
    tail.put(4, facts(3, 2), [b"x"] * 2)
    assert [one.position for one in tail.read(1, 9)] == [2, 3, 4]
    assert tail.read(0, 9) == []  # 1 has left
    tail.put(9, facts(9, 1), [b"x"])
    assert tail.read(8, 9) == [RecordedFact(9, facts(9, 1)[0], b"x")]
    assert tail.read(3, 9) == []
    monkeypatch.setattr(module, "MOST_BYTES", 4)
    tail.put(10, facts(10, 1), [b"12345"])
    assert tail.read(9, 9) == []
