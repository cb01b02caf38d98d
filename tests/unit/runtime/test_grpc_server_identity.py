"""gRPC is told of a new certificate once: told with every handshake, it crashed under a burst of them."""

from __future__ import annotations

from tests.fakes.world import DomainWorld
from trustfed.runtime.grpc_server import ServerIdentity


async def test_a_certificate_is_news_once() -> None:
    world = await DomainWorld.make("west.example")
    identity = ServerIdentity(await world.svid("/trustfed/cluster"), [world.twin])
    identity.credentials()
    assert identity._changed() is None
    identity.replace(await world.svid("/trustfed/cluster"))
    assert identity._changed() is not None
    assert identity._changed() is None
