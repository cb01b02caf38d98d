"""A cluster at its real doors: wrong roles, resuming agents, bans, an absent hub, a lying hub, kill -9."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import make_authority_csr
from ca.lifecycle import Kind
from tests.fakes.hub import FakeHub
from tests.system.cluster_world import TD, Cluster, Node, Process, Stream, enrolled, now, running, serial, slot
from tests.system.hub_world import HubProcess
from tests.unit.cluster.cluster_parts import NodeKey, spki
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import compose, enrolment, uplink
from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.parts import close_parts, open_parts
from trustfed.cluster.resign import resign
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.proto import federation_pb2 as fed
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.config import load
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.ids import TrustDomain

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "_LONGEST_WAIT", 0.3)


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[FakeHub]:
    made = await FakeHub.make()
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def cluster(hub: FakeHub, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path, hub) as made:
        yield made


# Who may come in


async def test_only_nodes_of_this_domain_come_in(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.entry("web")
    answer = await node.issue("web")
    assert not answer.results[0].error
    # A workload's SVID
    key = ec.generate_private_key(ec.SECP256R1())
    request = pb.IssueX509Request(slots=[pb.X509Slot(entry_id="web", slot="x509", public_key=spki(key))])
    chain = (await node.call("IssueX509", request, pb.IssueX509Response)).results[0].chain
    workload = Node(cluster, KeyPair(tuple(chain), key), node.address)
    with pytest.raises(Denied, match="is not a node"):
        await workload.issue("web")
    # Another domain's node: another domain's authority, so TLS ends it
    other = await Newcomer.make("td-b")
    other.intermediate = await cluster.hub.intermediate("td-b", other.authority, other.csr)
    with pytest.raises(TrustfedError):
        await Node(cluster, await other.svid("/trustfed/node/n1"), node.address).issue("web")
    # A node that was never attested, signed by nobody we know
    with pytest.raises(TrustfedError):
        await Node(cluster, KeyPair((bytes(chain[0]),), ec.generate_private_key(ec.SECP256R1())), node.address).issue()


async def test_oversize_messages_and_strange_hellos(cluster: Cluster) -> None:
    node = await cluster.node()
    big = pb.IssueX509Request(command_id="x" * (5 << 20))
    with pytest.raises(TrustfedError):
        await node.call("IssueX509", big, pb.IssueX509Response)
    with pytest.raises(Invalid, match="501 slots"):
        await node.issue(*["web"] * 501)
    with pytest.raises(Invalid, match="protocol"):
        async with node.stream(protocol_min=2, protocol_max=3) as stream:
            await stream.next()
    with pytest.raises(Invalid, match="levels"):
        async with node.stream(levels=[pb.Level(trust_domain="x")] * 10_001) as stream:
            await stream.next()


async def test_one_node_cannot_take_the_whole_house(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.entry("web")
    request = pb.IssueX509Request(slots=[slot("web") for _ in range(200)])
    async with node.channel() as channel:
        from trustfed.runtime.grpc_client import unary

        path = "/trustfed.node.v1.Node/IssueX509"
        calls = [unary(channel, path, request, pb.IssueX509Response, 20) for _ in range(12)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert refused and len(refused) < 12
    assert "under way" in refused[0].message


# Agents' streams


async def snapshot(node: Node) -> tuple[Stream, str]:
    async with node.stream() as stream:
        hello = await stream.until("hello")
        assert hello.snapshot
        await stream.until("bans")
        await stream.until("snapshot_end")
        return stream, hello.cluster_instance


async def test_an_agent_resumes_by_position(cluster: Cluster) -> None:
    await cluster.entry("a")
    await cluster.entry("b")
    node = await cluster.node()
    seen, instance = await snapshot(node)
    assert {i.id for m in seen.seen if m.HasField("entries") for i in m.entries.upsert} == {"a", "b"}
    await cluster.ok("DELETE", "/entries/a")
    await cluster.entry("c")
    async with node.stream(position=seen.position, cluster_instance=instance) as stream:
        assert not (await stream.until("hello")).snapshot
        await stream.until("bans")
        assert list((await stream.until("entries")).remove) == ["a"]
        assert [item.id for item in (await stream.until("entries")).upsert] == ["c"]
        await cluster.entry("d")
        assert [item.id for item in (await stream.until("entries")).upsert] == ["d"]
        position = stream.position
    for strange in ({"position": 0}, {"position": 10**9}, {"position": position, "cluster_instance": "x"}):
        async with node.stream(**{"cluster_instance": instance, **strange}) as stream:
            assert (await stream.until("hello")).snapshot


async def test_a_ban_ends_the_stream_with_its_message(cluster: Cluster) -> None:
    node = await cluster.node()
    with pytest.raises(Denied, match="banned: stolen disk"):
        async with node.stream() as stream:
            await stream.until("snapshot_end")
            await cluster.ok("POST", "/nodes/n1/ban", {"reason": "stolen disk"})
            bans = await stream.until("bans")
            assert bans.banned
            await stream.end()
    with pytest.raises(Denied, match="banned"):
        await node.issue("web")
    with pytest.raises(Denied, match="banned"):
        async with node.stream() as stream:
            await stream.until("hello")
            bans = await stream.until("bans")
            assert (bans.banned, bans.reason) == (True, "stolen disk")
            await stream.end()
    with pytest.raises(Denied, match="banned"):
        await node.call("RenewNode", pb.RenewNodeRequest(public_key=slot("x").public_key), pb.RenewNodeResponse)


async def test_an_agent_that_holds_later_bundles_than_there_are_is_an_alarm(cluster: Cluster) -> None:
    node = await cluster.node()
    async with node.stream(levels=[pb.Level(trust_domain=TD, epoch=3, sequence=9)]) as stream:
        await stream.until("snapshot_end")
        status = await cluster.status()
        assert status["reported_ahead"] == {"by": "an agent", "epoch": 3, "sequence": 9}
        assert (await cluster.admin("POST", "/epoch", {})).status_code == 400
        begun = await cluster.ok("POST", "/epoch", {"reason": "restored from the backup"})
        assert (begun["epoch"], begun["sequence"]) == (4, 10)
        await stream.until("bundle")
        assert (await cluster.status())["reported_ahead"] is None


# Without the hub


async def test_issuance_goes_on_without_the_hub_and_across_a_restart(hub: FakeHub, tmp_path: Path) -> None:
    async with running(tmp_path, hub) as cluster:
        await cluster.entry("web")
        node = await cluster.node()
        await hub.stop()
        assert not (await node.issue("web")).results[0].error
    async with running(tmp_path, hub) as cluster:
        assert (await cluster.status())["hub"]["connected"] is False
        node.address = (await cluster.status())["addresses"]["grpc"]
        assert not (await node.issue("web")).results[0].error
        assert not (await (await cluster.node("n2")).issue("web")).results[0].error
        await cluster.entry("more")
        port = hub.address
        await hub.start(port)
        await cluster.until(lambda status: status["hub"]["connected"])


# A hub that lies


class Lies:
    """One cluster with an accepted grant for td-b, and a hub that holds everything but td-b's publication key."""

    def __init__(self, cluster: Cluster, hub: FakeHub, peer: Newcomer) -> None:
        self.cluster, self.hub, self.peer = cluster, hub, peer

    def grant(self, **fields: Any) -> fed.FromHub:
        given = {
            "id": "g1",
            "importer": TD,
            "exporter": "td-b",
            "state": "offered",
            "from_ms": to_ms(now() - DAY),
            "until_ms": to_ms(now() + DAY),
            "exporter_publication_key": self.peer.key.spki,
            **fields,
        }
        return fed.FromHub(position=11, grant=fed.Grant(**given))

    def envelope(self, data: bytes, name: str = "td-b") -> fed.FromHub:
        return fed.FromHub(position=12, envelope=fed.PeerEnvelope(trust_domain=name, envelope=data))

    async def grants(self) -> dict[str, Any]:
        return {grant["id"]: grant for grant in (await self.cluster.ok("GET", "/grants"))["grants"]}

    async def bundles(self) -> dict[str, int]:
        found = (await self.cluster.ok("GET", "/bundles"))["bundles"]
        return {b["trust_domain"]: b["level"]["sequence"] for b in found if not b["home"]}

    async def refused(self, about: str) -> str:
        status = await self.cluster.until(lambda status: about in status["hub"]["refused"])
        return str(status["hub"]["refused"][about])


@pytest_asyncio.fixture
async def lies(cluster: Cluster, hub: FakeHub) -> Lies:
    made = Lies(cluster, hub, await Newcomer.make("td-b"))
    hub.say(made.grant(), fed.FromHub(position=11, snapshot_end=fed.SnapshotEnd()))
    await hub.until(lambda: hub.hellos)
    async with asyncio.timeout(10):
        while "g1" not in await made.grants():
            await asyncio.sleep(0.02)
    await cluster.ok("POST", "/grants/g1/accept", {"fingerprint": made.peer.key.fingerprint, "reason": "yes"})
    await hub.until(lambda: hub.decisions)
    assert hub.decisions[0].decision == "accept"
    await made.peer.envelope()
    hub.say(made.envelope(await made.peer.envelope()))
    async with asyncio.timeout(10):
        while await made.bundles() != {"td-b": 2}:
            await asyncio.sleep(0.02)
    return made


async def test_a_lying_hub_plants_no_envelope(lies: Lies) -> None:
    peer, hub = lies.peer, lies.hub
    thief, other = await Newcomer.make("td-b"), await Newcomer.make("td-c")
    older = Newcomer("td-b")
    older.keys, older.key, older.twins = peer.keys, peer.key, peer.twins
    cases = {
        "older": await older.envelope(),
        "forked": await peer.envelope(step=0, hint=61),
        "another key": await thief.envelope(step=9),
        "another domain": await other.envelope(step=9),
        "garbage": b"\xff" * 100,
        "huge": b"x" * (2 << 20),
    }
    for name, data in cases.items():
        hub.say(lies.envelope(data))
        assert await lies.refused("envelope of td-b"), name
        assert await lies.bundles() == {"td-b": 2}, name
        hub.say(lies.envelope(await _same(peer)))  # a good one takes the alarm away
        await lies.cluster.until(lambda status: not status["hub"]["refused"])
    hub.say(lies.envelope(await other.envelope(), "td-c"))
    assert "no accepted grant" in await lies.refused("envelope of td-c")
    metrics = (await lies.cluster.admin("GET", "/metrics")).text
    assert "trustfed_cluster_hub_messages_refused_total 7" in metrics


async def _same(peer: Newcomer) -> bytes:
    return await peer.envelope(step=0)


async def test_a_lying_hub_plants_no_grant(lies: Lies) -> None:
    hub = lies.hub
    stranger = await Newcomer.make("td-x")
    hub.say(
        lies.grant(id="g1", importer="td-b", exporter=TD),
        lies.grant(id="foreign", importer="td-x", exporter="td-y"),
        lies.grant(id="nokey", exporter_publication_key=b"garbage"),
        lies.grant(id="times", from_ms=-1),
        lies.grant(id="a/b"),
        lies.grant(id="g2", exporter="td-x", state="accepted", exporter_publication_key=stranger.key.spki),
    )
    for about in ("grant g1", "grant foreign", "grant nokey", "grant times", "grant a/b"):
        assert await lies.refused(about)
    async with asyncio.timeout(10):
        while "g2" not in await lies.grants():
            await asyncio.sleep(0.02)
    known = await lies.grants()
    assert set(known) == {"g1", "g2"}
    assert (known["g1"]["state"], known["g2"]["state"]) == ("accepted", "offered")
    hub.say(lies.envelope(await stranger.envelope(), "td-x"))
    assert await lies.refused("envelope of td-x")


async def test_a_lying_hub_plants_no_roots(lies: Lies) -> None:
    hub, cluster = lies.hub, lies.cluster
    for bad in (
        await hub.next_roots(by="old"),
        await hub.next_roots(by="new"),
        await hub.next_roots(skip=1),
        b"garbage",
    ):
        hub.say(fed.FromHub(root_set=fed.RootSet(documents=[bad])))
        assert await lies.refused("root_set")
        assert (await cluster.status())["root_version"] == 1
    hub.say(fed.FromHub(root_set=fed.RootSet(documents=[await hub.next_roots()])))
    status = await cluster.until(lambda status: status["root_version"] == 2)
    assert "root_set" not in status["hub"]["refused"]


async def test_a_lying_hub_makes_no_levels(lies: Lies) -> None:
    hub, cluster = lies.hub, lies.cluster
    hub.say(lies.grant(id="out", importer="td-b", exporter=TD, state="accepted"))

    def level(importer: str, sequence: int, live_until: int = to_ms(now() + DAY)) -> fed.FromHub:
        said = fed.Level(trust_domain=TD, epoch=1, sequence=sequence)
        return fed.FromHub(consumer=fed.ConsumerLevel(importer=importer, level=said, live_until_ms=live_until))

    hub.say(level("td-b", 99), level("td-z", 1))
    assert "highest there is" in await lies.refused("level of td-b")
    assert "imports nothing" in await lies.refused("level of td-z")
    assert (await cluster.status())["reported_ahead"]["sequence"] == 99
    hub.say(level("td-b", 1, 2**62))
    assert "not a time" in await lies.refused("level of td-b")
    hub.say(fed.FromHub(stored=fed.EnvelopeStored(level=fed.Level(trust_domain=TD, epoch=7, sequence=1))))
    assert await lies.refused("stored")
    hub.say(level("td-b", 1))
    status = await cluster.until(lambda status: "td-b" in status["hub"]["importers"])
    assert status["hub"]["importers"]["td-b"]["level"] == {"epoch": 1, "sequence": 1}


async def test_bad_intermediates_and_endless_positions_end_nothing(lies: Lies) -> None:
    hub, cluster = lies.hub, lies.cluster
    hub.spoil = lambda der: b"\x30\x03\x02\x01\x01"
    await cluster.ok(
        "POST", "/authorities/prepare", {"kind": "x509", "reason": "test of one person", "break_glass": True}
    )
    hub.say(fed.FromHub(position=2**64 - 1, heartbeat=fed.Heartbeat(time_ms=1)))
    hub.say(lies.grant(id="far", state="offered"))
    hub.say(lies.envelope(await lies.peer.envelope()))
    async with asyncio.timeout(10):
        while (await lies.bundles())["td-b"] != 3:
            await asyncio.sleep(0.02)
    prepared = [a for a in (await cluster.ok("GET", "/authorities"))["authorities"] if a["status"] == "prepared"]
    assert [a["certified"] for a in prepared] == [False]
    assert "root" in prepared[0]["waiting_for"][0]
    await cluster.entry("web")
    assert not (await (await cluster.node()).issue("web")).results[0].error


async def test_streams_closed_at_bad_moments_and_bytes_that_are_no_message(lies: Lies) -> None:
    hub, cluster = lies.hub, lies.cluster
    hub.snapshot = False
    for bad in (b"\xff\xff\xff\xff", lies.grant(id="x" * 200), None, fed.FromHub(hello=fed.HubHello(protocol=9))):
        before = hub.hellos
        if bad is not None:
            hub.say(bad)
        hub.cut()
        await hub.until(lambda before=before: hub.hellos > before, 20)
    hub.instance = ""
    hub.cut()
    await cluster.until(lambda status: status["hub"]["error"] and "instance" in status["hub"]["error"])
    hub.instance = "hub-1"
    await cluster.until(lambda status: status["hub"]["connected"], 20)
    assert await lies.bundles() == {"td-b": 2}


async def test_a_repin_asks_for_everything_again(lies: Lies) -> None:
    hub, cluster = lies.hub, lies.cluster
    fresh = await Newcomer.make("td-b")
    hub.say(lies.envelope(await fresh.envelope()))
    assert await lies.refused("envelope of td-b")
    hellos = hub.hellos
    import base64

    body = {
        "publication_key": base64.b64encode(fresh.key.spki).decode(),
        "fingerprint": fresh.key.fingerprint,
        "reason": "they lost it",
    }
    await cluster.ok("POST", "/grants/g1/repin", body)
    await hub.until(lambda: hub.hellos > hellos)
    assert [m.hello.position for m in hub.heard if m.HasField("hello")][-1] == 0
    hub.say(lies.grant(state="accepted"), lies.envelope(await fresh.envelope()))
    async with asyncio.timeout(10):
        while await lies.bundles() != {"td-b": 2}:
            await asyncio.sleep(0.02)


async def test_one_decision_that_the_hub_refuses_does_not_hold_back_others(lies: Lies) -> None:
    hub, cluster = lies.hub, lies.cluster
    hub.refuse_decisions = True
    await cluster.ok("POST", "/grants/g1/end", {"reason": "enough"})
    assert await lies.bundles() == {}
    await asyncio.sleep(0.1)
    assert len(hub.decisions) == 1
    hub.refuse_decisions = False
    hub.cut()
    await hub.until(lambda: len(hub.decisions) == 2, 20)
    assert hub.decisions[-1].decision == "end"


# The process


async def test_kill_during_load_loses_nothing_that_was_acknowledged(hub: FakeHub, tmp_path: Path) -> None:
    process = Process(tmp_path, hub)
    await enrolled(load(process.config, ClusterConfig), hub)
    process.start()
    await process.ready()
    cluster = process.cluster
    await cluster.entry("web")
    node = await cluster.node()
    created: list[str] = []
    serials: list[str] = []

    async def create() -> None:
        for number in range(10_000):
            try:
                created.append(await cluster.entry(f"e{number}"))
            except Exception:
                return

    async def issue() -> None:
        while True:
            try:
                answer = await node.issue(*["web"] * 7)
            except TrustfedError:
                return
            serials.extend(serial(result.chain[0]) for result in answer.results)

    load_ = [asyncio.create_task(work()) for work in (create, issue, issue)]
    async with asyncio.timeout(30):
        while len(created) <= 5 or len(serials) <= 20:
            await asyncio.sleep(0.02)
    process.kill()
    await asyncio.gather(*load_)
    process.start()
    await process.ready()
    assert set(created) <= {entry["id"] for entry in (await cluster.ok("GET", "/entries"))["entries"]}
    recorded: set[str] = set()
    after = 0
    while facts := (await cluster.ok("GET", f"/issued?after={after}&limit=1000"))["issued"]:
        recorded.update(fact["key"] for fact in facts)
        after = facts[-1]["position"]
    assert set(serials) <= recorded
    assert len(serials) == len(set(serials))
    # A second process on the same data directory
    second = process.run("serve")
    assert second.returncode == 5, second.stderr
    assert process.kill(signal.SIGTERM) == 0


async def test_what_is_wrong_with_configuration_and_token(hub: FakeHub, tmp_path: Path) -> None:
    process = Process(tmp_path, hub)
    config = load(process.config, ClusterConfig)
    with pytest.raises(Unavailable, match="is not enrolled"):
        await compose.serve(config, asyncio.Event())
    for text, said in (
        ("", "not an enrolment token"),
        ("trustfed-node-1-AAAA", "a token for a cluster"),
        ("trustfed-cluster-1-AA", "cut short"),
    ):
        with pytest.raises(Invalid, match=said):
            await compose.init(config, text)
    for extra, said in (
        ("authority_tll = '1h'", "did you mean authority_ttl"),
        ("authority_ttl = '24h'", "too short"),
        ("svid_ttl_max = '40d'", "too long"),
        ("max_nodes = 0", "at least 1"),
        ("[bundle_web]\nlisten = ':443'\ncertificate = 'x'\nkey_file = 'y'", "certificate_file"),
        ("[log]\nlevel = 'loud'", "one of 'debug'"),
    ):
        with pytest.raises(Invalid, match=said):
            load(Process(tmp_path, hub, extra).config, ClusterConfig)
    refused = process.run("serve")
    assert refused.returncode == 2 and "one of 'debug'" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_a_data_directory_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    process = Process(tmp_path, hub)
    process.config.write_text(process.config.read_text().replace('"data"', '"/proc/trustfed"'))
    refused = process.run("serve")
    assert refused.returncode in (2, 3, 4, 6), refused.stderr
    assert "/proc/trustfed" in refused.stderr and "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


async def test_an_interrupted_init_continues_with_the_same_keys(hub: FakeHub, tmp_path: Path) -> None:
    real = HubProcess(tmp_path)
    assert real.run("init").returncode == 0
    real.start()
    try:
        folder = tmp_path / "cluster"
        folder.mkdir(mode=0o700)
        process = Process(folder, hub)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(real.invite(TD))
        # What is there when the machine goes down right before the hub is asked.
        parts = await open_parts(load(process.config, ClusterConfig))
        await enrolment.make_keys(parts.fold, parts.keys, parts.authorities, TrustDomain(TD), parts.clock)
        before = parts.fold.state
        await close_parts(parts)
        for new in (True, False):
            made = await asyncio.to_thread(process.run, "init", f"@{token}")
            assert made.returncode == 0, made.stderr
            assert f'"new": {str(new).lower()}' in made.stdout
        parts = await open_parts(load(process.config, ClusterConfig))
        after = parts.fold.state
        # A cluster that has no certificate left asks by its publication key.
        (authority,) = [a for a in after.authorities.values() if a.kind is Kind.X509]
        csr = await make_authority_csr(TrustDomain(TD), authority.id, authority.key_name, parts.keys)
        again = x509.load_der_x509_certificate(await resign(after, parts.keys, authority.id, csr, now()))
        assert again.public_key() == x509.load_der_x509_certificate(authority.twin).public_key()
        await close_parts(parts)
        assert after.domain == before.domain
        assert set(after.authorities) == set(before.authorities)
        other = folder / "other"
        other.touch(mode=0o600)
        other.write_text(real.invite("td-other"))
        process.config.write_text(process.config.read_text())
        assert (await asyncio.to_thread(process.run, "init", f"@{other}")).returncode == 0  # enrolled: ignored
        process.start()
        await process.ready()
        await process.cluster.until(lambda status: status["hub"]["connected"])
        assert process.kill(signal.SIGTERM) == 0
    finally:
        real.stop()


async def test_admin_bodies_that_do_not_fit(cluster: Cluster) -> None:
    bad: list[tuple[str, str, Any]] = [
        ("POST", "/entries", {"spiffe_id": 1}),
        ("POST", "/entries", {"surprise": 1}),
        ("POST", "/entries", []),
        ("POST", "/nodes/tokens", {"name": "n1", "ttl": "99999999999d"}),
        ("POST", "/nodes/tokens", {"name": "n1", "ttl": "0s"}),
        ("POST", "/nodes/tokens", {"name": "n1", "ttl": 600}),
        ("POST", "/nodes/tokens", {"name": "../n"}),
        ("POST", "/authorities/prepare", {"kind": "dsa"}),
        ("POST", "/epoch", {"reason": "x", "epoch": 10**20}),
        ("POST", "/epoch", {"reason": "x", "epoch": -3}),
        ("GET", "/events?after=x", None),
        ("GET", "/bundles/td-a?format=xml", None),
    ]
    for method, path, body in bad:
        answer = await cluster.admin(method, path, body)
        assert answer.status_code == 400, (path, body, answer.text)
        assert answer.json()["detail"]
    for method, path in (
        ("GET", "/entries/x"),
        ("DELETE", "/entries/x"),
        ("POST", "/authorities/x/taint"),
        ("POST", "/authorities/x/revoke"),
        ("POST", "/nodes/x/ban"),
        ("GET", "/bundles/td-z"),
        ("GET", "/nothing"),
    ):
        answer = await cluster.admin(method, path, {"reason": "x"} if method == "POST" else None)
        assert answer.status_code == 404, (path, answer.text)


async def test_a_command_that_is_sent_twice_is_applied_once(cluster: Cluster) -> None:
    body = {"spiffe_id": f"spiffe://{TD}/twice", "parent": "node/n1", "selectors": ["unix:uid:1"]}
    first, again = [await cluster.admin("POST", "/entries", body, headers={"Command-Id": "c-1"}) for _ in range(2)]
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    token = {"name": "n9"}
    assert (await cluster.admin("POST", "/nodes/tokens", token, headers={"Command-Id": "c-2"})).status_code == 200
    repeated = await cluster.admin("POST", "/nodes/tokens", token, headers={"Command-Id": "c-2"})
    assert repeated.status_code == 409


async def test_the_health_address_tells_supervisors_and_prometheus(hub: FakeHub, tmp_path: Path) -> None:
    async with running(tmp_path, hub, health="127.0.0.1:0") as cluster:
        address = (await cluster.status())["addresses"]["health"]
        async with httpx.AsyncClient(base_url=f"http://{address}") as anybody:
            assert (await anybody.get("/live")).json() == {"live": True}
            assert (await anybody.get("/ready")).json() == {"ready": True, "missing": []}
            metrics = (await anybody.get("/metrics")).text
            assert (await anybody.get("/entries")).status_code == 404
        active = [a for a in (await cluster.ok("GET", "/authorities"))["authorities"] if a["status"] == "active"]
        for authority in active:
            end = int(datetime.fromisoformat(authority["not_after"]).timestamp())
            assert f"trustfed_cluster_{authority['kind']}_authority_not_after_seconds {end}" in metrics
        assert len(active) == 2
        assert "trustfed_cluster_authorities_waiting 0" in metrics


async def test_who_comes_goes_and_is_refused_leaves_a_line(
    capfd: pytest.CaptureFixture[str], hub: FakeHub, tmp_path: Path
) -> None:
    async with running(tmp_path, hub) as cluster:
        node = await cluster.node()
        await snapshot(node)
        await cluster.ok("POST", "/nodes/n1/ban", {"reason": "stolen disk"})
        with pytest.raises(Denied, match="stolen disk"):
            await node.issue("web")
        async with httpx.AsyncClient(verify=False) as anybody:
            door = (await cluster.status())["addresses"]["bundle_spiffe"]
            used = NodeKey().attestation(node.token)
            assert (await anybody.post(f"https://{door}/v1/node/attest", content=used)).status_code == 403
    said = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    told = {line["message"]: line for line in said}
    for message in ("node attested", "node connected", "node disconnected"):
        assert told[message]["node"] == "n1"
    for message in ("call refused", "node refused"):
        assert told[message]["level"] == "warning" and told[message]["error"]
        assert told[message]["peer"]
    assert node.token not in "".join(map(str, said))
