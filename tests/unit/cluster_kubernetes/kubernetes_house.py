"""A cluster that follows an API server of our own, through the official client, with waits cut short."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from tests.fakes.kubernetes_api import KubernetesApi
from tests.unit.cluster_mesh.probing_house import HOME, ProbingHouse
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.events import LocalSeen
from trustfed.cluster.mesh.kubernetes.config import KubernetesConfig
from trustfed.cluster.mesh.kubernetes.driver import OfficialClient
from trustfed.cluster.mesh.kubernetes.source import KubernetesSource
from trustfed.federation.mesh import Export, Import, read_item
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.metrics import Registry

SUFFIX = "svc.cluster.local"
PAYMENTS = f"payments.shop.{SUFFIX}"
SA = f"spiffe://{HOME}/ns/shop/sa/"
CALLER = "spiffe://east.test/ns/shop/sa/checkout"
EXPORTED = {"trustfed.io/export": "true", "trustfed.io/callers": CALLER}


class HastyClock(SystemClock):
    """Nobody waits for long; a test may let elapsed time jump."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(max(seconds, 0), 0.02))


def config_of(api: KubernetesApi, **changed: Any) -> KubernetesConfig:
    return KubernetesConfig(**{"kubeconfig": api.kubeconfig, "timeout": timedelta(seconds=5), **changed})


class KubernetesHouse:
    """A journal, an API server, and what follows the one and writes the other."""

    def __init__(self, api: KubernetesApi, journalled: ProbingHouse, root_namespace: str = "istio-system") -> None:
        self.api, self.journalled, self.clock, self.registry = api, journalled, HastyClock(), Registry()
        self.client = OfficialClient(config_of(api))
        self.source = KubernetesSource(
            journalled.fold,
            self.client,
            "cluster.local",
            self.clock,
            self.registry,
            lambda least, most: least,
            root_namespace=root_namespace,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def events() -> None:
            async for _, event in self.journalled.fold.subscribe(after=self.journalled.fold.position):
                self.source.on_event(event)

        tasks = [asyncio.create_task(job) for job in (*self.source.jobs(), events())]
        try:
            yield
        finally:
            self.client.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def export(self, host: str = PAYMENTS) -> Export | None:
        held = self.journalled.state.mesh.own.get(f"export/{host}")
        item = read_item("export", held.item) if held is not None else None
        assert item is None or isinstance(item, Export)
        return item

    def local(self, host: str = PAYMENTS) -> LocalSeen | None:
        return self.journalled.state.mesh.local.get(host)

    def refused(self) -> dict[str, str]:
        shown: Any = self.source.status()["refused"]
        return {one["service"]: one["error"] for one in shown}

    def errors(self) -> list[str]:
        shown: Any = self.source.status()["collections"]
        return [one["error"] for one in shown if one["error"]]

    async def imports(self, host: str = PAYMENTS) -> None:
        """This cluster wants a host of another one."""
        item = Import(host.split(".", maxsplit=1)[0], "east.test", host=host)
        now = self.journalled.clock.now()
        await self.journalled.record(*own.put(self.journalled.state, item, "command", now))


async def until(condition: Callable[[], object], what: str = "", seconds: float = 25.0) -> None:
    """Wait for a condition; AssertionError when it does not come."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
            return
    raise AssertionError(f"not in {seconds} s: {what}")
