"""The demo's house: folders, ports, configuration files and command lines of a hub, two clusters and what is in them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from trustfed.demo.carried import Carried
from trustfed.demo.envoy.stage import Stage
from trustfed.demo.ports import free_ports
from trustfed.demo.processes import Process
from trustfed.demo.s3 import S3
from trustfed.errors import Conflict, Invalid
from trustfed.runtime.sockets import MAX_PATH

HUB_DOMAIN = "trustfed-hub.example"
NODE = "node-1"
CLI = [sys.executable, "-P", "-m", "trustfed.cli"]


@dataclass
class Hub:
    """The hub's places."""

    folder: Path
    grpc: str
    https: str

    @property
    def config(self) -> Path:
        return self.folder / "hub.toml"

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def public(self) -> Path:
        return self.folder / "public"


@dataclass
class Cluster:
    """One trust domain's places: control plane, one node's agent, one workload."""

    name: str
    owner: str
    path: str
    locality: str
    folder: Path
    grpc: str
    bundle: str
    address: str  # of its workload
    mcp: str  # of the feed beside its istiod, for xds://

    @property
    def config(self) -> Path:
        return self.folder / "cluster.toml"

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def token(self) -> Path:
        return self.folder / "enrolment.token"

    @property
    def agent_config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def agent_data(self) -> Path:
        return self.folder / "agent"

    @property
    def api(self) -> Path:
        return self.folder / "api.sock"

    @property
    def agent_admin(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def control(self) -> Path:
        return self.folder / "work.sock"

    @property
    def feed_config(self) -> Path:
        return self.folder / "feed.toml"

    @property
    def feed_admin(self) -> Path:
        return self.folder / "feed.sock"

    @property
    def feed_id(self) -> str:
        return f"spiffe://{self.name}/mesh/feed"

    @property
    def istio(self) -> Path:
        """What the feed writes for an istiod's fs:// source."""
        return self.folder / "istio"

    @property
    def workload_id(self) -> str:
        return f"spiffe://{self.name}{self.path}"


@dataclass
class House:
    """Everything the demo starts."""

    directory: Path
    hub: Hub
    clusters: tuple[Cluster, Cluster]
    svid_ttl: timedelta
    openbao: str  # HOST:PORT, when the keys lie there
    keys: dict[str, str] = field(default_factory=dict)  # extra lines of [keys], by cluster name and "hub"
    processes: list[Process] = field(default_factory=list)
    s3: S3 | None = None  # when its server is installed
    before_hub: Callable[[], None] = lambda: None  # what must be ready when the hub starts
    stage: Stage | None = None  # when Envoy is installed
    carried: Carried = field(default_factory=Carried)
    free: Iterator[str] = field(default_factory=lambda: iter(()))  # addresses that nobody listens at
    login: str | None = None  # a link that opens the dashboard once

    @property
    def dashboard(self) -> str:
        """Where people open it: the name that the hub's certificate has."""
        return f"https://localhost:{self.hub.https.rpartition(':')[2]}/dashboard/"

    def add(self, name: str, argv: list[str], mark: Path) -> Process:
        """A process of this house; not started yet."""
        process = Process(name, argv, self.directory / "logs" / f"{name}.log", str(mark))
        self.processes.append(process)
        return process


def plan(directory: Path | None, svid_ttl: timedelta) -> House:
    """Choose folders and ports. Raises Invalid (path too long), Conflict (folder in use)."""
    if not timedelta(seconds=10) <= svid_ttl <= timedelta(hours=1):
        raise Invalid(f"SVIDs of {svid_ttl} are no good for a demo", hint="--svid-ttl from 10s to 1h")
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="trustfed-"))
    directory = directory.absolute()
    # The longest socket path of the house, and what the agent's lock beside it needs.
    if len(str(directory / "prod-eu-central" / "agent.sock").encode()) + 8 > MAX_PATH:
        raise Invalid(f"{directory} is too long a path for Unix sockets", hint="choose a folder with a shorter path")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise Conflict(f"{directory} is not empty", hint="choose a new folder, or leave --directory out")
    ports = free_ports(21)
    places = [f"127.0.0.1:{port}" for port in ports]
    hub = Hub(directory / "hub", places[0], places[1])
    west = Cluster(
        "prod-us-west", "team-storefront", "/shop/storefront", "us-west-2", directory / "prod-us-west", *places[2:6]
    )
    central = Cluster(
        "prod-eu-central",
        "team-warehouse",
        "/shop/warehouse",
        "eu-central-1",
        directory / "prod-eu-central",
        *places[6:10],
    )
    for folder in (directory / "logs", hub.folder, west.folder, central.folder):
        folder.mkdir(mode=0o700)
    return House(directory, hub, (west, central), svid_ttl, places[10], free=iter(places[11:]))


def write_configurations(house: House) -> None:
    """The TOML files of every process."""
    hub = house.hub
    hub.config.write_text(
        f"""\
trust_domain = "{HUB_DOMAIN}"
data_dir = "data"
admin_socket = "admin.sock"
dns_names = ["localhost"]
[grpc]
listen = "{hub.grpc}"
[https]
listen = "{hub.https}"
[publication]
directory = "public"
[dashboard]
address = "{house.dashboard.removesuffix("/dashboard/")}"
[mesh]
allow_networks = ["127.0.0.0/8"]
[keys]
workers = 0
{house.keys.get("hub", 'directory = "keys"')}
{house.s3.target() if house.s3 else ""}"""
    )
    seconds = int(house.svid_ttl.total_seconds())
    for cluster in house.clusters:
        cluster.config.write_text(
            f"""\
data_dir = "data"
admin_socket = "admin.sock"
[grpc]
listen = "{cluster.grpc}"
[bundle_spiffe]
listen = "{cluster.bundle}"
[policy]
svid_ttl = "{seconds}s"
node_ttl = "10m"
# Nobody polls the bundles here, so a new authority waits for those who are connected only.
polled_readers = false
[mesh]
# Where gateways of a real mesh never are.
allow_networks = ["127.0.0.0/8"]
probe_interval = "1s"
[evidence]
# Who kills an agent wants to see it soon.
silent_after = "5s"
probe_every = "2s"
[keys]
workers = 0
{house.keys.get(cluster.name, 'directory = "keys"')}
"""
        )
        cluster.agent_config.write_text('data_dir = "agent"\nsocket = "api.sock"\nadmin_socket = "agent.sock"\n')
        cluster.feed_config.write_text(
            f"""\
trust_domain = "{cluster.name}"
cluster = ["{cluster.grpc}"]
workload_socket = "api.sock"
spiffe_id = "{cluster.feed_id}"
data_dir = "feed"
admin_socket = "feed.sock"
[output]
directory = "istio"
mcp = "{cluster.mcp}"
"""
        )


def hub_process(house: House) -> Process:
    """The hub."""
    return house.add("hub", [*CLI, "hub", "serve", "--config", str(house.hub.config)], house.hub.config)


def cluster_process(house: House, cluster: Cluster) -> Process:
    """A control plane."""
    argv = [*CLI, "cluster", "serve", "--config", str(cluster.config)]
    return house.add(f"cluster-{cluster.name}", argv, cluster.config)


def agent_process(house: House, cluster: Cluster, token: Path) -> Process:
    """An agent; the token is ignored once it is enrolled, so the same command starts it again."""
    argv = [*CLI, "agent", "serve", "--config", str(cluster.agent_config), "--join", f"@{token}"]
    return house.add(f"agent-{cluster.name}", argv, cluster.agent_config)


def workload_process(house: House, cluster: Cluster) -> Process:
    """A workload, which calls the workload of the other trust domain."""
    (peer,) = (other for other in house.clusters if other is not cluster)
    argv = [sys.executable, "-P", "-m", "trustfed.demo.workload", "--api", str(cluster.api)]
    argv += ["--control", str(cluster.control), "--listen", cluster.address]
    # Who shares a user with the feed has its identity too, here as anywhere: it says which one it means.
    argv += ["--peer", peer.address, "--peer-id", peer.workload_id, "--spiffe-id", cluster.workload_id]
    return house.add(f"workload-{cluster.name}", argv, cluster.control)


def feed_process(house: House, cluster: Cluster) -> Process:
    """The feed beside a cluster's istiod; here istiod's part is played by trustfed.demo.envoy."""
    argv = [*CLI, "feed", "serve", "--config", str(cluster.feed_config)]
    return house.add(f"feed-{cluster.name}", argv, cluster.feed_config)


def fleet_process(house: House, count: int) -> Process:
    """The simulated clusters, all in one process."""
    folder = house.directory / "fleet"
    argv = [sys.executable, "-P", "-m", "trustfed.demo.fleet", "--hub", str(house.hub.admin)]
    return house.add("fleet", [*argv, "--folder", str(folder), "--count", str(count)], folder)
