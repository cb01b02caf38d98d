"""What the way through four Envoys costs: client's sidecar, east-west gateway, server's sidecar, all with our SDS and routes.

The same client calls the same application by both ways, in turn; the application and the client are one Python process, which
both ways share. The stack is a hub, two clusters, two agents and two feeds of its own. trustfed only.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Run
from bench.trustfed import Trustfed
from tests.system.envoy_world import EAST, EnvoyWorld
from trustfed.demo.envoy.app import PING, echo, get
from trustfed.demo.envoy.stage import HTTP, TCP
from trustfed.runtime.sockets import parse_address

GROUP = "envoy"
ROUNDS, REQUESTS, CONNECTIONS = 10, 300, 50
PROXIES = 3
"""On the way of one call: only one of the two gateways is."""
WAIT_SECONDS = 20.0


def take(run: Run, folder: Path) -> None:
    """Latency by both ways, and how long after a grant's end the next call is refused."""
    for product in run.products:
        if isinstance(product, Trustfed):
            try:
                with EnvoyWorld(folder) as world:
                    _take(run, product.name, world)
            except (AssertionError, OSError, http.client.HTTPException) as error:
                run.failed(product, "the way through Envoys", str(error).partition("\n")[0] or type(error).__name__)


def _take(run: Run, product: str, world: EnvoyWorld) -> None:
    grants = world.federate()
    run.progress("calling through four Envoys, and without them")
    ways = (
        ("HTTP request on a kept connection", _requests, world.outside(HTTP), world.app.http),
        ("TCP connection with one exchange", _connections, world.outside(TCP), world.app.tcp),
    )
    for name, sample, through, straight in ways:
        taken: dict[str, list[float]] = {through: [], straight: []}
        _until(lambda t=through, s=sample: bool(s(t, 1)))  # type: ignore[misc]
        for number in range(ROUNDS):
            for address in (through, straight) if number % 2 else (straight, through):
                taken[address] += sample(address)
        for address, way in ((through, "through Envoys"), (straight, "without")):
            cuts = statistics.quantiles(taken[address], n=100)
            run.report.add(product, GROUP, f"{name}, {way}", "p50 ms", cuts[49])
            run.report.add(product, GROUP, f"{name}, {way}", "p99 ms", cuts[98])
        added = (statistics.median(taken[through]) - statistics.median(taken[straight])) / PROXIES
        run.report.add(product, GROUP, f"{name}, added by each proxy", "ms", added)
    began = time.perf_counter()
    world.east.admin.post(f"/grants/{grants[EAST]}/end", {"reason": "measured"})
    _until(lambda: not _answered(world.outside(TCP)))
    run.report.add(
        product, GROUP, "a grant ends → a new connection is refused", "ms", (time.perf_counter() - began) * 1000
    )


def _requests(address: str, count: int = REQUESTS) -> list[float]:
    """Milliseconds of each of many requests on one connection."""
    with contextlib.closing(http.client.HTTPConnection(*parse_address(address), timeout=WAIT_SECONDS)) as kept:
        kept.connect()
        return [_timed(lambda: get(address, kept)[0] == 200) for _ in range(count)]


def _connections(address: str, count: int = CONNECTIONS) -> list[float]:
    """Milliseconds of each of many connections that send once and are answered once."""
    return [_timed(lambda: echo(address) == PING) for _ in range(count)]


def _timed(call: Callable[[], bool]) -> float:
    begun = time.perf_counter()
    if not call():
        raise OSError("a call was not answered")
    return (time.perf_counter() - begun) * 1000


def _answered(address: str) -> bool:
    with contextlib.suppress(OSError):
        return echo(address) == PING
    return False


def _until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if look():
                return
        if time.monotonic() > end:
            raise OSError(f"waited {WAIT_SECONDS:.0f} s in vain for the Envoys")
        time.sleep(0.005)
