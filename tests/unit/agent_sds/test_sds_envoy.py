"""A real Envoy that takes its certificate and its validation from a real agent's socket, and terminates mTLS with them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes.cluster import Domain, FakeCluster, leaf, new_key
from tests.unit.agent.world import ME, Agent, eventually, running
from tests.unit.agent_sds import envoy as e
from trustfed.demo.ports import free_ports
from trustfed.proto import node_pb2 as pb
from trustfed.spiffe.ids import SpiffeId

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOME, WEST = "spiffe://east.test/client", "spiffe://west.test/client"
SECONDS = 25.0


@dataclass
class World:
    """One Envoy with three listeners: by StreamSecrets, by DeltaSecrets, and one that believes west.test alone."""

    cluster: FakeCluster
    west: Domain
    agent: Agent
    envoy: e.Envoy
    ports: list[int]

    def signed(self, signer: Domain, id_: str) -> ssl.SSLContext:
        """A client with an SVID for `id_` of one domain's newest authority."""
        key = new_key()
        der = leaf(signer.authorities[-1], SpiffeId.parse(id_), key.public_key(), timedelta(hours=1))
        return e.client_context([der], key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    async def admits(self, port: int, context: ssl.SSLContext) -> bool:
        try:
            await e.call(port, context)
        except OSError:
            return False
        return True

    def rotate(self) -> None:
        """Another authority of the home domain signs: its bundle first, then everything that the old one signed."""
        authorities = self.cluster.home.authorities
        before = authorities.pop()
        authorities.insert(0, before)
        self.cluster.publish()
        order = pb.Reissue(authorities=[before.id], spread_seconds=0, reason="rotation")
        self.cluster.tell(pb.FromCluster(reissue=order))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("sds")
    made = FakeCluster()
    made.home.authorities[:0] = [made.new_authority(f"a{number}") for number in (5, 4, 3, 2)]
    async with made as cluster:
        cluster.put("e1", "/web", [ME], federates_with=["west.test"])
        west = Domain("west.test")
        cluster.grant(west)
        async with running(cluster, folder) as (agent, _):
            *ports, admin = free_ports(4)
            alone = e.from_sds([])
            alone["tls_certificate_sds_secret_configs"] = [e.sds("spiffe://east.test/web")]
            alone["combined_validation_context"]["validation_context_sds_secret_config"] = e.sds("spiffe://west.test")
            listeners = [
                e.listener(ports[0], "stream", e.from_sds([HOME, WEST])),
                e.listener(ports[1], "delta", e.from_sds([HOME, WEST], delta=True)),
                e.listener(ports[2], "alone", alone),
            ]
            bootstrap = e.configuration(agent.config.socket, listeners, admin)
            async with e.envoy(bootstrap, folder) as envoy:
                world = World(cluster, west, agent, envoy, ports)
                await eventually(lambda: world.admits(ports[2], world.signed(west, WEST)), SECONDS)
                yield world


@pytest.mark.parametrize("listener", [0, 1])
async def test_each_domain_vouches_for_its_own_only(world: World, listener: int) -> None:
    port, home, west = world.ports[listener], world.cluster.home, world.west
    assert await world.admits(port, world.signed(home, HOME))
    assert await world.admits(port, world.signed(west, WEST))
    # The forged identity: one domain's authority signs a name of the other.
    assert not await world.admits(port, world.signed(home, WEST))
    assert not await world.admits(port, world.signed(west, HOME))
    assert not await world.admits(port, world.signed(Domain("north.test"), WEST))


@pytest.mark.parametrize("listener", [0, 1])
async def test_the_list_that_istiod_wrote_still_holds(world: World, listener: int) -> None:
    port = world.ports[listener]
    assert not await world.admits(port, world.signed(world.cluster.home, "spiffe://east.test/other"))
    assert not await world.admits(port, world.signed(world.west, "spiffe://west.test/other"))


async def test_one_domains_name_admits_that_domain_alone(world: World) -> None:
    port = world.ports[2]
    assert await world.admits(port, world.signed(world.west, "spiffe://west.test/any"))
    assert not await world.admits(port, world.signed(world.cluster.home, HOME))


async def test_rotations_reach_envoy_and_no_connection_fails(world: World) -> None:
    failed, made, over = 0, 0, asyncio.Event()

    async def connect(port: int) -> None:
        nonlocal failed, made
        client = world.signed(world.west, WEST)
        while not over.is_set():
            failed += not await world.admits(port, client)
            made += 1

    callers = [asyncio.create_task(connect(port)) for port in world.ports]
    for _ in range(3):
        world.rotate()
        newest = world.cluster.home.authorities[-1]
        issuer = x509.load_der_x509_certificate(newest.twin).subject

        async def shown(issuer: x509.Name = issuer) -> bool:
            client = world.signed(world.west, WEST)
            certificates = [await e.call(port, client) for port in world.ports]
            return all(x509.load_der_x509_certificate(one).issuer == issuer for one in certificates)

        await eventually(shown, SECONDS)
    # The home domain's new authority is believed as well.
    assert await world.admits(world.ports[0], world.signed(world.cluster.home, HOME))
    over.set()
    await asyncio.gather(*callers)
    assert made >= 3 and failed == 0


async def test_what_envoy_loaded_is_told_to_the_cluster(world: World) -> None:
    async def told() -> bool:
        held = {one.serial for one in world.cluster.loaded if one.entry_id == "e1" and one.resource == "default"}
        present = (await world.agent.admin("/svids"))[1]["svids"][0]["serial"]
        return present in held and any(one.resource == "ROOTCA" for one in world.cluster.loaded)

    await eventually(told, SECONDS)
    assert {one.proxy for one in world.cluster.loaded} == {"sidecar~10.0.0.9~web.ns~ns.svc.cluster.local"}
    assert all(one.version for one in world.cluster.loaded)
    status = (await world.agent.status())["sds"]
    assert status["streams"] == 6 and status["loaded"] >= 2 and not status["refused"] and not status["refusing"]


async def test_a_grant_that_ends_shuts_its_domain_out_and_nobody_else(world: World) -> None:
    west, home = world.signed(world.west, WEST), world.signed(world.cluster.home, HOME)

    async def shut() -> bool:
        return not any([await world.admits(port, west) for port in world.ports])

    async def open_again() -> bool:
        return all([await world.admits(port, west) for port in world.ports])

    world.cluster.end_grant("west.test")
    await eventually(shut, SECONDS)
    assert await world.admits(world.ports[0], home) and await world.admits(world.ports[1], home)
    world.cluster.grant(world.west)
    await eventually(open_again, SECONDS)
