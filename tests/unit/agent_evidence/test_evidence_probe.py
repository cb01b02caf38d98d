"""Probes: what a workload shows in a handshake, far enough to be proved, judged for its SPIFFE ID."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig
from agent.evidence import probe as probe_module
from agent.evidence.config import ProbeConfig
from agent.evidence.look import chain_of, look_context
from agent.evidence.probe import Probes, ours
from agent.store import HeldBundle
from agent.trusted_time import TrustedTime
from tests.fakes.domain import Domain, leaf, new_key
from tests.unit.agent_cache.cached import entry
from tests.unit.agent_evidence.test_evidence_noting import House
from trustfed.errors import Invalid, Unavailable
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.config import build
from trustfed.runtime.metrics import Registry
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.x509svid import parse_leaf

ID = SpiffeId.parse("spiffe://prod-a/app/1")
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def _pair(domain: Domain, id_: SpiffeId = ID) -> KeyPair:
    key = new_key()
    return KeyPair((leaf(domain.authorities[-1], id_, key.public_key(), timedelta(hours=1)),), key)


def _serial(pair: KeyPair) -> str:
    return f"{parse_leaf(pair.chain[0]).serial:032x}"


@asynccontextmanager
async def _door(
    pair: KeyPair, anchors: tuple[bytes, ...] = (), version: ssl.TLSVersion = V13, alpn: tuple[str, ...] = ()
) -> AsyncIterator[int]:
    """A workload's TLS server; with anchors it wants a client certificate. Gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pair.chain_pem() + pair.key_pem())
        file.flush()
        context.load_cert_chain(file.name)
    context.minimum_version = context.maximum_version = version
    if anchors:
        context.verify_mode = ssl.CERT_REQUIRED
        for der in anchors:
            context.load_verify_locations(cadata=der)
    if alpn:
        context.set_alpn_protocols(list(alpn))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def _plain(answer: bytes, *, hang: bool = False) -> AsyncIterator[int]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(answer)
        if hang:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture(scope="module")
def domain() -> Domain:
    return Domain("prod-a")


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("asks", [False, True])
async def test_the_certificate_is_seen_whether_or_not_the_server_wants_one_too(
    domain: Domain, version: ssl.TLSVersion, asks: bool
) -> None:
    pair = _pair(domain)
    async with _door(pair, domain.bundle().x509_authorities if asks else (), version) as port:
        assert (await chain_of("127.0.0.1", port, look_context(), 5))[0] == pair.chain[0]


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad\r\n\r\n", b"\x16\x03\x03\x00\x05hello", os.urandom(300_000)]
)
async def test_what_is_no_tls_is_one_error(answer: bytes) -> None:
    async with _plain(answer) as port:
        with pytest.raises(Unavailable):
            await chain_of("127.0.0.1", port, look_context(), 5)


async def test_a_server_that_says_nothing_is_left_in_time() -> None:
    async with _plain(b"", hang=True) as port:
        with pytest.raises(Unavailable, match="did not show a certificate within"):
            await chain_of("127.0.0.1", port, look_context(), 0.05)


async def test_a_certificate_without_its_key_is_not_shown(domain: Domain) -> None:
    """A signature that does not hold proves nothing, whatever certificate stands before it."""
    for version in (V12, V13):
        async with _door(_pair(domain), (), version) as port, _swapping(port) as front:
            with pytest.raises(Unavailable):
                await chain_of("127.0.0.1", front, look_context(), 5)


@asynccontextmanager
async def _swapping(port: int) -> AsyncIterator[int]:
    """Passes on what a real server says, with one bit of its signature (TLS 1.2) or of its last record (1.3) turned."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", port)
        ahead.write(await reader.read(4096))
        data = bytearray(await behind.read(65536))
        data[-40] ^= 1  # TLS 1.2: the signature lies before a hello-done of 9 bytes
        writer.write(bytes(data))
        await reader.read(10)
        writer.close()
        ahead.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Workload:
    """A node whose entry e1 has an SVID, and a probe of what its workload shows."""

    def __init__(self, house: House, domain: Domain, port: int, **more: Any) -> None:
        self.house, self.domain = house, domain
        house.time = TrustedTime(SystemClock())
        house.store.put_bundle(HeldBundle(domain.envelope(), domain.publication_key, house.time.now()))
        house.store.put_entries([entry(1)])
        config = ProbeConfig(f"127.0.0.1:{port}", more.pop("spiffe_id", ID), **more)
        self.probes = Probes(
            [config], domain.trust_domain, house.store, house.notes, house.time, lambda: 0.5, Registry()
        )

    def holds(self, pair: KeyPair) -> None:
        svid = self.house.svid
        svid("e1", int(_serial(pair), 16))

    async def look(self) -> dict[str, object]:
        await self.probes._once(self.probes._probes[0])
        (status,) = self.probes.status()
        return status


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_a_held_serial_is_confirmed_once_and_an_unknown_one_is_seen(house: House, domain: Domain) -> None:
    first, second, foreign = _pair(domain), _pair(domain), _pair(domain)
    async with _door(first) as port:
        workload = Workload(house, domain, port)
        workload.holds(first)
        for _ in range(3):
            assert (await workload.look())["outcome"] == "confirmed"
        ((_, _, said),) = house.notes._noted
        assert said == {
            "entry_id": "e1",
            "slot": "x509",
            "serial": _serial(first),
            "peer": f"127.0.0.1:{port}",
            "spiffe_id": str(ID),
        }
        workload.holds(second)
        assert (await workload.look())["outcome"] == "confirmed", "it may show the one before for a while"
        assert house.noted() == [("confirmed", int(_serial(first), 16))]
    async with _door(foreign, domain.bundle().x509_authorities) as port:
        workload = Workload(house, domain, port)
        workload.holds(second)
        assert (await workload.look())["outcome"] == "seen"
        ((_, _, said),) = house.notes._noted
        assert said["entry_id"] == "" and said["spiffe_id"] == str(ID)
        assert house.noted() == [("seen", int(_serial(foreign), 16))]


async def test_what_does_not_verify_for_that_id_is_no_evidence(house: House, domain: Domain) -> None:
    wrong = _pair(domain, SpiffeId.parse("spiffe://prod-a/app/2"))
    stranger = _pair(Domain("prod-a"))
    for pair, words in ((wrong, "the peer must be"), (stranger, "authority")):
        async with _door(pair) as port:
            workload = Workload(house, domain, port)
            workload.holds(pair)
            status = await workload.look()
            assert status["outcome"] == "failed" and words in str(status["error"])
    workload = Workload(house, domain, 1)
    assert "cannot be reached" in str((await workload.look())["error"])
    assert not house.noted()


async def test_probes_take_turns_and_never_end(house: House, domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    async def look(host: str, port: int, *_: object) -> tuple[bytes, ...]:
        looks.append(f"{host}:{port}")
        raise RuntimeError("anything")

    monkeypatch.setattr(probe_module, "chain_of", look)
    configs = [ProbeConfig(f"127.0.0.1:{port}", ID, timedelta(seconds=10)) for port in range(1, 21)]
    probes = Probes(configs, domain.trust_domain, house.store, house.notes, house.time, lambda: 0.5, Registry())
    running = asyncio.create_task(probes.run())
    await house.clock.advance(60.9)
    running.cancel()
    assert len(looks) == 20 * 7 and not house.noted()


async def test_another_machine_is_looked_at_only_where_the_configuration_says_so(house: House, domain: Domain) -> None:
    assert ours("127.0.0.1") and ours("::1") and ours("localhost") and not ours("192.0.2.1")
    workload = Workload(house, domain, 1)
    workload.probes._probes[0].host = "192.0.2.1"
    assert "no address of this node" in str((await workload.look())["error"])
    with pytest.raises(Invalid, match=r"not of prod-b"):
        Probes(
            [ProbeConfig("127.0.0.1:1", ID)],
            Domain("prod-b").trust_domain,
            house.store,
            house.notes,
            house.time,
            lambda: 0.5,
            Registry(),
        )


_BAD: list[tuple[dict[str, object] | list[dict[str, object]], str]] = [
    ({"address": "127.0.0.1"}, "HOST:PORT"),
    ({"address": "127.0.0.1:0"}, "names no port"),
    ({"address": "db.example:5432"}, "remote = true"),
    ({"spiffe_id": "spiffe://prod-a"}, "not the ID of a workload"),
    ({"spiffe_id": "spiffe://prod-a/trustfed/node/x"}, "not the ID of a workload"),
    ({"every": "10ms"}, "out of range"),
    ({"alpn": [""]}, "alpn"),
    ({"adress": "x"}, "did you mean address"),
    ([{"address": f"127.0.0.1:{port}"} for port in range(1, 66)], "at most 64"),
    ([{}, {}], "the same address"),
]


@pytest.mark.parametrize(("probes", "words"), _BAD)
def test_a_bad_probe_is_refused_before_the_start(
    probes: dict[str, object] | list[dict[str, object]], words: str, tmp_path: Path
) -> None:
    good: dict[str, object] = {"address": "127.0.0.1:8443", "spiffe_id": str(ID), "every": "30s"}
    table = {
        "data_dir": "d",
        "socket": "s",
        "probe": [{**good, **one} for one in ([probes] if isinstance(probes, dict) else probes)],
    }
    with pytest.raises(Invalid, match=words):
        build(table, AgentConfig, folder=tmp_path)


def test_good_probes_are_read(tmp_path: Path) -> None:
    table = {
        "data_dir": "d",
        "socket": "s",
        "probe": [
            {"address": "localhost:8443", "spiffe_id": str(ID)},
            {"address": "db.example:5432", "spiffe_id": str(ID), "every": "2m", "remote": True, "alpn": ["istio"]},
        ],
    }
    config = build(table, AgentConfig, folder=tmp_path)
    assert [one.every.total_seconds() for one in config.probe] == [30, 120]
