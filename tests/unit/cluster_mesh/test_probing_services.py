"""A TLS probe names one exported service, and judges that service at that gateway only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.domain import Domain, leaf, new_key
from tests.unit.cluster_mesh.probing_house import ProbingHouse, certificate, export, gateway
from trustfed.cluster.mesh.prober import ALPN, NoAnswer, SocketProber
from trustfed.cluster.mesh.service_probes import AT_ONCE, MAX_PAIRS
from trustfed.errors import Unavailable
from trustfed.runtime.pace import Paces
from trustfed.runtime.reach import Reach
from trustfed.runtime.tls import KeyPair, server_context
from trustfed.spiffe.ids import SpiffeId

A, B = "203.0.113.1", "203.0.113.2"
SNI = "outbound_.8080_._.payments.shop.svc.cluster.local"
OTHER = "outbound_.8080_._.orders.shop.svc.cluster.local"
EAST = Domain("east.test")
FORGER = Domain("east.test")
NORTH = Domain("north.test")


@pytest_asyncio.fixture
async def house() -> AsyncIterator[ProbingHouse]:
    made = await ProbingHouse.make()
    await made.told("east.test", gateway("a", A), gateway("b", B), export("east.test"), export("east.test", "orders"))
    await made.trusted(EAST)
    good, orders = certificate(EAST), certificate(EAST, "/ns/shop/sa/orders")
    made.prober.shown.update({(A, SNI): good, (B, SNI): good, (A, OTHER): orders, (B, OTHER): orders})
    await made.rounds(3)
    yield made
    await made.close()


async def steps(house: ProbingHouse, count: int, apart: float = 31.0) -> None:
    for _ in range(count):
        await house.services.step()
        house.clock.move(apart)


def said(house: ProbingHouse) -> set[tuple[str, str, bool]]:
    return {(event.host.split(".")[0], event.gateway, event.up) for event in house.state.mesh.services.values()}


def failing(house: ProbingHouse) -> list[str]:
    shown: Any = house.services.status()["failing"]
    return [one["gateway"] for one in shown]


async def test_a_service_that_answers_everywhere_makes_no_event(house: ProbingHouse) -> None:
    await steps(house, 50)
    assert await house.decisions() == []
    assert house.services.status() == {"asked": 4, "not_asked": 0, "failing": []}
    assert set(house.prober.asked) == {(A, SNI), (B, SNI), (A, OTHER), (B, OTHER)}
    assert len(house.prober.asked) <= 4 * (50 * 31 / 540 + 1)  # once in ten minutes, not in every step


@pytest.mark.parametrize(
    "shown",
    [None, [b"no certificate"], certificate(NORTH), certificate(FORGER), certificate(EAST, "/ns/shop/sa/else")],
    ids=["nobody", "garbage", "another domain", "forged", "another identity"],
)
async def test_a_service_that_does_not_answer_at_one_gateway_leaves_that_one(
    house: ProbingHouse, shown: list[bytes] | None
) -> None:
    await steps(house, 1)
    house.prober.shown[B, SNI] = shown
    house.clock.move(600)
    await steps(house, 4)
    assert said(house) == {("payments", "b", False)}  # not orders, and not the gateway
    assert house.judged() == {}
    assert failing(house) == ["b"]
    house.prober.shown[B, SNI] = certificate(EAST)
    await steps(house, 6)
    assert said(house) == {("payments", "b", True)}


async def test_the_last_way_to_a_service_is_not_taken_by_a_probe(house: ProbingHouse) -> None:
    await steps(house, 1)
    house.prober.shown.update({(A, SNI): None, (B, SNI): None})
    house.clock.move(600)
    await steps(house, 20)
    assert said(house) == set()
    assert failing(house) == ["a", "b"]


async def test_when_the_way_that_answers_is_withdrawn_the_others_come_back(house: ProbingHouse) -> None:
    await steps(house, 1)
    house.prober.shown[B, SNI] = None
    house.clock.move(600)
    await steps(house, 4)
    assert said(house) == {("payments", "b", False)}
    await house.gone("east.test", "gateway", "a")
    await house.rounds()
    await steps(house, 2)
    assert said(house) == {("payments", "b", True)}


async def test_a_gateway_without_a_connection_says_nothing_of_its_services(house: ProbingHouse) -> None:
    await steps(house, 1)
    house.prober.round_trips[B] = None
    house.clock.move(600)
    await steps(house, 20)
    assert said(house) == set()


async def test_without_the_domains_bundle_nothing_is_judged() -> None:
    made = await ProbingHouse.make()
    try:
        await made.told("east.test", gateway("a", A), gateway("b", B), export("east.test"))
        await steps(made, 20)
        assert made.prober.asked == []
        assert said(made) == set()
    finally:
        await made.close()


async def test_a_service_that_flaps_is_damped(house: ProbingHouse) -> None:
    for _ in range(40):
        house.prober.shown[B, SNI] = None
        await steps(house, 4)
        house.prober.shown[B, SNI] = certificate(EAST)
        await steps(house, 4)
    assert len(await house.decisions()) <= 14


async def test_a_restart_continues_from_the_journal(house: ProbingHouse) -> None:
    await steps(house, 1)
    house.prober.shown[B, SNI] = None
    house.clock.move(600)
    await steps(house, 4)
    again = await house.again()
    try:
        await again.rounds(2)
        await steps(again, 20)
        assert said(again) == {("payments", "b", False)}
        assert len(await again.decisions()) == 1
    finally:
        await again.close()


async def test_without_probes_no_earlier_judgement_stays(house: ProbingHouse) -> None:
    await steps(house, 1)
    house.prober.shown[B, SNI] = None
    house.clock.move(600)
    await steps(house, 4)
    assert said(house) == {("payments", "b", False)}
    await house.services.lift()
    assert said(house) == {("payments", "b", True)}
    before = house.fold.position
    await house.services.lift()
    assert house.fold.position == before


async def test_few_are_asked_at_a_time() -> None:
    made = await ProbingHouse.make()
    try:
        await made.trusted(EAST)
        await made.told("east.test", gateway("a", A), *(export("east.test", f"s{n}") for n in range(30)))
        await made.services.step()
        assert len(made.prober.asked) == 0  # the gateway is not known to answer at all yet
        await made.rounds()
        await made.services.step()
        assert 0 < len(made.prober.asked) <= AT_ONCE
        assert MAX_PAIRS <= 20_000
    finally:
        await made.close()


async def test_a_real_sidecar_is_asked_for_its_certificate_by_name() -> None:
    """It wants a client certificate, which the probe has none of: its own has come by then."""
    id_ = SpiffeId.of(EAST.trust_domain, "/ns/shop/sa/payments")
    key = new_key()
    shown = leaf(EAST.authorities[-1], id_, key.public_key(), timedelta(hours=1))
    context = server_context(KeyPair((shown,), key), [EAST.authorities[-1].twin], "required", ["istio"])
    names: list[str | None] = []
    context.sni_callback = lambda connection, name, of: names.append(name)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    prober = SocketProber(Reach((ip_network("127.0.0.0/8"),)))
    chain = await prober.ask("127.0.0.1", port, SNI, 10)
    assert chain[0] == shown
    assert names == [SNI]
    server.close()
    await server.wait_closed()
    with pytest.raises(Unavailable):
        await prober.ask("127.0.0.1", port, SNI, 10)


async def test_a_gateway_that_knows_no_such_name_closes_and_that_is_no_answer() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    prober = SocketProber(Reach((ip_network("127.0.0.0/8"),)))
    with pytest.raises(NoAnswer):
        await prober.ask("127.0.0.1", port, SNI, 10)
    with pytest.raises(NoAnswer):
        await prober.ask("127.0.0.1", port, "outbound_.8080_._." + "a" * 300, 10)
    server.close()
    await server.wait_closed()


async def test_a_sidecar_that_only_knows_tls_1_2_is_not_judged() -> None:
    """It turns a client without a certificate away first: that says nothing of the service."""
    key = new_key()
    shown = leaf(EAST.authorities[-1], SpiffeId.of(EAST.trust_domain, "/w"), key.public_key(), timedelta(hours=1))
    context = server_context(KeyPair((shown,), key), [EAST.authorities[-1].twin], "required", ["istio"])
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            with contextlib.suppress(ssl.SSLError):
                context.wrap_socket(connection.dup(), server_side=True)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    sidecar = threading.Thread(target=answer)
    sidecar.start()
    with pytest.raises(Unavailable, match="refused the handshake") as caught:
        await SocketProber(Reach((ip_network("127.0.0.0/8"),))).ask("127.0.0.1", listener.getsockname()[1], SNI, 10)
    assert not isinstance(caught.value, NoAnswer)
    sidecar.join()
    listener.close()


async def test_a_gateway_that_says_nothing_is_not_waited_for() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(NoAnswer, match="nothing in time"):
        await SocketProber(Reach((ip_network("127.0.0.0/8"),))).ask("127.0.0.1", port, SNI, 0.1)
    server.close()
    await server.wait_closed()


def test_what_is_offered_are_the_protocols_of_istio() -> None:
    assert all(protocol.startswith("istio") for protocol in ALPN)
    assert ssl.HAS_ALPN


async def test_a_domain_shuts_so_many_ways_in_a_while_and_no_more(house: ProbingHouse) -> None:
    await steps(house, 1)
    house.services._leaves = Paces(1, 3600.0)
    house.prober.shown[B, SNI] = house.prober.shown[B, OTHER] = None
    house.clock.move(600)
    await steps(house, 6)
    assert len(said(house)) == 1
    house.clock.move(3600)
    await steps(house, 2)
    assert said(house) == {("payments", "b", False), ("orders", "b", False)}
