"""Every CA command of a cluster at its admin socket: by one uid, the same twice, another, too late, on another state, alone."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from ca.authority import new_authority_id
from ca.external import make_external
from ca.lifecycle import Kind, Status
from tests.fakes.foreign_peer import WebCa
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from tests.unit.istio_ca.test_external_authority import DAY, LEAF, Mesh
from trustfed.cluster import authority_commands
from trustfed.cluster.admin import admin_app
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.approvals import AuthorityTaint
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.istio_ca.admin import istio_paths
from trustfed.errors import Denied
from trustfed.federation.envelope import Envelope
from trustfed.spiffe.ids import TrustDomain

REASON = "the rule of two people"
ALARM = "glass broken: one person did what takes two"
Order = tuple[str, dict[str, Any]]


class Socket:
    """The admin socket of a cluster with one reader, at which uids ask."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.cluster = mesh, mesh.parts
        house = mesh.parts
        none: dict[str, Any] = dict.fromkeys(field.name for field in fields(AdminParts))
        self.parts = AdminParts(
            **none
            | {
                "fold": house.fold,
                "journal": house.journal,
                "clock": house.clock,
                "registry": house.registry,
                "policy": house.policy,
                "consumers": lambda now: mesh.readers,
                "lifecycle": house.authorities.lifecycle_policy(),
                "last_leaf": house.issuance.last_leaf,
                "approval_life": timedelta(hours=1),
            }
        )
        app = admin_app(self.parts)
        istio_paths(app, self.parts, house.keys, self.envelope, dict)
        self._clients = {
            uid: httpx.AsyncClient(
                transport=httpx.ASGITransport(app, client=(f"uid:{uid}", 1)), base_url="http://cluster"
            )
            for uid in (1, 2, 3)
        }

    def envelope(self) -> Envelope:
        domain = self.cluster.state.domain
        assert domain is not None
        return held_envelope(self.cluster.state.envelope, TD, domain.publication_key)

    async def post(self, uid: int, order: Order, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        return await self._clients[uid].post(order[0], json={**order[1], **more}, headers=headers)

    async def get(self, path: str) -> Any:
        return (await self._clients[1].get(path)).json()

    async def approve(self, uid: int, id_: str) -> httpx.Response:
        return await self.post(uid, (f"/approvals/{id_}/approve", {}))


@pytest_asyncio.fixture
async def socket() -> AsyncIterator[Socket]:
    parts = await ClusterParts.make()
    mesh = Mesh(parts)
    await mesh.settle()
    yield Socket(mesh)
    await parts.close()


async def prepare(socket: Socket) -> Order:
    return "/authorities/prepare", {"kind": "jwt", "reason": REASON}


async def activate(socket: Socket) -> Order:
    house = socket.cluster
    await house.decide(lambda s: authority_commands.replace_authority(s, "jwt"))
    socket.mesh.reader_has_all = False
    await socket.mesh.settle()
    return f"/authorities/{house.one(Kind.JWT, Status.PREPARED).id}/activate", {"reason": REASON}


async def taint(socket: Socket) -> Order:
    return f"/authorities/{socket.cluster.one(Kind.X509, Status.ACTIVE).id}/taint", {"reason": REASON}


async def revoke(socket: Socket) -> Order:
    return f"/authorities/{socket.cluster.one(Kind.X509, Status.ACTIVE).id}/revoke", {"reason": REASON}


async def begin(socket: Socket) -> Order:
    id_, now = new_authority_id(os.urandom), socket.cluster.now
    ends = (now + 90 * DAY).replace(microsecond=0)
    _, twin = make_external(TrustDomain(TD), id_, not_after=ends, now=now, randomness=os.urandom)
    body = {"id": id_, "twin": base64.b64encode(twin).decode(), "leaf_seconds": LEAF, "reason": REASON}
    return "/cacerts", body


async def confirm(socket: Socket) -> Order:
    await socket.mesh.export(await socket.mesh.begin())
    following = await socket.mesh.begin()
    await socket.mesh.anchor(following)
    return f"/cacerts/{following}/anchored", {"confirmed": True, "reason": REASON}


async def abandon(socket: Socket) -> Order:
    return f"/cacerts/{await socket.mesh.begin()}/abandon", {"reason": REASON}


COMMANDS: dict[str, tuple[Callable[[Socket], Awaitable[Order]], str]] = {
    "authority.prepare": (prepare, "authority.replaced"),
    "authority.activate": (activate, "authority.activated"),
    "authority.taint": (taint, "authority.tainted"),
    "authority.revoke": (revoke, "authority.tainted"),
    "cacerts.begin": (begin, "external.prepared"),
    "cacerts.confirm": (confirm, "external.anchored"),
    "cacerts.abandon": (abandon, "external.abandoned"),
}
EVERY = pytest.mark.parametrize("command", COMMANDS)


async def kinds(socket: Socket, after: int) -> list[str]:
    return [record.event.kind for record in await socket.cluster.journal.read(after, 1000)]


@EVERY
async def test_a_command_takes_two_uids(socket: Socket, command: str) -> None:
    make, effect = COMMANDS[command]
    order = await make(socket)
    start = socket.cluster.fold.position
    asked = await socket.post(1, order, {"Command-Id": "c1"})
    assert asked.status_code == 202, asked.text
    told = asked.json()
    assert (told["command"], told["needs"]) == (command, "another person")
    assert (await socket.post(1, order, {"Command-Id": "c1"})).json() == told
    refused = await socket.approve(1, told["proposal"])
    assert refused.status_code == 403
    assert "both are uid:1" in refused.json()["detail"]
    assert await kinds(socket, start) == ["proposal.made", "proposal.refused"]
    done = await socket.approve(2, told["proposal"])
    assert done.status_code == 200, done.text
    records = await socket.cluster.journal.read(start + 2, 1000)
    assert [record.event.kind for record in records] == ["proposal.approved", effect]
    assert {record.event.actor for record in records} == {"uid:2"}
    assert len({record.event.command_id for record in records}) == 1
    assert (await socket.approve(2, told["proposal"])).status_code == 200
    assert (await socket.approve(3, told["proposal"])).status_code == 409
    assert (await kinds(socket, start)).count(effect) == 1


@EVERY
async def test_too_late_or_on_another_state_nothing_is_done(socket: Socket, command: str) -> None:
    order = await COMMANDS[command][0](socket)
    id_ = (await socket.post(1, order)).json()["proposal"]
    socket.cluster.clock.move(3601)
    late = await socket.approve(2, id_)
    assert late.status_code == 409
    assert "has expired" in late.json()["detail"]
    if command == "cacerts.begin":  # its twin says when it was made: an old one is not taken
        order = await begin(socket)
    id_ = (await socket.post(1, order)).json()["proposal"]
    assert (await socket.post(3, order, break_glass=True)).status_code == 200
    before = socket.cluster.fold.position
    changed = await socket.approve(2, id_)
    assert changed.status_code == 409, changed.text
    assert await kinds(socket, before) == ["proposal.refused"]


@EVERY
async def test_breaking_the_glass_is_one_event_and_an_alarm(
    socket: Socket, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, effect = COMMANDS[command]
    order = await make(socket)
    before = socket.cluster.fold.position
    refused = await socket.post(1, order, break_glass=True, reason="short")
    assert refused.status_code == 400
    assert "at least 10 characters" in refused.json()["detail"]
    for _ in range(2):  # the second one is the first one, sent again
        done = await socket.post(1, order, {"Command-Id": "alone"}, break_glass=True)
        assert done.status_code == 200, done.text
    assert await kinds(socket, before) == ["glass.broken", effect]
    assert b"trustfed_cluster_glass_broken_total 1\n" in socket.cluster.registry.exposition()
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [ALARM]
    (listed,) = (await socket.get("/approvals?broken=true"))["approvals"]
    assert (listed["command"], listed["proposed_by"], listed["reason"]) == (command, "uid:1", REASON)
    assert (await socket.get("/approvals"))["approvals"] == []


async def test_an_approval_while_its_target_turned_is_a_conflict(socket: Socket) -> None:
    """A successor of one authority was proposed; another one is active when it is approved."""
    id_ = (await socket.post(1, await prepare(socket))).json()["proposal"]
    await socket.cluster.decide(lambda s: authority_commands.replace_authority(s, "jwt"))
    await socket.mesh.settle()  # the successor is active, and has none itself
    refused = await socket.approve(2, id_)
    assert refused.status_code == 409
    assert "not the active one any more" in refused.json()["detail"]


async def test_to_believe_a_legacy_domain_takes_two_uids_and_to_end_it_one(socket: Socket) -> None:
    """Its identities are equal to ours by the mesh's alias: who picks its anchor could mint any of them."""
    until = (socket.cluster.now + timedelta(days=30)).isoformat()
    anchor = WebCa().der
    body = {"anchors": [base64.b64encode(anchor).decode()], "until": until, "reason": REASON}

    async def put(uid: int, name: str, **more: Any) -> httpx.Response:
        return await socket._clients[uid].put(f"/legacy/{name}", json={**body, **more})

    hopeless = await put(1, TD)  # nothing is proposed that could not be done
    assert hopeless.status_code == 403 and not (await socket.get("/approvals"))["approvals"]
    before = socket.cluster.fold.position
    asked = await put(1, "cluster.local")
    assert asked.status_code == 202, asked.text
    assert asked.json()["what"].startswith("believe an anchor of the legacy domain cluster.local until ")
    assert asked.json()["what"].endswith(
        f", sha256:{hashlib.sha256(anchor).hexdigest()}"
    )  # what the second one compares
    assert (await socket.approve(1, asked.json()["proposal"])).status_code == 403
    assert not socket.cluster.state.istio.legacy
    assert (await socket.approve(2, asked.json()["proposal"])).status_code == 200
    assert (await kinds(socket, before))[2:] == [
        "proposal.approved",
        "grant.offered",
        "grant.accepted",
        "grant.limited",
        "peer.bundle",
        "legacy.added",
    ]
    assert "- cluster.local" in (await socket.get("/legacy"))["mesh_config"]
    assert (await socket.post(1, ("/legacy/cluster.local/end", {"reason": "all moved"}))).status_code == 200
    alone = await put(1, "cluster.local", break_glass=True)
    assert alone.status_code == 200 and "- cluster.local" in alone.json()["mesh_config"]
    assert (await socket.get("/approvals?broken=true"))["approvals"][0]["command"] == "legacy.add"


async def test_the_steps_that_only_follow_take_nobody(socket: Socket) -> None:
    """Beginning a rollover takes two people; what follows when its time has come is no decision."""
    first = await socket.mesh.begin()
    assert (await socket.post(1, (f"/cacerts/{first}/exported", {}))).status_code == 200
    assert (await socket.post(1, (f"/cacerts/{first}/swapped", {}))).status_code == 200
    following = await socket.mesh.begin()
    assert (await socket.post(1, (f"/cacerts/{following}/anchored", {}))).status_code == 200
    early = await socket.post(1, (f"/cacerts/{following}/exported", {}))
    assert early.status_code == 409


async def test_an_order_of_two_people_at_the_hub_counts_as_two_here(socket: Socket) -> None:
    approving, active = socket.parts.approvals, socket.cluster.one(Kind.X509, Status.ACTIVE).id
    body, start = AuthorityTaint(active, False), socket.cluster.fold.position

    async def order(id_: str, *who: str, break_glass: bool = False) -> None:
        await approving.ordered(
            id_, body, REASON, hub="hub.example", proposed_by=who[0], approved_by=who[1], break_glass=break_glass
        )

    for one in (("uid:1", ""), ("uid:1", "uid:1")):
        with pytest.raises(Denied):
            await order("o1", *one)
    assert socket.cluster.fold.position == start
    for _ in range(2):
        await order("o2", "uid:1", "uid:2")
    assert await kinds(socket, start) == ["proposal.made", "proposal.approved", "authority.tainted"]
    records = await socket.cluster.journal.read(start, 10)
    assert {record.event.actor for record in records} == {"hub:hub.example"}
    assert records[1].event.body["by"] == "hub.example/uid:2"


async def test_a_command_id_that_stands_for_something_else_is_never_taken_for_it(socket: Socket) -> None:
    order, used = await taint(socket), {"Command-Id": "used"}
    peers = ("/peers/list", {"members": ["td-x"]})
    assert (await socket._clients[1].put(peers[0], json=peers[1], headers=used)).status_code == 200
    before = socket.cluster.fold.position
    for more in ({}, {"break_glass": True}):
        refused = await socket.post(1, order, used, **more)
        assert refused.status_code == 409, refused.text
    assert socket.cluster.fold.position == before
    assert (await socket.post(1, order, {"Command-Id": "x" * 101})).status_code == 400


async def test_a_broken_glass_is_told_to_who_alarms_also_after_a_restart(socket: Socket) -> None:
    first: list[str] = []
    socket.parts.approvals.on_broken(lambda one: first.append(one.command))
    await socket.post(1, await taint(socket), break_glass=True)
    later: list[str] = []
    socket.parts.approvals.on_broken(lambda one: later.append(one.command))
    assert first == later == ["authority.taint"]
    socket.cluster.clock.move(24 * 3600)
    socket.parts.approvals.on_broken(lambda one: later.append(one.command))
    assert later == ["authority.taint"]
