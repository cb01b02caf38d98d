"""Orders of the hub: only those that this cluster takes, once, on record, and with two people where it takes two."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from ca.lifecycle import Kind, Level, Status
from tests.unit.cluster.cluster_parts import HOUR, ClusterParts
from trustfed.cluster import approvals
from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.evidence.config import EVERYDAY, GRAVE, EvidenceConfig
from trustfed.cluster.evidence.orders import Orders, pause_command
from trustfed.cluster.sessions import Sessions, View
from trustfed.errors import Invalid
from trustfed.journal.approving import Approving
from trustfed.proto import evidence_pb2 as pb


class World:
    def __init__(self, parts: ClusterParts, kinds: tuple[str, ...]) -> None:
        self.parts, self.republished, self.refreshed = parts, 0, 0
        beside: Any = SimpleNamespace(
            clock=parts.clock,
            fold=parts.fold,
            last_leaf=parts.issuance.last_leaf,
            consumers=lambda now: [],
            lifecycle=parts.authorities.lifecycle_policy(),
        )
        self.approving = Approving(parts.fold, approvals.commands(beside), parts.clock)
        self.approving.add(pause_command())
        self.orders = Orders(
            parts.fold,
            kinds,
            lambda: self.approving,
            self.republish,
            self.refresh,
            300,
            parts.journal,
            parts.clock,
            parts.registry,
        )

    def republish(self) -> None:
        self.republished += 1

    async def refresh(self) -> int:
        self.refreshed += 1
        return 2

    async def order(self, kind: str, body: Any = None, **changed: Any) -> pb.OrderDone:
        given: dict[str, Any] = {
            "id": "o-1",
            "kind": kind,
            "body": body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode(),
            "proposed_by": "ann",
            "approved_by": "bob",
            "reason": "because",
        }
        return await self.orders.take(pb.Order(**{**given, **changed}))

    async def events(self) -> list[Any]:
        return [one.event for one in await self.parts.journal.read(0, 1000)]

    async def kinds(self) -> list[str]:
        return [event.kind for event in await self.events()]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    parts = await ClusterParts.make()
    yield World(parts, EVERYDAY + GRAVE)
    await parts.close()


def active(world: World) -> Any:
    return world.parts.one(Kind.X509, Status.ACTIVE)


async def test_an_order_is_on_record_with_who_and_why_and_is_done_once(world: World) -> None:
    for _ in range(2):
        assert (await world.order("rotate")).outcome == "done"
    taken, rotation = (await world.events())[-2:]
    assert (taken.kind, taken.actor, taken.reason) == ("order.taken", "hub:fake-hub.example", "because")
    assert (taken.body["proposed_by"], taken.body["approved_by"], taken.body["id"]) == ("ann", "bob", "o-1")
    assert rotation.kind == "rotation.ordered" and rotation.body["authorities"] == [active(world).id]
    assert (await world.kinds()).count("rotation.ordered") == 1
    again = await world.order("rotate", {"entries": []}, id="o-1")
    assert again.outcome == "conflict" and "another one before" in again.error


async def test_agents_are_told_now_and_when_they_come_back(world: World) -> None:
    parts = world.parts
    node, _ = await parts.node()
    entry = await parts.entry()
    sessions = Sessions(parts.state, parts.fold.position, 300)
    there, away = View("n1", node.groups), View("n1", node.groups)
    sessions.join(there, parts.state, snapshot=False)
    before = parts.fold.position
    await world.order("rotate", {"entries": [entry.id]})
    for record in await parts.journal.read(before, 100):
        from trustfed.cluster import events as e

        sessions.on_event(record.position, e.CODEC.decode(record.event), parts.state)
    sessions.join(away, parts.state, snapshot=True)
    for view in (there, away):
        told = [m.renew for m in sessions.take(view, parts.state, parts.now) if m.HasField("renew")]
        assert [(list(one.entries), one.spread_seconds, one.reason) for one in told] == [([entry.id], 300, "because")]


async def test_republish_and_refresh(world: World) -> None:
    assert (await world.order("republish")).outcome == "done"
    assert (await world.order("refresh", id="o-2")).outcome == "done"
    assert (world.republished, world.refreshed) == (1, 1)


async def test_a_node_is_quarantined(world: World) -> None:
    await world.parts.node()
    assert (await world.order("quarantine", {"node": "n1"}, approved_by="")).outcome == "done"
    assert "ordered by the hub" in world.parts.state.nodes["n1"].banned
    assert (await world.order("quarantine", {"node": "n9"}, id="o-2")).outcome == "not_found"
    assert (await world.kinds()).count("order.taken") == 1  # of what cannot be, nothing is recorded


@pytest.mark.parametrize("kind", ["prepare", "activate", "taint", "pause", "resume"])
async def test_what_moves_an_authority_takes_two_people_or_a_broken_glass(world: World, kind: str) -> None:
    body = {"authority": active(world).id} if kind in ("activate", "taint") else {"kind": "x509"}
    for people in ({"approved_by": ""}, {"approved_by": "ann"}, {"proposed_by": ""}):
        done = await world.order(kind, body, **people)
        assert done.outcome == "denied" and "two people" in done.error
    assert not {"order.taken", "proposal.made"} & set(await world.kinds())


async def test_a_taint_by_two_people_and_one_by_a_broken_glass(world: World) -> None:
    first = active(world)
    for _ in range(2):
        assert (await world.order("taint", {"authority": first.id})).outcome == "done"
    assert world.parts.state.authorities[first.id].tainted_at
    kinds = await world.kinds()
    made = kinds[kinds.index("proposal.made") :]
    assert made == ["proposal.made", "proposal.approved", "authority.tainted", "order.taken"]
    jwt = world.parts.one(Kind.JWT, Status.ACTIVE)
    body = {"authority": jwt.id, "remove_first": True}
    alone: dict[str, Any] = {"approved_by": "", "break_glass": True, "reason": "its key was stolen"}
    assert (await world.order("taint", body, id="o-2", **alone)).outcome == "done"
    assert (await world.kinds())[-3:] == ["glass.broken", "authority.tainted", "order.taken"]


async def test_a_roll_over_is_paused_until_its_last_safe_moment(world: World) -> None:
    parts, first = world.parts, active(world)
    assert (await world.order("pause", {"kind": "x509"})).outcome == "done"
    assert (await world.order("prepare", {"kind": "x509"}, id="o-2")).outcome == "done"
    await parts.round()
    successor = parts.one(Kind.X509, Status.PREPARED)
    await parts.authorities.certify_one(successor, parts)
    await parts.round(at=HOUR)
    assert active(world).id == first.id and parts.state.authorities[successor.id].first_level > Level(0, 0)  # type: ignore[operator]
    assert (await world.order("resume", {"kind": "x509"}, id="o-3")).outcome == "done"
    await parts.round()
    assert active(world).id == successor.id
    await world.order("pause", {"kind": "x509"}, id="o-4")
    await world.order("prepare", {"kind": "x509"}, id="o-5")
    await parts.round()
    await parts.authorities.certify_one(parts.one(Kind.X509, Status.PREPARED), parts)
    await parts.round(at=active(world).not_after - parts.now - 25 * HOUR)
    assert active(world).id == successor.id
    await parts.round(at=HOUR)  # longest SVID and margin before its end
    assert active(world).id != successor.id


@pytest.mark.parametrize(
    ("kind", "changed", "outcome"),
    [
        ("rotate", {"id": ""}, "invalid"),
        ("rotate", {"id": "x" * 65}, "invalid"),
        ("rotate", {"id": "a b"}, "invalid"),
        ("rotate", {"proposed_by": "a\r\nb"}, "invalid"),
        ("rotate", {"body": b"{"}, "invalid"),
        ("rotate", {"body": b'{"all": true}'}, "invalid"),
        ("rotate", {"body": b'{"entries": ["none"]}'}, "not_found"),
        ("rotate", {"body": b'{"authorities": ["none"]}'}, "not_found"),
        ("rotate", {"body": b"[" * 70_000}, "invalid"),
        ("prepare", {"body": b'{"kind": "root"}'}, "invalid"),
        ("erase", {}, "denied"),
    ],
)
async def test_an_order_that_cannot_be_gets_one_clear_answer(
    world: World, kind: str, changed: dict[str, Any], outcome: str
) -> None:
    done = await world.order(kind, **changed)
    assert done.outcome == outcome and done.error
    assert "rotation.ordered" not in await world.kinds()


async def test_a_cluster_takes_what_its_owner_named_and_no_more() -> None:
    parts = await ClusterParts.make()
    world = World(parts, EvidenceConfig().orders)
    assert (await world.order("rotate")).outcome == "done"
    for kind in GRAVE:
        done = await world.order(kind, {"kind": "x509"}, id=f"o-{kind}")
        assert done.outcome == "denied" and "rotate, republish, refresh" in done.error
    with pytest.raises(Invalid, match=r"evidence\.orders"):
        EvidenceConfig(orders=("erase",))
    assert ClusterConfig.__dataclass_fields__["evidence"].default_factory is EvidenceConfig
    await parts.close()


async def test_a_hub_that_orders_without_end_is_paced(world: World) -> None:
    outcomes = [(await world.order("refresh", id=f"o-{number}")).outcome for number in range(25)]
    assert outcomes.count("done") == 20 and outcomes[-1] == "unavailable"
    # One operator's everyday orders keep two admins from nothing.
    assert (await world.order("taint", {"authority": active(world).id}, id="o-taint")).outcome == "done"
