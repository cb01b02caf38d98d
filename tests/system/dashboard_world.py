"""Dashboards in one process for a real browser: real doors over TLS, each with a hub in memory and another scene before it.

    with DashboardWorld() as world:
        world.log_in(context, "data", "auditor")     # a playwright browser context, by a real login link
        page.goto(world.url("data", "/expiry"))
        world.do(lambda: world.house("data").fleet.tell_standing(...))   # on the loop of the doors

Scenes: data (clusters with each kind of fault), live (the same, for tests that change it), large (hundreds more), stale (all are
away), empty, and hostile (names).
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bundle_publisher.documents import bundle_name
from bundle_publisher.publish import Publisher
from bundle_publisher.targets.port import Document
from tests.fakes.fleet_answers import ClusterAnswers
from tests.fakes.fleet_scene import Scene
from tests.fakes.fleet_standings import AWAY, LATE
from tests.fakes.targets import MemoryTarget
from tests.unit.hub.hub_parts import HubParts
from trustfed.errors import Unavailable
from trustfed.hub.access import Caller
from trustfed.hub.dashboard.door import dashboard_app
from trustfed.hub.dashboard.logins import Logins
from trustfed.hub.dashboard.news import News
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.hub.dashboard.sessions import Sessions
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.publication import Publication
from trustfed.runtime.sockets import address_of, listen_tcp
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.web import HttpDoor, web_pki_context
from trustfed.spiffe.ids import TrustDomain

T = TypeVar("T")
SCENES = ("data", "large", "stale", "empty", "hostile", "live")


class House:
    """One dashboard behind its door."""

    def __init__(self, hub: HubParts, folder: Path, tls: ssl.SSLContext) -> None:
        from fastapi import FastAPI

        self.hub, self.fleet = hub, Fleet(hub.clock)
        self.now_ms = to_ms(hub.clock.now())
        self.server = MemoryTarget()
        targets = {"https://mirror.example": self.server, "s3://bundles": MemoryTarget()}
        self.publisher = Publisher(targets, hub.clock, lambda: 0.5)
        hub.publication = Publication(self.publisher)
        self.answers = ClusterAnswers(self.now_ms)
        listener = listen_tcp("127.0.0.1:0")
        self.origin = f"https://localhost:{address_of(listener).rpartition(':')[2]}"
        self.sessions = Sessions.open(folder / f"sessions-{id(self)}.db", hub.clock, os.urandom)
        self.news = News(self.fleet)
        self.sessions.on_end(self.news.wake)
        self.logins = Logins(hub.operations, self.sessions, os.urandom, self.origin)
        self.parts = DashboardParts(
            hub=hub.parts(),
            fleet=self.fleet,
            sessions=self.sessions,
            logins=self.logins,
            news=self.news,
            clock=hub.clock,
            hosts=frozenset({"localhost"}),
            randomness=os.urandom,
            questions=self.answers,  # type: ignore[arg-type]
        )
        outside = FastAPI()
        outside.mount("/dashboard", dashboard_app(self.parts))
        self.door = HttpDoor(outside, listener, tls=tls)
        self.jobs: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Serve, and let news out."""
        await self.door.open()
        self.jobs += [asyncio.create_task(self.news.run()), asyncio.create_task(self.publisher.run())]

    def publish(self, *names: str) -> None:
        """Bring the bundles of these to an S3 bucket and to a server, which takes all but the first of them."""
        for name in names:
            document = Document(bundle_name(TrustDomain(name)), b"{}")
            self.publisher.want(document.name, lambda document=document: document)  # type: ignore[misc]
        self.server.fail(Unavailable("the server answered 503", hint="is it running?"), times=1)

    async def close(self) -> None:
        """In reverse."""
        self.news.close()
        for job in self.jobs:
            job.cancel()
        await self.door.close()
        await self.sessions.close()
        await self.hub.close()


class DashboardWorld:
    """All scenes' houses, on a loop of their own in a thread of their own."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._houses: dict[str, House] = {}

    def __enter__(self) -> DashboardWorld:
        self._thread.start()
        self._tls = self_signed(Path(self._folder.name))
        return self

    def __exit__(self, *_: object) -> None:
        for house in self._houses.values():
            self.run(house.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._folder.cleanup()

    def house(self, scene: str) -> House:
        """The house of a scene; opened when it is first asked for."""
        if scene not in self._houses:
            self._houses[scene] = self.run(self._make(scene))
        return self._houses[scene]

    def url(self, scene: str, path: str) -> str:
        """The address of a page."""
        return f"{self.house(scene).origin}/dashboard{path}"

    def run(self, work: Awaitable[T]) -> T:
        """Await something on the doors' loop."""

        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(30)

    def do(self, work: Callable[[], T]) -> T:
        """Call something on the doors' loop."""

        async def called() -> T:
            return work()

        return self.run(called())

    def log_in(
        self, context: Any, scene: str, role: str = "auditor", name: str = "alice", by: str = "uid:1000"
    ) -> None:
        """Log a browser context in, as a person does: open the one-time link and press the button."""
        url, _ = self.run(self.house(scene).logins.link(Caller(by, "admin"), name, role, timedelta(minutes=5)))
        page = context.new_page()
        page.goto(url)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/dashboard/")
        page.close()

    async def _make(self, scene: str) -> House:
        hub = await HubParts.make()
        house = House(hub, Path(self._folder.name), self._tls)
        made = scene_of(scene, house.now_ms)
        house.answers.away = scene == "stale"
        if made:
            made.fill(house.fleet)
            await made.enrol(hub)
            house.publish(AWAY, LATE)
        await house.open()
        return house


def scene_of(name: str, now_ms: int) -> Scene | None:
    """What is before a dashboard."""
    if name == "empty":
        return None
    made = Scene.make(now_ms, healthy=490 if name == "large" else 6, hostile=name == "hostile")
    if name == "stale":
        made = Scene.make(now_ms - 3 * 3_600_000)
        made.connected.clear()
    return made


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context for localhost."""
    from datetime import UTC, datetime

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    (folder / "tls.crt").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "tls.key").chmod(0o600)
    return web_pki_context(folder / "tls.crt", folder / "tls.key")
