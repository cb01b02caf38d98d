"""The real stack as operating-system processes: a hub, clusters, agents. Shared by system and interop tests.

    with Stack(folder) as stack:
        west, east = stack.cluster("prod-us-west"), stack.cluster("prod-us-east")
        stack.grant("prod-us-west", "prod-us-east")
        agent = west.agent("node-1")
        west.entry("/ns/web/sa/api", parent="node/node-1", selectors=("unix:uid:0",), federates_with=("*",))

Ports are free ones of loopback, sockets live in a short folder of their own. Every process is stopped by its pid; when
the block ends with an error, the end of each process's log is in the error's notes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from tests.system.admin import Admin
from trustfed.demo.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
HUB_DOMAIN = "trustfed-hub.example"
READY_SECONDS = 30.0
_STOP_SECONDS = 15
_NOTE_LINES = 25


class Process:
    """One process of the stack: started by its argv, known by its pid, its output in `log`."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, ready: Callable[[], bool]) -> None:
        self.name, self.argv, self.log = name, list(argv), log
        self.environment: dict[str, str] = {}
        self._ready = ready
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self, *, wait: bool = True) -> Process:
        """Start it, and (unless `wait` is false) return once it is ready. AssertionError with its log when it is not."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not self._ready():
            assert self.running, f"{self.name} ended with {self._popen and self._popen.returncode}:\n{self.tail()}"
            assert time.monotonic() < end, f"{self.name} was not ready within {seconds} s:\n{self.tail()}"
            time.sleep(0.04)

    def kill(self) -> None:
        """kill -9, its worker processes with it."""
        if self._popen is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait(_STOP_SECONDS)

    def stop(self) -> int | None:
        """SIGTERM and its exit code; kill -9 when it does not end in time."""
        if self._popen is None:
            return None
        if self.running:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._popen.returncode

    def tail(self, lines: int = _NOTE_LINES) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class Agent:
    """One node's agent; `socket` is its Workload API."""

    def __init__(self, stack: Stack, cluster: Cluster, name: str) -> None:
        self.name, self.cluster = name, cluster
        self.socket = stack.sockets / f"{cluster.short}-{name}.sock"
        self.admin = Admin(stack.sockets / f"{cluster.short}-{name}.adm")
        self.data = stack.folder / f"{cluster.name}-{name}"
        config = stack.write(
            f"{cluster.name}-{name}.toml", data_dir=self.data, socket=self.socket, admin_socket=self.admin.path
        )
        token = stack.secret(f"{cluster.name}-{name}.token", cluster.node_token(name))
        argv = [sys.executable, "-m", "agent", "serve", "--config", str(config), "--join", f"@{token}"]
        self.process = stack.process(f"agent-{cluster.name}-{name}", argv, self.admin.ready)

    @property
    def endpoint(self) -> str:
        """What SPIFFE_ENDPOINT_SOCKET is set to."""
        return f"unix://{self.socket}"

    def wait_for(self, entry: str) -> None:
        """Return once this agent holds an SVID for the entry with this id."""

        def held() -> bool:
            return any(svid["entry"] == entry and svid["serial"] for svid in self.admin.get("/svids")["svids"])

        until(held, f"an SVID of entry {entry} at agent {self.name}")


class Feed:
    """The feed beside one istiod: routes in `folder`, for who listens at `istiod`, and over MCP at `mcp`.

    Its identity comes from `agent`.
    """

    PATH = "/ns/istio-system/sa/trustfed-feed"

    def __init__(self, stack: Stack, cluster: Cluster, agent: Agent) -> None:
        self.spiffe_id = f"spiffe://{cluster.name}{self.PATH}"
        self.folder, self.data = stack.folder / f"{cluster.name}-istio", stack.folder / f"{cluster.name}-feed"
        self.mcp = f"127.0.0.1:{free_port()}"
        self.istiod = f"127.0.0.1:{free_port()}"
        self.admin = Admin(stack.sockets / f"{cluster.short}-feed.adm")
        self.config = stack.write(
            f"{cluster.name}-feed.toml",
            trust_domain=cluster.name,
            cluster=[cluster.grpc],
            workload_socket=agent.socket,
            data_dir=self.data,
            admin_socket=self.admin.path,
            spiffe_id=self.spiffe_id,
            output={"directory": self.folder, "mcp": self.mcp, "istiod": self.istiod},
        )
        argv = [sys.executable, "-P", "-m", "trustfed.feed", "serve", "--config", str(self.config)]
        self.process = stack.process(f"feed-{cluster.name}", argv, self.admin.ready)

    def resources(self) -> set[str]:
        """What it hands over: KIND/NAMESPACE/NAME."""
        return {one["resource"] for one in self.admin.get("/resources")["resources"]}

    def connected(self) -> bool:
        return bool(self.admin.get("/status")["cluster"]["connected"])


class Cluster:
    """The control plane of one trust domain."""

    def __init__(
        self,
        stack: Stack,
        name: str,
        suffixes: Sequence[str],
        policy: dict[str, object],
        tables: dict[str, object] | None = None,
    ) -> None:
        self._stack, self.name = stack, name
        self.short = f"c{next(stack.numbers)}"  # clusters may be started side by side
        self.admin = Admin(stack.sockets / f"{self.short}.adm")
        self.grpc, self.bundle_endpoint = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        order = {"name": name, "owner": f"team-{name}"[:64], "dns_suffixes": list(suffixes)}
        token = stack.secret(f"{name}.token", stack.hub_admin.post("/domains", order)["token"])
        config = stack.write(
            f"{name}.toml",
            data_dir=stack.folder / name,
            admin_socket=self.admin.path,
            grpc=stack.door(f"{name} grpc", self.grpc),
            bundle_spiffe=stack.door(f"{name} https", self.bundle_endpoint),
            keys={"workers": 0},
            policy={"polled_readers": False, **policy},
            **(tables or {}),
        )
        stack.run("trustfed.cluster", "init", "--config", str(config), f"@{token}")
        argv = [sys.executable, "-m", "trustfed.cluster", "serve", "--config", str(config)]
        self.process = stack.process(f"cluster-{name}", argv, self.admin.ready)
        self.agents: dict[str, Agent] = {}

    def node_token(self, name: str, groups: Sequence[str] = ()) -> str:
        return str(self.admin.post("/nodes/tokens", {"name": name, "groups": list(groups)})["token"])

    def agent(self, name: str, *, start: bool = True) -> Agent:
        """An agent for node `name` that joins this cluster."""
        self.agents[name] = Agent(self._stack, self, name)
        if start:
            self.agents[name].process.start()
        return self.agents[name]

    def feed(self, agent: Agent) -> Feed:
        """A feed on the node of `agent`, with an entry of its own, allowed to pull the routes; started."""
        made = Feed(self._stack, self, agent)
        user = [f"unix:uid:{os.getuid()}"]
        entry = self.entry(Feed.PATH, parent=f"node/{agent.name}", selectors=user)
        self.admin.post("/mesh/feeds/allow", {"spiffe_id": made.spiffe_id, "reason": "beside istiod"})
        agent.wait_for(entry["id"])
        made.process.start()
        return made

    def entry(self, path: str, **fields: object) -> dict[str, Any]:
        """Create a registration entry for spiffe://NAME/path; `fields` as in the admin socket's entry JSON."""
        made: dict[str, Any] = self.admin.post("/entries", {"spiffe_id": f"spiffe://{self.name}{path}", **fields})
        return made


class Stack:
    """A hub and what is added to it; leaving the block stops everything. `Stack.running` are those not left yet."""

    running: ClassVar[list[Stack]] = []

    def __init__(self, folder: Path, *, hub: dict[str, object] | None = None) -> None:
        self.folder = folder
        # A Unix socket's path may have 107 bytes: a test's own folder is often longer.
        self.sockets = Path(tempfile.mkdtemp(prefix="tf-"))
        self.clusters: dict[str, Cluster] = {}
        self.numbers = itertools.count()
        self.processes: list[Process] = []
        self.hub_admin = Admin(self.sockets / "hub.adm")
        self._hub_extra = hub or {}

    def __enter__(self) -> Stack:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.running.append(self)
        try:
            self._start_hub()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.running.remove(self)
        for process in reversed(self.processes):
            process.stop()
        if error is not None:
            # Whoever prints the end of it alone sees what failed.
            error.add_note(f"{self.logs()}\n--- {type(error).__name__}: {error}")
        shutil.rmtree(self.sockets, ignore_errors=True)

    def cluster(
        self, name: str, *, suffixes: Sequence[str] = (), tables: dict[str, object] | None = None, **policy: object
    ) -> Cluster:
        """Invite, enrol and start trust domain `name`; `policy` as in the cluster's [policy] table, `tables` beside it."""
        self.clusters[name] = Cluster(self, name, suffixes, policy, tables)
        self.clusters[name].process.start()
        return self.clusters[name]

    def grant(self, importer: str, exporter: str) -> str:
        """`importer` accepts identities of `exporter`: offered at the hub, accepted by the importer. Returns its id."""
        order = {"importer": importer, "exporter": exporter, "until": "2099-01-01T00:00:00Z", "reason": "they call"}
        id_ = str(self.hub_admin.post("/grants", order)["id"])
        owner = self.clusters[importer].admin
        offered = until(
            lambda: next((g for g in owner.get("/grants")["grants"] if g["id"] == id_), None), "the grant's offer"
        )
        owner.post(f"/grants/{id_}/accept", {"fingerprint": offered["exporter_fingerprint"], "reason": "agreed"})
        return id_

    def door(self, name: str, listen: str) -> dict[str, object]:
        """The configuration of one TCP door; a stack with something in between also says what others dial."""
        return {"listen": listen}

    def logs(self) -> str:
        """The end of every process's log."""
        return "\n".join(f"--- {process.name} ({process.log})\n{process.tail()}" for process in self.processes)

    def process(self, name: str, argv: Sequence[str], ready: Callable[[], bool]) -> Process:
        made = Process(name, argv, self.folder / f"{name}.log", ready)
        self.processes.append(made)
        return made

    def run(self, module: str, *arguments: str) -> str:
        """Run one command to its end; AssertionError with its words when it fails."""
        argv = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{module} {arguments[0]} exited {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, name: str, **tables: object) -> Path:
        """A TOML file of plain values and tables one deep."""
        plain = {key: value for key, value in tables.items() if not isinstance(value, dict)}
        lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
        for key, value in tables.items():
            if isinstance(value, dict):
                lines += [f"[{key}]", *(f"{inner} = {_toml(item)}" for inner, item in value.items())]
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def secret(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def _start_hub(self) -> None:
        config = self.write(
            "hub.toml",
            trust_domain=HUB_DOMAIN,
            data_dir=self.folder / "hub",
            admin_socket=self.hub_admin.path,
            grpc=self.door("hub grpc", f"127.0.0.1:{free_port()}"),
            https=self.door("hub https", f"127.0.0.1:{free_port()}"),
            publication={"directory": self.folder / "public"},
            keys={"workers": 0},
            **self._hub_extra,
        )
        self.run("trustfed.hub", "init", "--config", str(config))
        argv = [sys.executable, "-m", "trustfed.hub", "serve", "--config", str(config)]
        self.hub = self.process("hub", argv, self.hub_admin.ready).start()


def until(look: Callable[[], Any], what: str, seconds: float = READY_SECONDS) -> Any:
    """What `look` gives once it is true; AssertionError naming `what` when that takes too long."""
    end, pause = time.monotonic() + seconds, 0.01
    while not (found := look()):
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(pause)
        pause = min(2 * pause, 0.1)  # what is asked works for its answer while others want the machine
    return found


def _toml(value: object) -> str:
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value)  # TOML writes strings, numbers, booleans and flat arrays as JSON does
