"""What the hub takes of a domain's word on its mesh, and what it refuses without harming what came beside it."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fakes.mesh_world import export, gateway, import_
from tests.unit.hub.hub_parts import settle
from tests.unit.hub_mesh.mesh_hub import MeshHub, Talker
from trustfed.cluster.mesh import own
from trustfed.errors import Invalid
from trustfed.hub.approvals import DomainRemoval
from trustfed.hub.mesh import refusals, reports, rules
from trustfed.hub.state import HubState
from trustfed.journal.table import decode_state, encode_state
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.budget import Budget
from trustfed.runtime.reach import Reach

HOST = "payments.shop.svc.cluster.local"


async def test_what_was_taken_survives_a_snapshot_of_the_state(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway(), export("east"), import_("west"))
    state = world.hub.state
    assert decode_state(encode_state(state), HubState) == state
    assert world.mesh.intake.digest("east") == east.digest()


async def test_the_same_said_again_makes_no_event(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway(), export("east"))
    before = world.hub.state.position
    await east.say_all()
    assert world.hub.state.position == before


async def test_a_snapshot_is_applied_as_a_difference(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway(), gateway("gw-2"), export("east"), export("east", "stock"))
    before = world.hub.state.position
    del east.items["export/stock.shop.svc.cluster.local"], east.items["gateway/gw-2"]
    east.items["import/new"] = (99, import_("west", "new"))
    await east.say_all()
    assert world.hub.state.position == before + 3
    assert set(world.hub.state.mesh.of("east")) == {"gateway/gw-1", f"export/{HOST}", "import/new"}
    assert world.mesh.intake.digest("east") == east.digest()


async def test_an_empty_snapshot_ends_everything(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway(), export("east"))
    east.items.clear()
    await east.say_all()
    assert "east" not in world.hub.state.mesh.domains


async def test_another_domains_signature_is_refused_and_what_came_beside_it_is_taken(world: MeshHub) -> None:
    east, evil = await world.domains("east", "evil")
    forged = await evil.item(export("evil", "of-evil"))
    east.reports.put(pb.MeshReport(items=[forged, await east.item(gateway())]))
    await east.settled()
    assert set(world.hub.state.mesh.of("east")) == {"gateway/gw-1"}
    assert "did not make" in east.read().refused["export/of-evil.shop.svc.cluster.local"]


async def test_a_statement_under_another_name_or_sequence_is_refused(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    item = await east.item(gateway())
    item.name = "gw-9"
    other = await east.item(export("east"))
    other.sequence += 5
    east.reports.put(pb.MeshReport(items=[item, other]))
    await east.settled()
    assert not len(world.hub.state.mesh.of("east"))
    assert set(east.read().refused) == {"gateway/gw-9", f"export/{HOST}"}


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "::1", "2002:7f00:1::"])
async def test_gateways_that_lead_nowhere_good_are_refused(world: MeshHub, address: str) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway(address=address), gateway("gw-2"))
    assert set(world.hub.state.mesh.of("east")) == {"gateway/gw-2"}
    assert "address" in east.read().refused["gateway/gw-1"] or "metadata" in east.reader.refused["gateway/gw-1"]


async def test_configuration_may_name_networks_for_gateways() -> None:
    world = await MeshHub.make(Reach(allow=(ipaddress.ip_network("127.0.0.0/8"),)))
    (east,) = await world.domains("east")
    await east.say(gateway(address="127.0.0.1"))
    assert "gateway/gw-1" in world.hub.state.mesh.of("east")
    await world.close()


async def test_a_refused_change_leaves_what_was_there(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway())
    await east.say(gateway(address="127.0.0.1"))
    assert world.hub.state.mesh.of("east")["gateway/gw-1"].sequence == 1
    assert "gateway/gw-1" in east.read().refused
    assert world.mesh.intake.digest("east") == east.digest()  # it was heard: a new stream need not say it again
    await east.say(gateway(address="198.51.100.9"))
    assert east.read().refused["gateway/gw-1"] == ""


async def test_no_domain_goes_back(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway())
    older = await east.item(gateway(address="203.0.113.1"), 1)
    await east.say(gateway(address="203.0.113.2"))
    east.reports.put(pb.MeshReport(items=[older]))
    await east.settled()
    assert world.hub.state.mesh.of("east")["gateway/gw-1"].sequence == 2
    assert "older than 2; restored from a backup? trustfed cluster epoch" in east.read().refused["gateway/gw-1"]


async def test_other_content_under_a_sequence_that_was_used_is_refused_and_a_new_signature_is_no_news(
    world: MeshHub,
) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway())
    await east.say_all()  # signed anew
    position = world.hub.state.position
    assert east.read().refused == {}
    other = await east.item(gateway(address="203.0.113.1"), 1)  # a cluster that was restored, and went on
    east.reports.put(pb.MeshReport(items=[other]))
    await east.settled()
    assert "trustfed cluster epoch" in east.read().refused["gateway/gw-1"]
    assert world.hub.state.position == position
    await east.say(gateway(address="203.0.113.1"))
    assert east.read().refused["gateway/gw-1"] == ""


async def _owners(world: MeshHub) -> list[Talker]:
    """first and second belong to one team, other to another."""
    talkers = await world.domains("first", "second", "other")
    state, domains = world.hub.state, world.hub.state.domains
    domains = domains.put("other", replace(domains["other"], owner="another team"))
    world.hub.fold._state = replace(state, domains=domains)
    return talkers


async def test_a_host_belongs_to_the_first_owner_until_its_last_domain_lets_go(world: MeshHub) -> None:
    first, second, other = await _owners(world)
    await first.say(export("first"))
    await second.say(export("second"))  # of the same team
    await other.say(export("other"), gateway())
    assert set(world.hub.state.mesh.of("other")) == {"gateway/gw-1"}
    assert "exported by first already" in other.read().refused[f"export/{HOST}"]
    await first.unsay(export("first"))
    assert "exported by second already" in other.read().refused[f"export/{HOST}"]
    await second.unsay(export("second"))
    await settle()
    await settle()
    assert other.read().refused[f"export/{HOST}"] == ""  # taken without being sent again
    assert world.hub.state.mesh.hosts[HOST] == ("other",)
    assert not world.mesh.intake.refused("other")


async def test_a_removed_domain_frees_its_hosts(world: MeshHub) -> None:
    first, _, other = await _owners(world)
    await first.say(export("first"))
    await other.say(export("other"))
    await world.hub.alone(DomainRemoval("first", "gone"))
    await settle()
    await settle()
    assert world.hub.state.mesh.hosts[HOST] == ("other",)


async def test_after_a_restart_of_the_hub_the_refused_is_said_again_and_taken(world: MeshHub) -> None:
    first, _, other = await _owners(world)
    await first.say(export("first"))
    await other.say(export("other"))
    for one in (first, other):
        await one.away()
    again = await world.restarted()
    first.world = other.world = again
    await first.back()
    await first.unsay(export("first"))
    assert again.mesh.intake.digest("other") != other.digest()
    await other.back()
    await other.say_all()
    assert again.hub.state.mesh.hosts[HOST] == ("other",)
    await again.stop()


async def test_a_domain_has_so_much_room(world: MeshHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (east,) = await world.domains("east")
    monkeypatch.setattr(rules, "MOST", {"gateway": 2, "export": 2, "import": 2})
    await east.say(*[gateway(f"gw-{n}") for n in range(4)])
    assert len(world.hub.state.mesh.of("east")) == 2
    assert "no more fit" in east.read().refused["gateway/gw-3"]
    await east.say(gateway("gw-1", "203.0.113.5"))  # a change is no further one
    assert world.hub.state.mesh.of("east")["gateway/gw-1"].sequence == 5
    await east.unsay(gateway("gw-0"))
    await settle()
    assert east.read().refused["gateway/gw-2"] == ""  # there is room now
    assert east.reader.refused["gateway/gw-3"]


async def test_a_flood_waits_and_ends_with_the_newest(world: MeshHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (east,) = await world.domains("east")
    world.mesh.intake.budget = Budget(10, 0.5)
    before = world.hub.state.position
    for number in range(60):
        await east.say(gateway(address=f"198.51.100.{number + 1}"))
    assert world.hub.state.position - before <= 10
    for _ in range(20):
        await world.hub.clock.advance(5, turns=30)
    assert world.hub.state.mesh.of("east")["gateway/gw-1"].sequence == 60
    assert world.hub.state.position - before <= 20


async def test_what_no_cluster_sends_ends_the_stream(world: MeshHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (east,) = await world.domains("east")
    for bad in (
        pb.MeshReport(items=[pb.MeshItem(kind="cluster", name="x", sequence=1)]),
        pb.MeshReport(items=[pb.MeshItem(kind="gateway", name="x" * 300, sequence=1)]),
        pb.MeshReport(removed=[pb.MeshName(kind="gateway", name="x")]),
    ):
        with pytest.raises(Invalid):
            east.reports.put(bad)
    monkeypatch.setattr(reports, "MAX_PENDING", 10)
    many = [pb.MeshItem(kind="gateway", name=f"g{n}", sequence=1) for n in range(11)]
    with pytest.raises(Invalid, match="more than a domain may say"):
        east.reports.put(pb.MeshReport(items=many))


async def test_refusals_are_bounded(world: MeshHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (east,) = await world.domains("east")
    monkeypatch.setattr(refusals, "MAX_REFUSED", 5)
    await east.say(*[gateway(f"g{n}", "127.0.0.1") for n in range(9)])
    assert len(world.mesh.intake.refused("east")) == 5
    assert world.mesh.intake.digest("east") != east.digest()  # what was forgotten is said again on the next stream


async def test_garbage_of_every_size_is_refused_and_the_stream_goes_on(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    junk = [b"", b"{}", b"\x00" * 70_000, b'{"payload": "' + b"A" * 65_000, b"[" * 5_000]
    items = [pb.MeshItem(kind="gateway", name=f"g{n}", sequence=1, statement=data) for n, data in enumerate(junk)]
    east.reports.put(pb.MeshReport(items=[*items, await east.item(gateway())]))
    await east.settled()
    assert set(world.hub.state.mesh.of("east")) == {"gateway/gw-1"}
    assert len(east.read().refused) == len(junk)
    await asyncio.sleep(0)


def test_a_hub_has_room_for_all_that_a_cluster_lets_be_said() -> None:
    assert dict(own.LIMITS) == dict(rules.MOST)
    assert sum(rules.MOST.values()) < reports.MAX_PENDING


async def test_a_report_of_nothing_replaces_what_waits_and_costs_little(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway(), export("east"))
    never = [pb.MeshName(kind="export", name=f"n{number}", sequence=1) for number in range(1_000)]
    put: list[str] = []
    before = east.reports._put

    def counted(at: str, one: Any) -> None:
        put.append(at)
        before(at, one)

    east.reports._put = counted  # type: ignore[method-assign]
    east.reports.put(pb.MeshReport(items=[await east.item(export("east", "late"))], removed=never))
    for _ in range(20):
        east.reports.put(pb.MeshReport(snapshot=True, last=True))
    assert len(put) == 1 + 1_000 + 3  # what is said, what is removed, and each thing that is gone once
    await east.settled()
    assert not world.hub.state.mesh.of("east")


async def test_what_an_older_stream_still_holds_is_not_recorded_after_a_newer_one_began(world: MeshHub) -> None:
    (east,) = await world.domains("east")
    await east.say(gateway())
    world.mesh.intake.budget = Budget(1, 0.1)
    await east.say(gateway("gw-2"))
    await east.say(export("east"))  # waits
    lingering = east.reports
    del east.items[f"export/{HOST}"]  # the cluster loses its stream, takes it back, and comes again
    newer = await world.talker(east.newcomer)
    assert world.mesh.intake.digest("east") == east.digest()  # so it says nothing
    await world.hub.clock.advance(60, turns=30)
    await east.settled()
    assert f"export/{HOST}" not in world.hub.state.mesh.of("east")
    assert lingering._pending
    newer.reports.put(pb.MeshReport(items=[await east.item(export("east"))]))
    await world.hub.clock.advance(60, turns=30)
    await newer.settled()
    assert f"export/{HOST}" in world.hub.state.mesh.of("east")


async def test_what_is_freed_while_others_are_judged_anew_is_not_forgotten(world: MeshHub) -> None:
    owner, _, other = await _owners(world)
    await owner.say(export("first", "a"), export("first", "b"))
    await other.say(export("other", "a"), export("other", "b"))
    intake, take = world.mesh.intake, world.mesh.intake.take

    async def slow(domain: str, *more: Any) -> None:
        await take(domain, *more)
        if domain == "other" and len(intake.refused("other")) == 1:
            intake.take = take  # type: ignore[method-assign]
            await owner.unsay(export("first", "b"))  # it was judged just now

    intake.take = slow  # type: ignore[method-assign,assignment]
    await owner.unsay(export("first", "a"))
    await other.settled()
    assert len(world.hub.state.mesh.of("other")) == 2
