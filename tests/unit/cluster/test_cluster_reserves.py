"""Reserve SVIDs for groups that opted in, several addresses for agents, and streams that begin a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from ca.lifecycle import Kind, Status
from tests.unit.cluster.cluster_parts import HOUR, ClusterParts, spki
from trustfed.cluster import events as e
from trustfed.cluster import joining
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.config import Door, Policy
from trustfed.cluster.joining import Joining
from trustfed.cluster.reserves import reserve_seconds, set_reserve
from trustfed.cluster.sessions import Sessions, View
from trustfed.errors import Conflict, Invalid
from trustfed.proto import node_pb2 as pb

DAY = timedelta(days=1)
MOST = 7 * DAY
POLICY = Policy(reserve_ttl_max=MOST, authority_ttl=30 * DAY)


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[ClusterParts]:
    made = await ClusterParts.make(policy=POLICY)
    await made.node("n1", ("edge",))
    await made.node("n2", ("default",))
    await made.entry(id="web", parent="group/edge", x509_ttl=3600)
    await made.entry(id="other", spiffe_id="spiffe://td-a/other", parent="node/n2")
    yield made
    await made.close()


async def ask(parts: ClusterParts, node: str, entry: str, slot: str) -> pb.X509Result:
    wanted = pb.X509Slot(entry_id=entry, slot=slot, public_key=spki(ec.generate_private_key(ec.SECP256R1())))
    answer = await parts.issuance.x509(parts.state.nodes[node], pb.IssueX509Request(slots=[wanted]))
    return answer.results[0]


async def opted_in(parts: ClusterParts, group: str = "edge", ttl: timedelta = 5 * DAY) -> None:
    await parts.decide(lambda s: set_reserve(s, group, ttl, MOST, "ships at sea"))


async def test_a_group_that_opted_in_gets_reserves_and_they_are_recorded_as_such(edge: ClusterParts) -> None:
    assert (await ask(edge, "n1", "web", "reserve")).error_code == "denied"
    await opted_in(edge)
    issued = await ask(edge, "n1", "web", "reserve")
    assert not issued.error
    assert issued.not_after_ms == int((edge.now + 5 * DAY).timestamp() * 1000)
    usual = await ask(edge, "n1", "web", "x509")
    assert usual.not_after_ms == int((edge.now + HOUR).timestamp() * 1000)
    facts = [record.fact.body for record in await edge.ledger.read(0, 100)]
    slots = [fact["slot"] for fact in facts if fact.get("entry") == "web"]
    assert slots == ["reserve", "x509"]
    # The authority stays in the bundle for as long as a reserve may live.
    authority = edge.one(Kind.X509, Status.ACTIVE)
    assert edge.issuance.last_leaf(authority, edge.now) == edge.now + 5 * DAY


@pytest.mark.parametrize(
    ("node", "entry", "slot", "code"),
    [
        ("n2", "other", "reserve", "denied"),
        ("n1", "other", "reserve", "not_found"),
        ("n1", "web", "spare", "invalid"),
    ],
)
async def test_nobody_else_gets_one(edge: ClusterParts, node: str, entry: str, slot: str, code: str) -> None:
    await opted_in(edge)
    refused = await ask(edge, node, entry, slot)
    assert (refused.error_code, len(refused.chain)) == (code, 0)


async def test_off_is_off_at_once(edge: ClusterParts) -> None:
    await opted_in(edge)
    await opted_in(edge, ttl=timedelta(0))
    assert (await ask(edge, "n1", "web", "reserve")).error_code == "denied"


async def test_a_change_reaches_the_nodes_of_that_group_at_once(edge: ClusterParts) -> None:
    sessions = Sessions(edge.state, edge.fold.position, 300)
    one, two = View("n1", ("edge",)), View("n2", ("default",))
    for view in (one, two):
        sessions.join(view, edge.state, snapshot=False)
    await opted_in(edge)
    sessions.on_event(edge.fold.position, e.ReserveSet("edge", 5 * 86_400), edge.state)
    assert isinstance(one.over, Conflict) and "connect again" in one.over.hint
    assert two.over is None


async def test_what_no_reserve_can_be(edge: ClusterParts) -> None:
    for group, ttl, reason in (("edge", 8 * DAY, "x"), ("edge", timedelta(seconds=1), "x"), ("Edge/", DAY, "x")):
        with pytest.raises(Invalid):
            set_reserve(edge.state, group, ttl, MOST, reason)
    with pytest.raises(Invalid, match="needs a reason"):
        set_reserve(edge.state, "edge", DAY, MOST, " ")
    with pytest.raises(Conflict, match="no reserve SVIDs"):
        set_reserve(edge.state, "edge", DAY, timedelta(0), "x")
    assert set_reserve(edge.state, "edge", timedelta(0), timedelta(0), "x") == []


async def test_the_longest_of_its_groups_counts_and_policy_bounds_it(edge: ClusterParts) -> None:
    await opted_in(edge)
    await opted_in(edge, "far", 6 * DAY)
    assert reserve_seconds(edge.state, ("edge", "far", "none"), MOST) == 6 * 86_400
    assert reserve_seconds(edge.state, ("far",), DAY) == 86_400
    assert reserve_seconds(edge.state, ("none",), MOST) == 0


def test_authorities_must_outlive_reserves() -> None:
    with pytest.raises(Invalid, match=r"too short for leaves that live up to 7 days.*reserve_ttl_max"):
        Policy(reserve_ttl_max=MOST)
    with pytest.raises(Invalid, match="reserve_ttl_max"):
        Policy(reserve_ttl_max=31 * DAY)
    assert POLICY.longest_leaf == MOST
    assert POLICY.longest_regular_leaf == DAY


async def test_an_intermediate_need_not_outlive_reserves(edge: ClusterParts) -> None:
    """The root's default is seven days: chains to it are for SVIDs of the usual life."""
    first = edge.one(Kind.X509, Status.ACTIVE)
    from tests.unit.cluster.cluster_parts import csr_of
    from trustfed.cluster.state import newest_roots

    week = await edge.hub.intermediate("td-a", first.id, await csr_of(edge, first), ttl=7 * DAY)
    await edge.authorities.adopt_intermediate(first.id, week, newest_roots(edge.state))


def test_a_door_has_several_addresses() -> None:
    door = Door("127.0.0.1:0", "a.example:8443", ("b.example:8443", "a.example:8443"))
    assert door.addresses("127.0.0.1:4711") == ("a.example:8443", "b.example:8443")
    assert Door("127.0.0.1:0").addresses("127.0.0.1:4711") == ("127.0.0.1:4711",)
    with pytest.raises(Invalid, match="is not HOST:PORT"):
        Door("127.0.0.1:0", advertise_also=("nowhere",))
    with pytest.raises(Invalid, match="advertise_also"):
        Door("127.0.0.1:0", advertise_also=tuple(f"h{n}:1" for n in range(8)))
    assert Addresses(https=("[::1]:8443",)).bundle_endpoints == ("https://[::1]:8443",)


async def test_nodes_are_told_every_address(parts: ClusterParts) -> None:
    _, key = await parts.node()
    assert list(key.answer["grpc_addresses"]) == ["cluster.example:8443", "second.example:8443"]
    assert list(key.answer["https_addresses"]) == ["cluster.example:8444"]
    assert key.answer["grpc"] == "cluster.example:8443"


async def test_streams_begin_a_few_at_a_time_and_a_slow_one_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "PATIENCE_SECONDS", 0.05)
    turns = Joining(2)
    slow, second = await turns.turn(), await turns.turn()
    waiting = asyncio.create_task(turns.turn())
    await asyncio.sleep(0)
    assert not waiting.done()
    second.done()
    second.done()  # once
    third = await waiting
    fourth = await asyncio.wait_for(turns.turn(), 20)  # the slow one lost its turn
    for turn in (slow, third, fourth):
        turn.done()
    assert turns._turns._value == 2
