"""A store in memory behind the source port, and a reader of it with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.fakes.tuf_store import TufStore
from trustfed.reading.location import Location
from trustfed.reading.order import Answer, Order, Wanted
from trustfed.reading.reader import read
from trustfed.reading.sources.port import Absent, check_name
from trustfed.runtime.bounded_http import endless

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


class MemorySource:
    """Files in a dict; `asked` says which were opened."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, list[str]()

    def parts(self, name: str, limit: int) -> Iterator[bytes]:
        self.asked.append(check_name(name))
        if name not in self.files:
            raise Absent(f"{name} does not exist")
        if len(self.files[name]) > limit:
            raise endless(name, limit)
        yield self.files[name]

    def close(self) -> None:
        pass


class Reader:
    """One state folder; every `read` is a new process as far as the state is concerned."""

    def __init__(self, store: TufStore, state: Path) -> None:
        self.store, self.state, self.root = store, state, store.root
        self.source = MemorySource(store.files)

    def read(
        self,
        *names: str | Wanted,
        now: datetime = NOW,
        accept_stale: timedelta = timedelta(0),
        files: dict[str, bytes] | None = None,
        max_bytes: int = 8_000_000,
    ) -> Answer:
        self.source = MemorySource(self.store.files if files is None else files)
        wanted = tuple(name if isinstance(name, Wanted) else Wanted(name) for name in names)
        order = Order(
            Location("memory"), self.root, self.state, now, wanted, accept_stale=accept_stale, max_bytes=max_bytes
        )
        return read(order, self.source)


def made(tmp_path: Path, *names: str) -> tuple[TufStore, Reader]:
    store = TufStore(NOW)
    for name in names or ("west.test", "east.test"):
        store.add(name)
    store.publish()
    return store, Reader(store, tmp_path / "state")
