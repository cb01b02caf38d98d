"""Folders in memory that write down each step of every write, lose power, and fail as they are told.

    platter = Platter()
    disk = platter.folder("cache")          an agent.cache.disk.Disk
    ... use it ...
    for state in crashes(platter, cut): ...  what a disk may hold when the power goes after `cut` steps

What was not synced may or may not be there after a crash: content by file, names by folder (POSIX promises no order).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.cache.refusal import Refused
from trustfed.errors import Conflict, NotFound, TrustfedError

Files = dict[tuple[str, str], bytes]
"""Content by folder and name."""
CHUNK = 1500


@dataclass(frozen=True)
class Step:
    """One thing that happened to the disk: mkdir, create, write (`data` appended), fsync, rename, remove or sync."""

    kind: str
    folder: str
    name: str = ""
    target: str = ""
    data: bytes = field(default=b"", repr=False)


class Platter:
    """One machine's disk. `fault(step)` may return an error: it is raised in the place of the step, or `late`, after it."""

    def __init__(self, files: Files | None = None, folders: tuple[str, ...] = ("data",)) -> None:
        self.start = dict(files or {})
        self.folders = {*folders, *(folder for folder, _ in self.start)}
        self.files = dict(self.start)
        self.log: list[Step] = []
        self.fault: Callable[[Step], TrustfedError | None] = lambda step: None
        self.late = False

    def folder(self, name: str) -> FakeDisk:
        """A Disk on one folder; it exists at once only if it was named at the beginning."""
        return FakeDisk(self, name)

    def take(self, step: Step) -> None:
        """Do one step, or fail."""
        error = self.fault(step)
        if error is not None and not self.late:
            raise error
        self.log.append(step)
        place = (step.folder, step.name)
        if step.kind == "mkdir":
            self.folders.add(step.folder)
        elif step.kind == "create":
            self.files[place] = b""
        elif step.kind == "write":
            self.files[place] += step.data
        elif step.kind == "rename":
            self.files[step.folder, step.target] = self.files.pop(place)
        elif step.kind == "remove":
            del self.files[place]
        if error is not None:
            raise error


class FakeDisk:
    """An agent.cache.disk.Disk on a platter."""

    def __init__(self, platter: Platter, folder: str) -> None:
        self.platter, self.name = platter, folder

    def read(self, name: str, limit: int) -> bytes:
        """A file."""
        data = self.platter.files.get((self.name, name))
        if data is None:
            raise NotFound(f"{name} is not there")
        if len(data) > limit:
            raise Refused("too_large", f"{name} has more than {limit} bytes")
        return data

    def write_new(self, name: str, data: bytes) -> None:
        """A new file, in chunks; removed again when a chunk fails."""
        self._there()
        if (self.name, name) in self.platter.files:
            raise Conflict(f"{name} exists")
        self._take("create", name)
        try:
            for start in range(0, len(data), CHUNK):
                self._take("write", name, data=data[start : start + CHUNK])
            self._take("fsync", name)
        except TrustfedError:
            self._take("remove", name)
            raise

    def rename(self, name: str, target: str) -> None:
        """A rename."""
        self._there(name)
        self._take("rename", name, target)

    def remove(self, name: str) -> None:
        """Gone, if it was there."""
        self._there()
        if (self.name, name) in self.platter.files:
            self._take("remove", name)

    def sync(self) -> None:
        """The folder's names are durable."""
        self._there()
        self._take("sync")

    def names(self) -> list[str]:
        """All names."""
        self._there()
        return sorted(name for folder, name in self.platter.files if folder == self.name)

    def make(self) -> None:
        """The folder exists."""
        if self.name not in self.platter.folders:
            self._take("mkdir")

    def _there(self, name: str = "") -> None:
        if self.name not in self.platter.folders or (name and (self.name, name) not in self.platter.files):
            raise NotFound(f"{self.name}/{name} is not there")

    def _take(self, kind: str, name: str = "", target: str = "", data: bytes = b"") -> None:
        self.platter.take(Step(kind, self.name, name, target, data))


class _Inode:
    def __init__(self, durable: bytes | None, now: bytes = b"") -> None:
        self.durable, self.now = durable, durable if durable is not None else now


def crashes(platter: Platter, cut: int, seeds: range = range(4)) -> Iterator[Files]:
    """What the disk may hold after the power went behind the first `cut` steps.

    All of it (only the process died); nothing that was not synced; all names, but no content that was not synced; and by
    seed any of the unsynced names, with any part of the unsynced content. A cut within a write leaves a part of it too.
    """
    steps = platter.log[:cut]
    yield _state(platter.start, steps, lambda: True, lambda inode: inode.now)
    yield _state(platter.start, steps, lambda: False, lambda inode: inode.durable or b"")
    yield _state(platter.start, steps, lambda: True, lambda inode: inode.durable or b"")
    for seed in seeds:
        chance = random.Random(f"{seed} {cut}")
        coin, cutting = lambda c=chance: c.random() < 0.5, lambda inode, c=chance: _part(inode, c)
        yield _state(platter.start, steps, coin, cutting)
    if steps and steps[-1].kind == "write":
        last = steps[-1]
        for length in sorted({0, 1, len(last.data) // 2, len(last.data) - 1}):
            torn = Step("write", last.folder, last.name, data=last.data[:length])
            yield _state(platter.start, [*steps[:-1], torn], lambda: True, lambda inode: inode.now)


def _part(inode: _Inode, chance: random.Random) -> bytes:
    if inode.durable is not None:
        return inode.durable
    length = chance.randrange(len(inode.now) + 1)
    # Blocks that were allocated and not written hold zeros.
    return inode.now[:length] + bytes(chance.choice((0, len(inode.now) - length)))


def _state(start: Files, steps: list[Step], survives: Callable[[], bool], content: Callable[[_Inode], bytes]) -> Files:
    now = {place: _Inode(data) for place, data in start.items()}
    durable = dict(now)
    waiting: dict[str, list[tuple[tuple[str, str], _Inode | None, tuple[str, str] | None]]] = {}

    def apply(change: tuple[tuple[str, str], _Inode | None, tuple[str, str] | None]) -> None:
        place, inode, gone = change
        if gone is not None:
            durable.pop(gone, None)
        if inode is None:
            durable.pop(place, None)
        else:
            durable[place] = inode

    for step in steps:
        place, changes = (step.folder, step.name), waiting.setdefault(step.folder, [])
        if step.kind == "create":
            now[place] = _Inode(None)
            changes.append((place, now[place], None))
        elif step.kind == "write":
            now[place].now += step.data
        elif step.kind == "fsync":
            now[place].durable = now[place].now
        elif step.kind == "rename":
            target = (step.folder, step.target)
            now[target] = now.pop(place)
            changes.append((target, now[target], place))
        elif step.kind == "remove":
            del now[place]
            changes.append((place, None, None))
        elif step.kind == "sync":
            for change in changes:
                apply(change)
            changes.clear()
    for changes in waiting.values():
        for change in changes:
            if survives():
                apply(change)
    return {place: content(inode) for place, inode in durable.items()}
