"""The real stack with something that can fail between any two of its processes, and under their data folders.

Two trust domains that import each other, a hub, an agent each. Every TCP door is dialled through a proxy; with root, data
folders are small tmpfs of their own; one agent may run under libfaketime, its wall clock a file's to say (read once a second).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from tests.system.faults.background import Background
from tests.system.faults.proxy import Proxy
from tests.system.stack import Agent, Cluster, Process, Stack, until
from trustfed.runtime.sockets import parse_address

WEST, EAST = "prod-west", "prod-east"
NODE = "node-1"
DISK_BYTES = 48 << 20
ME = f"unix:uid:{os.getuid()}"


@dataclass
class Disk:
    """A small file system of its own below one data folder."""

    path: Path

    @classmethod
    def mount(cls, path: Path) -> Disk:
        """Raises PermissionError where this process may not mount."""
        path.mkdir(mode=0o700, parents=True)
        size = f"size={DISK_BYTES},mode=0700"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", path], capture_output=True, text=True)
        if done.returncode:
            raise PermissionError(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        return cls(path)

    def fill(self) -> None:
        """Not a byte is left."""
        with contextlib.suppress(FileExistsError):
            self._filler.touch(mode=0o600)
        chunk = bytes(1 << 20)
        with self._filler.open("ab", buffering=0) as file:
            while chunk:
                try:
                    file.write(chunk)
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                    chunk = chunk[: len(chunk) // 2]

    def empty(self) -> None:
        """Room again."""
        self._filler.unlink(missing_ok=True)

    def read_only(self, wanted: bool) -> bool:
        """Whether the file system took it: not while a file on it is open for writing."""
        mode = "remount,ro" if wanted else "remount,rw"
        return subprocess.run(["mount", "-o", mode, self.path], capture_output=True).returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.path], capture_output=True)

    @property
    def _filler(self) -> Path:
        return self.path / ".filler"


class FaultyStack(Stack):
    """A stack whose doors are dialled through `proxies`: "hub grpc", "hub https", "NAME grpc", "NAME https"."""

    def __init__(self, folder: Path, background: Background) -> None:
        super().__init__(folder)
        self._background = background
        self.proxies: dict[str, Proxy] = {}

    def door(self, name: str, listen: str) -> dict[str, object]:
        made = self.proxies[name] = Proxy(parse_address(listen))
        self._background.do(made.start())
        return {"listen": listen, "advertise": made.address}


class World:
    """Everything up, in a `with` block; `skipped` says what this machine cannot do and why."""

    def __init__(self, folder: Path, *, svid_ttl: int = 20, disks: bool = False, clocks: bool = False) -> None:
        self._folder, self._svid_ttl = folder, svid_ttl
        self._disks, self._clocks = disks, clocks
        self._doors = contextlib.ExitStack()
        self.disks: dict[str, Disk] = {}
        self.clocks: dict[str, Path] = {}
        self.skipped: list[str] = []
        self.entries: dict[str, str] = {}
        self.grants: dict[str, str] = {}

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException as error:
            self._doors.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for proxy in self.stack.proxies.values():  # what hangs would have to be killed
            self.background.do(proxy.close())
        for process in self.stack.processes:
            resume(process)
        self._doors.__exit__(kind, error, traceback)

    @property
    def clusters(self) -> tuple[Cluster, Cluster]:
        return self.stack.clusters[WEST], self.stack.clusters[EAST]

    @property
    def agents(self) -> tuple[Agent, Agent]:
        west, east = self.clusters
        return west.agents[NODE], east.agents[NODE]

    @property
    def processes(self) -> dict[str, Process]:
        """By name: hub, cluster-NAME, agent-NAME-node-1."""
        return {process.name: process for process in self.stack.processes}

    def link(self, name: str) -> Sequence[Proxy]:
        """The proxies before the doors of "hub" or of a cluster."""
        return [proxy for door, proxy in self.stack.proxies.items() if door.split()[0] == name]

    def _start(self) -> None:
        self.background = self._doors.enter_context(Background())
        # Unmounted after every process has ended.
        self._doors.callback(lambda: [disk.unmount() for disk in reversed(self.disks.values())])
        if self._disks:
            self._mount()
        self.stack = self._doors.enter_context(FaultyStack(self._folder, self.background))
        policy: dict[str, object] = {"svid_ttl": f"{self._svid_ttl}s", "jwt_ttl": f"{self._svid_ttl}s"}
        for name in (WEST, EAST):
            cluster = self.stack.cluster(name, **policy)
            made = cluster.entry("/work", parent=f"node/{NODE}", selectors=[ME], federates_with=["*"])
            self.entries[name] = made["id"]
            agent = cluster.agent(NODE, start=False)
            if self._clocks and name == WEST:
                self._fake_clock(name, agent)
            agent.process.start()
            agent.wait_for(made["id"])
        for importer, exporter in ((WEST, EAST), (EAST, WEST)):
            self.grants[importer] = self.stack.grant(importer, exporter)
        for agent in self.agents:
            until(lambda a=agent: len(a.admin.get("/bundles")["bundles"]) == 2, "the peer's bundle")  # type: ignore[misc]

    def _mount(self) -> None:
        folders = {"hub": ["hub"]}
        for name in (WEST, EAST):
            folders |= {f"cluster-{name}": [name], f"agent-{name}-{NODE}": [f"{name}-{NODE}"]}
            folders[f"cache-{name}"] = [f"{name}-{NODE}", "cache"]
        try:
            for name, parts in folders.items():
                self.disks[name] = Disk.mount(self._folder.joinpath(*parts))
        except (PermissionError, FileNotFoundError) as error:
            self.skipped.append(f"full and read-only disks: {error}")

    def _fake_clock(self, name: str, agent: Agent) -> None:
        library = faketime()
        if library is None:
            self.skipped.append("clock steps: libfaketime is not installed")
            return
        clock = self.clocks[name] = self._folder / f"{name}.clock"
        clock.write_text("+0s")
        agent.process.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }


def faketime() -> Path | None:
    """The library that gives a process another wall clock, where it is installed."""
    spec = find_spec("libfaketime")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for found in Path(place).rglob("libfaketime.so.1"):
            return found
    return None


def freeze(process: Process) -> None:
    """SIGSTOP: it holds its sockets and says nothing. One that has ended stays as it is."""
    if process.running:
        os.kill(process.pid, signal.SIGSTOP)


def resume(process: Process) -> None:
    """SIGCONT."""
    if process.running:
        os.kill(process.pid, signal.SIGCONT)
