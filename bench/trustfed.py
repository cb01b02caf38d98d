"""trustfed as a whole: a hub, two clusters, and the home domain's agent, each a process of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from bench.herd import Place, Taken, reconnect
from bench.issuance import cluster_issuance
from bench.load import LoadClient, Sample
from bench.node import attest, write_private
from bench.procs import BenchError, Process, wait_until
from bench.product import ENTRIES, FIRST_UID, HOME, OWN_PATH, OWN_SELECTOR, PEER
from trustfed.demo.ports import free_port

# Every command line, configuration file and admin call of the bench. {…} is filled in by this module.
COMMANDS = {
    "hub init": "hub init --config {config}",
    "hub serve": "hub serve --config {config}",
    "cluster init": "cluster init @{token} --config {config}",
    "cluster serve": "cluster serve --config {config}",
    "agent serve": "agent serve --config {config} --join @{token}",
    "edge serve": "agent serve --config {config}",
}
HUB_CONFIG = """
data_dir = "{folder}/data"
trust_domain = "bench-hub.example"
admin_socket = "{folder}/admin.sock"
[grpc]
listen = "127.0.0.1:{grpc}"
[https]
listen = "127.0.0.1:{https}"
[publication]
directory = "{folder}/published"
"""
CLUSTER_CONFIG = """
data_dir = "{folder}/data"
admin_socket = "{folder}/admin.sock"
[grpc]
listen = "127.0.0.1:{grpc}"
[bundle_spiffe]
listen = "127.0.0.1:{https}"
[keys]
directory = "{folder}/keys"
"""
AGENT_CONFIG = """
data_dir = "{folder}/data"
socket = "{folder}/agent.sock"
admin_socket = "{folder}/admin.sock"
"""
GROUP = "bench"  # both nodes, the agent's and the load client's, are in it
PARENT = f"group/{GROUP}"
INVITE = ("POST", "/domains")
OFFER = ("POST", "/grants")
GRANTS = ("GET", "/grants")
ACCEPT = ("POST", "/grants/{id}/accept")
ENTRY = ("POST", "/entries")
NODE_TOKEN = ("POST", "/nodes/tokens")
BUNDLE = ("GET", f"/bundles/{HOME}?format=pem")
AUTHORITIES = ("GET", "/authorities")
PREPARE = ("POST", "/authorities/prepare")
ACTIVATE = ("POST", "/authorities/{id}/activate")
READY = ("GET", "/ready")

HERD_SVIDS, HERD_CHANGES = 10, 20  # SVIDs that each node asks for when it is back, entries that are new to it

REASON = "bench"
ALONE = {"reason": "a benchmark has one person", "break_glass": True}
CLUSTER_ID = f"spiffe://{HOME}/trustfed/cluster"


class Trustfed:
    """The installation that `bench.product.Product` describes. Settings are the defaults, addresses loopback."""

    name = "trustfed"

    def __init__(self, directory: Path, client: LoadClient) -> None:
        self._directory, self._client = directory, client
        self.version = version("trustfed")
        self.socket = directory / "agent" / "agent.sock"
        self._hub, self._home, self._peer = (directory / name for name in ("hub", "home", "peer"))
        self._agent, self._node = directory / "agent", directory / "node"
        self._ports: dict[str, int] = {}
        self._entries: list[str] = []
        self._running: dict[str, Process] = {}

    def start(self) -> float:
        for folder in (self._hub, self._home, self._peer, self._agent, self._node):
            folder.mkdir(mode=0o700, parents=True)
        self._configure(self._hub, HUB_CONFIG)
        self._once("hub init", self._hub)
        self._serve("hub", "hub serve", self._hub)
        for folder, domain in ((self._peer, PEER), (self._home, HOME)):
            self._configure(folder, CLUSTER_CONFIG)
            invitation = {"name": domain, "dns_suffixes": [], "owner": REASON, "ttl": "10m"}
            write_private(folder / "token", self._call(self._hub, *INVITE, invitation)["token"].encode())
            self._once("cluster init", folder)
            self._serve("cluster" if folder == self._home else "peer cluster", "cluster serve", folder)
        self._grant()
        self._create_entries()
        attest(self._node_token("load"), self._node, self._call_text(self._home, *BUNDLE))
        self._configure(self._agent, AGENT_CONFIG)
        write_private(self._agent / "token", self._node_token("agent").encode())
        return self._client.first(self.socket, self._start_agent)

    def stop(self) -> None:
        for process in reversed(self._running.values()):
            process.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def processes(self) -> dict[str, int]:
        roles = {"agent": "agent", "cluster (SPIRE: server)": "cluster", "hub": "hub"}
        return {role: self._running[name].pid for role, name in roles.items()}

    def restart_agent(self, limit: float = 60.0) -> float:
        self._running["agent"].stop()
        return self._client.first(self.socket, self._start_agent, limit)

    @contextmanager
    def alone(self) -> Iterator[None]:
        for name in ("hub", "cluster", "peer cluster"):
            self._running[name].stop()
        try:
            yield
        finally:
            for name, folder in (("hub", self._hub), ("cluster", self._home), ("peer cluster", self._peer)):
                self._serve(name, f"{name.split()[-1]} serve", folder)
            wait_until(self._connected, "the agent's stream", self._running["agent"])

    def enrol_herd(self, size: int) -> list[Path]:
        """Folders of `size` nodes that have joined the home cluster."""
        bundle = self._call_text(self._home, *BUNDLE)
        folders = [self._directory / "herd" / str(number) for number in range(size)]
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True)
        tokens = [self._node_token(f"herd-{number}") for number in range(size)]
        with ThreadPoolExecutor(4) as several:
            list(several.map(lambda pair: attest(*pair, bundle), zip(tokens, folders, strict=True)))
        return folders

    def herd(self, folders: Sequence[Path], spread: float) -> Taken:
        """These nodes come back to the home cluster within `spread` seconds; entries are new since they were there."""
        place = Place(f"127.0.0.1:{self._ports['home grpc']}", CLUSTER_ID, self._entries[:HERD_SVIDS])

        def change() -> int:
            for number in range(HERD_CHANGES):
                self.entry(f"spiffe://{HOME}/bench/herd-{time.time_ns()}", f"unix:uid:{FIRST_UID + number}")
            return int(self._call(self._home, "GET", "/status")["position"])

        return reconnect(folders, place, self._node, change, spread)

    def issue(self, size: int, callers: int, seconds: float) -> Sample:
        return cluster_issuance(
            self._client,
            f"127.0.0.1:{self._ports['home grpc']}",
            self._node,
            server=CLUSTER_ID,
            entries=self._entries,
            size=size,
            callers=callers,
            seconds=seconds,
        )

    def create_entry(self, path: str) -> str:
        spiffe_id = f"spiffe://{HOME}{path}"
        self.entry(spiffe_id, OWN_SELECTOR)
        return spiffe_id

    def prepare_authority(self) -> int:
        self.activate_prepared()
        begun = time.time_ns()
        self._call(self._peer, *PREPARE, {"kind": "x509", **ALONE})
        return begun

    def activate_prepared(self) -> None:
        """In the peer domain, the authority of the round before: a domain prepares one at a time."""
        for authority in self._call(self._peer, *AUTHORITIES)["authorities"]:
            if (authority["kind"], authority["status"]) == ("x509", "prepared"):
                method, path = ACTIVATE
                self._call(self._peer, method, path.format(id=authority["id"]), ALONE)

    def reconfigure(self, hub: str, home: str) -> None:
        """Hub and home cluster start again with these tables added to their configuration."""
        for name, folder, text in (("hub", self._hub, hub), ("cluster", self._home, home)):
            with (folder / "config.toml").open("a") as config:
                config.write(text)
            self._running[name].stop()
            self._serve(name, f"{name} serve", folder)

    def hub(self, method: str, path: str, body: object = None) -> Any:
        """Ask the hub's admin socket."""
        return self._call(self._hub, method, path, body)

    def agent(self, name: str, folder: Path) -> Process:
        """Start one more agent, without a token, on the configuration in `folder`."""
        return Process(name, self._argv("edge serve", folder), folder / "log")

    def _configure(self, folder: Path, text: str) -> None:
        ports = {"grpc": free_port(), "https": free_port()}
        self._ports |= {f"{folder.name} {name}": port for name, port in ports.items()}
        (folder / "config.toml").write_text(text.format(folder=folder, **ports))

    def _argv(self, command: str, folder: Path) -> list[str]:
        words = COMMANDS[command].format(config=folder / "config.toml", token=folder / "token").split()
        return [str(Path(sys.prefix) / "bin" / "trustfed"), *words]

    def _once(self, command: str, folder: Path) -> None:
        process = Process(command, self._argv(command, folder), folder / "log")
        if process.wait(60) != 0:
            raise BenchError(f"trustfed {command} failed: {process.tail()}")

    def _serve(self, name: str, command: str, folder: Path) -> None:
        process = self._running[name] = Process(name, self._argv(command, folder), folder / "log")
        wait_until(lambda: self._ready(folder), "an answer to /ready", process)

    def _start_agent(self) -> int:
        process = self._running["agent"] = Process("agent", self._argv("agent serve", self._agent), self._agent / "log")
        return process.started_ns

    def _connected(self) -> bool:
        return bool(self._call(self._agent, "GET", "/status")["sync"]["connected"])

    def _ready(self, folder: Path) -> bool:
        try:
            return self._request(folder, *READY).is_success
        except httpx.TransportError:
            return False

    def _grant(self) -> None:
        """The home domain accepts identities of the peer domain."""
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        offer = {"importer": HOME, "exporter": PEER, "until": until, "reason": REASON}
        offered = self._call(self._hub, *OFFER, offer)

        def arrived() -> bool:
            return any(grant["id"] == offered["id"] for grant in self._call(self._home, *GRANTS)["grants"])

        wait_until(arrived, "the offered grant", self._running["cluster"])
        method, path = ACCEPT
        answer = {"fingerprint": offered["exporter_fingerprint"], "reason": REASON}
        self._call(self._home, method, path.format(id=offered["id"]), answer)

    def _create_entries(self) -> None:
        for n in range(ENTRIES):
            self.entry(f"spiffe://{HOME}/bench/other-{n}", f"unix:uid:{FIRST_UID + n}")
        self.entry(f"spiffe://{HOME}{OWN_PATH}", OWN_SELECTOR, federates_with=[PEER])

    def entry(self, spiffe_id: str, selector: str, **more: object) -> None:
        """A new entry of the home domain."""
        entry = {"spiffe_id": spiffe_id, "parent": PARENT, "selectors": [selector], "owner": REASON, **more}
        self._entries.append(self._call(self._home, *ENTRY, entry)["id"])

    def _node_token(self, name: str) -> str:
        text: str = self._call(self._home, *NODE_TOKEN, {"name": name, "groups": [GROUP]})["token"]
        return text

    def _call(self, folder: Path, method: str, path: str, body: object = None) -> Any:
        return self._request_ok(folder, method, path, body).json()

    def _call_text(self, folder: Path, method: str, path: str) -> str:
        return self._request_ok(folder, method, path, None).text

    def _request_ok(self, folder: Path, method: str, path: str, body: object) -> httpx.Response:
        try:
            answer = self._request(folder, method, path, body)
        except httpx.TransportError as error:
            raise BenchError(f"{folder.name}: {method} {path}: {error}") from error
        if not answer.is_success:
            raise BenchError(f"{folder.name}: {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer

    def _request(self, folder: Path, method: str, path: str, body: object = None) -> httpx.Response:
        # No TLS on a Unix socket: reading the machine's roots for it would take longer than most answers.
        transport = httpx.HTTPTransport(uds=str(folder / "admin.sock"), verify=False)
        with httpx.Client(transport=transport, base_url="http://admin", timeout=30, trust_env=False) as client:
            return client.request(method, path, json=body)
