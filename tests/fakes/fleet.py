"""A hub's Fleet service over real mTLS, that says what a test tells it to (beside tests.fakes.hub.FakeHub)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from tests.fakes.hub import FakeHub
from trustfed.journal.merkle.vkey import ED25519, Vkey
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.grpc_server import OPTIONS, ServerIdentity

SERVICE = "trustfed.evidence.v1.Fleet"


class FakeFleet:
    """`await FakeFleet.make(hub)`; `heard` is what clusters said, `say` is said to the one that is connected."""

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.welcome = pb.FleetWelcome(protocol=1, cursor=0)
        self.heard: list[pb.FromCluster] = []
        self.hellos: list[pb.FleetHello] = []
        self.taking = True
        self._say: asyncio.Queue[pb.FromHub | None] = asyncio.Queue()
        self._server: Any = None
        self.address = ""

    @classmethod
    async def make(cls, hub: FakeHub, key: bytes = b"h" * 32, *, known: bool = True) -> FakeFleet:
        made = cls(hub)
        made.welcome.log_key = Vkey("trustfed/fake-hub.example/journal", ED25519, key).text
        identity = ServerIdentity(await hub._keypair(), [root.certificate for root in hub.roots])
        made._server = grpc.aio.server(options=OPTIONS)
        if known:
            follow = grpc.stream_stream_rpc_method_handler(
                made._follow, pb.FromCluster.FromString, pb.FromHub.SerializeToString
            )
            made._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Follow": follow}),))
        made.address = f"127.0.0.1:{made._server.add_secure_port('127.0.0.1:0', identity.credentials())}"
        await made._server.start()
        return made

    def say(self, *messages: pb.FromHub) -> None:
        for message in messages:
            self._say.put_nowait(message)

    def cut(self) -> None:
        """End the open stream."""
        self._say.put_nowait(None)

    def of(self, kind: str) -> list[Any]:
        """What was heard of one kind."""
        return [getattr(one, kind) for one in self.heard if one.WhichOneof("message") == kind]

    async def until(self, condition: Any, seconds: float = 20) -> Any:
        async with asyncio.timeout(seconds):
            while not (found := condition()):
                await asyncio.sleep(0.01)
        return found

    async def stop(self) -> None:
        self.cut()
        await self._server.stop(0)

    async def _follow(self, _: Any, context: Any) -> None:
        first = await context.read()
        self.hellos.append(first.hello)
        await context.write(pb.FromHub(welcome=self.welcome))
        reading = asyncio.create_task(self._read(context))
        try:
            while (message := await self._say.get()) is not None:
                await context.write(message)
        finally:
            reading.cancel()

    async def _read(self, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            self.heard.append(message)
            if message.WhichOneof("message") == "delta" and self.taking:
                await context.write(pb.FromHub(taken=pb.Taken(cursor=message.delta.cursor)))
