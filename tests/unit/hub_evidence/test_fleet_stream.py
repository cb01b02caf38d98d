"""The clusters' door for evidence, by clusters made by hand that speak to it over mTLS."""

from __future__ import annotations

import asyncio

import grpc
import msgspec
import pytest

from tests.unit.hub.hub_parts import ADMIN, settle
from tests.unit.hub_evidence.evidence_house import EvidenceHouse, FakeStream, row, until
from trustfed.errors import Conflict, Invalid, NotFound, Unavailable
from trustfed.evidence.standing import MAX_BYTES
from trustfed.hub.approvals import DomainRemoval
from trustfed.hub.evidence.orders import LIFE_MS, Order
from trustfed.hub.evidence.questions import IN_FLIGHT, MAX_ANSWER
from trustfed.hub.evidence.service import MAX_COUNTERS
from trustfed.proto import evidence_pb2 as pb


async def test_deltas_are_shown_acknowledged_and_resumed(house: EvidenceHouse) -> None:
    cluster, fleet = await house.cluster("west"), house.evidence.fleet
    now = fleet.now_ms
    async with cluster.stream() as stream:
        welcome = await stream.until("welcome")
        assert welcome.cursor == 0 and welcome.log_key == house.evidence.own_log.vkey.text
        await stream.say(cluster.delta(4, [row(at_ms=now, due=10, on_time=9, late=1)], whole=True))
        assert (await stream.until("taken")).cursor == 4
        await stream.say(cluster.standing(identities=3))
        await until(lambda: fleet.domain("west").identities == 3)
        assert fleet.cell("west", "leaf").headline == 0.9 and fleet.age("west").state == "live"
    await until(lambda: fleet.age("west").state == "away")
    await house.shut()
    await house.open()
    fleet = house.evidence.fleet
    assert fleet.cell("west", "leaf").headline == 0.9 and fleet.domain("west").identities == 3
    async with cluster.stream() as stream:
        assert (await stream.until("welcome")).cursor == 4
        await stream.say(cluster.delta(4, [row(at_ms=now, due=99)]), cluster.delta(5, [row("agent", at_ms=now, due=1)]))
        assert (await stream.until("taken")).cursor == 4
        assert (await stream.until("taken")).cursor == 5
        assert fleet.cell("west", "leaf").counts["due"] == 10 and fleet.cell("west", "agent").counts["due"] == 1
    async with cluster.stream(store="another") as stream:
        assert (await stream.until("welcome")).cursor == 0


async def test_a_newer_stream_takes_the_place_of_the_older(house: EvidenceHouse) -> None:
    cluster = await house.cluster("west")
    async with cluster.stream() as first, cluster.stream() as second:
        await second.until("welcome")
        assert (await first.refused())[0] == grpc.StatusCode.UNAVAILABLE
        await settle()
        assert house.evidence.fleet.domain("west").connected


def _bad() -> dict[str, pb.FromCluster]:
    counter = pb.Counter(class_="leaf", bucket_ms=0, counts=[1])
    failed = pb.Failed(id="1", class_="leaf", outcome="on_time")
    return {
        "too many counters": pb.FromCluster(delta=pb.Delta(cursor=1, counters=[counter] * (MAX_COUNTERS + 1))),
        "unknown class": pb.FromCluster(delta=pb.Delta(cursor=1, counters=[pb.Counter(class_="<b>", counts=[1])])),
        "huge count": pb.FromCluster(delta=pb.Delta(cursor=1, counters=[pb.Counter(class_="leaf", counts=[2**63])])),
        "no time": pb.FromCluster(delta=pb.Delta(cursor=1, counters=[pb.Counter(class_="leaf", bucket_ms=-(2**62))])),
        "no failure": pb.FromCluster(delta=pb.Delta(cursor=1, failed=[failed])),
        "large standing": pb.FromCluster(standing=b" " * (MAX_BYTES + 1)),
        "no standing": pb.FromCluster(standing=b"[" * 100_000),
        "a time that sqlite cannot hold": pb.FromCluster(standing=b'{"trust_domain":"west","as_of_ms":-%d}' % 10**30),
        "a number that cannot be divided": pb.FromCluster(
            standing=b'{"trust_domain":"west","as_of_ms":1,"clocks":[{"node":"n","offset_ms":1%s,"at_ms":1}]}'
            % (b"0" * 400)
        ),
        "another's standing": pb.FromCluster(standing=b'{"trust_domain":"east","as_of_ms":1}'),
        "another's log": pb.FromCluster(checkpoint=pb.CheckpointOffer(origin="trustfed/east/journal")),
        "a second hello": pb.FromCluster(hello=pb.FleetHello()),
        "nothing": pb.FromCluster(),
    }


async def test_what_breaks_a_bound_ends_the_stream_and_shows_nothing(house: EvidenceHouse) -> None:
    cluster, fleet = await house.cluster("west"), house.evidence.fleet
    for kind, message in _bad().items():
        async with cluster.stream() as stream:
            await stream.until("welcome")
            await stream.say(message)
            code, _ = await stream.refused()
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED), kind
        assert fleet.cell("west", "leaf").counts["due"] == 0 and fleet.standing("west") is None, kind
        assert house.evidence._keeper is not None and house.evidence._keeper.cursor("west", "one") == 0, kind


async def test_another_protocol_and_a_missing_hello_are_refused(house: EvidenceHouse) -> None:
    cluster = await house.cluster("west")
    async with cluster.stream(protocol_min=9, protocol_max=9) as stream:
        assert (await stream.refused())[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_flood_is_paced_for_its_domain_alone(house: EvidenceHouse) -> None:
    west, east = await house.cluster("west"), await house.cluster("east")
    async with west.stream() as flood, east.stream() as calm:
        await flood.until("welcome")
        await calm.until("welcome")
        for number in range(1, 71):  # 50 at once; the manual clock stands still
            await flood.say(west.delta(number))
        for _ in range(50):
            taken = await flood.until("taken")
        assert taken.cursor == 50
        await calm.say(east.delta(1))
        assert (await calm.until("taken")).cursor == 1
        await settle()
        for _ in range(20):
            await house.hub.clock.advance(0.1)
            taken = await flood.until("taken")
        assert taken.cursor == 70


async def test_a_removed_domain_loses_its_stream_and_is_forgotten(house: EvidenceHouse) -> None:
    cluster = await house.cluster("west")
    async with cluster.stream() as stream:
        await stream.until("welcome")
        await stream.say(cluster.delta(1, [row(at_ms=house.evidence.fleet.now_ms, due=1)], whole=True))
        await stream.until("taken")
        await remove(house, "west")
        code, why = await stream.refused()
        assert code == grpc.StatusCode.PERMISSION_DENIED and "removed" in why
    assert house.evidence.fleet.names == ["hub.example"]
    async with cluster.stream() as stream:
        assert (await stream.refused())[0] == grpc.StatusCode.PERMISSION_DENIED


async def remove(house: EvidenceHouse, name: str) -> None:
    asked = await house.hub.operations.approvals.ask(
        ADMIN.acting, DomainRemoval(name, "over and out"), "over and out", command_id="remove", break_glass=True
    )
    assert asked.done
    await until(lambda: name not in house.evidence.fleet.names)


async def test_a_cluster_answers_questions_and_its_errors_keep_their_kind(house: EvidenceHouse) -> None:
    cluster, questions = await house.cluster("west"), house.evidence.questions
    with pytest.raises(Unavailable, match="not connected: nothing was ever heard"):
        await questions.ask("west", "figures", {})
    with pytest.raises(NotFound):
        await questions.ask("nowhere", "figures", {})
    async with cluster.stream() as stream:
        await stream.until("welcome")

        async def answer(**fields: object) -> None:
            question = await stream.until("question")
            assert (question.kind, msgspec.json.decode(question.body)) == ("timeline", {"serial": "ff"})
            said = pb.Answer(id=question.id, as_of_ms=5, **fields)  # type: ignore[arg-type]
            await stream.say(pb.FromCluster(answer=pb.Answer(id=10**6, body=b"{}")), pb.FromCluster(answer=said))

        async def ask(**fields: object) -> object:
            asked = asyncio.ensure_future(questions.ask("west", "timeline", {"serial": "ff"}))
            await answer(**fields)
            return (await asked).json

        assert await ask(body=b'{"x": [1]}') == {"x": [1]}
        with pytest.raises(NotFound, match="west: no such serial"):
            await ask(error_code="not_found", error="no such serial")
        with pytest.raises(Unavailable, match="more than"):
            await ask(body=b" " * (MAX_ANSWER + 1))
        with pytest.raises(Unavailable, match="not JSON"):
            await ask(body=b"{")
        with pytest.raises(Invalid, match="too long"):
            await questions.ask("west", "timeline", {"serial": "f" * 70_000})


async def test_what_nobody_is_named_for_belongs_to_the_owner_of_its_domain(house: EvidenceHouse) -> None:
    cluster, questions = await house.cluster("west"), house.evidence.questions
    house.evidence.fleet.know("west", owner="platform")
    listed = {"certificates": [{"serial": "1", "owner": "shop"}, {"serial": "2", "owner": ""}, "no certificate"]}
    async with cluster.stream() as stream:
        await stream.until("welcome")
        asked = asyncio.ensure_future(questions.ask("west", "inventory", {}))
        question = await stream.until("question")
        await stream.say(pb.FromCluster(answer=pb.Answer(id=question.id, body=msgspec.json.encode(listed), as_of_ms=5)))
        said = (await asked).json["certificates"]
    assert [one["owner"] for one in said[:2]] == ["shop", "platform"]


async def test_questions_in_flight_are_bounded_and_end_in_time(house: EvidenceHouse) -> None:
    west, east, questions = await house.cluster("west"), await house.cluster("east"), house.evidence.questions
    questions._seconds = 0.3
    async with west.stream() as silent, east.stream() as talking:
        await silent.until("welcome")
        await talking.until("welcome")
        asked = [asyncio.ensure_future(questions.ask("west", "k", {})) for _ in range(IN_FLIGHT + 1)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert "8 questions" in str(results[-1])
        assert all("did not answer within" in str(result) for result in results[:-1])
        search = asyncio.ensure_future(questions.ask_all("serial", {"serial": "ff"}, 10))
        question = await talking.until("question")
        answer = pb.Answer(id=question.id, body=b'["found"]', as_of_ms=1)
        await talking.say(pb.FromCluster(answer=answer))
        found = await search
        assert [one.json for one in found.answers] == [["found"]]
        assert [one.trust_domain for one in found.missed] == ["west"]
        waiting = asyncio.ensure_future(questions.ask("east", "k", {}))
        await talking.until("question")
        talking.call.cancel()
        with pytest.raises(Unavailable, match=r"disconnected|did not answer"):
            await waiting


async def _orders(stream: FakeStream, count: int) -> list[pb.Order]:
    return [await stream.until("order") for _ in range(count)]


async def test_an_order_is_sent_until_it_is_done_once(house: EvidenceHouse) -> None:
    cluster, orders = await house.cluster("west"), house.evidence.orders
    order = Order("rotate", {"entries": ["e"]}, "leaked", "uid:1", "uid:2", id="o1")
    assert await orders.order("west", order) == "waiting"
    assert await orders.order("west", order) == "waiting"  # the same one: nothing new
    async with cluster.stream() as stream:
        (first,) = await _orders(stream, 1)
        assert (first.id, first.kind, first.proposed_by, first.approved_by) == ("o1", "rotate", "uid:1", "uid:2")
    async with cluster.stream() as stream:
        (again,) = await _orders(stream, 1)
        assert again.id == "o1"
        await stream.say(pb.FromCluster(done=pb.OrderDone(id="o1", outcome="done")))
        await stream.say(pb.FromCluster(done=pb.OrderDone(id="unheard of", outcome="done")))
        await until(lambda: orders.outcome("west", "o1").outcome == "done")
        asked = asyncio.ensure_future(orders.order("west", Order("refresh", {}, "r", "uid:1", id="o2")))
        (second,) = await _orders(stream, 1)
        await stream.say(pb.FromCluster(done=pb.OrderDone(id=second.id, outcome="refused", error="not configured")))
        assert await asked == "refused"
    async with cluster.stream() as stream:
        await stream.until("welcome")
    assert [one.made.id for one in orders.listed("west")] == ["o2", "o1"]


async def test_orders_expire_and_are_bounded(house: EvidenceHouse) -> None:
    await house.cluster("west")
    orders = house.evidence.orders
    with pytest.raises(NotFound):
        await orders.order("nowhere", Order("rotate", {}, "r", "uid:1"))
    for number in range(80):
        await orders.order("west", Order("rotate", {}, "r", "uid:1", id=f"o{number}"))
    with pytest.raises(Conflict, match="80 orders wait"):
        await orders.order("west", Order("rotate", {}, "r", "uid:1"))
    for number in range(20):  # one operator's everyday orders keep two admins from nothing
        await orders.order("west", Order("taint", {}, "r", "uid:1", "uid:2", id=f"t{number}"))
    with pytest.raises(Conflict, match="100 orders wait"):
        await orders.order("west", Order("taint", {}, "r", "uid:1", "uid:2"))
    house.hub.clock.move(LIFE_MS / 1000)
    await house.hub.clock.advance(16, turns=400)
    await until(lambda: all(one.outcome == "expired" for one in orders.listed("west")))


async def test_a_cluster_whose_clock_differs_is_alarmed_on(house: EvidenceHouse) -> None:
    cluster, fleet = await house.cluster("west"), house.evidence.fleet
    async with cluster.stream(time_ms=fleet.now_ms + 90_000) as stream:
        await stream.until("welcome")
        (alarm,) = fleet.alarms("west")
        assert (alarm.what.code, alarm.what.severity) == ("cluster_clock", "page")
        assert "90 seconds ahead" in alarm.what.says
        await stream.say(pb.FromCluster(heartbeat=pb.Heartbeat(time_ms=fleet.now_ms)))
        await until(lambda: not fleet.alarms("west"))


async def test_only_an_enrolled_cluster_is_heard(house: EvidenceHouse) -> None:
    cluster = await house.cluster("west")
    node = await cluster.domain.svid("/trustfed/node/n1")

    async def svid() -> object:
        return node

    cluster.domain.svid = svid  # type: ignore[method-assign,assignment]
    async with cluster.stream() as stream:
        assert (await stream.refused())[0] == grpc.StatusCode.PERMISSION_DENIED


async def test_a_real_domain_cannot_take_itself_out_of_the_alarms(house: EvidenceHouse) -> None:
    """Not later, and not by the first word that it says: its invitation said what it is."""
    cluster, fleet = await house.cluster("west"), house.evidence.fleet
    async with cluster.stream(features=["simulated"]) as stream:
        assert "real trust domain" in (await stream.refused())[1]
    async with cluster.stream() as stream:
        await stream.until("welcome")
        await stream.say(cluster.standing(simulated=True))
        assert "real trust domain" in (await stream.refused())[1]
    assert not fleet.domain("west").simulated
    played = await house.cluster("played", simulated=True)
    async with played.stream() as stream:
        await stream.until("welcome")
        await stream.say(played.standing())
        await until(lambda: fleet.standing("played"))
    assert fleet.domain("played").simulated
