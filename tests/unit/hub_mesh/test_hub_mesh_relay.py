"""Who is sent which routes: what it imports, of whom it agreed with, as deltas, and all of it where digests differ."""

from __future__ import annotations

import asyncio
import random

from tests.fakes.mesh_world import Reader, export, gateway, import_
from tests.unit.hub.hub_parts import ADMIN, DAY, settle
from tests.unit.hub_mesh.mesh_hub import MeshHub, Talker
from trustfed.hub.approvals import DomainRemoval
from trustfed.hub.mesh import relaying
from trustfed.hub.rpc import Federation
from trustfed.proto import federation_pb2 as pb


async def test_an_export_reaches_who_imports_it_when_both_have_agreed(world: MeshHub) -> None:
    west, east, third = await world.domains("west", "east", "third")
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    assert west.read().names() == []
    one = await world.hub.granted(west.newcomer, east.newcomer)
    assert west.read().names() == []  # east has not accepted west
    await world.hub.granted(east.newcomer, west.newcomer)
    await settle()
    assert west.read().names() == ["east/export/payments.shop.svc.cluster.local", "east/gateway/gw-1"]
    assert third.read().names() == []
    await world.hub.operations.end(ADMIN, one, "over")
    await settle()
    assert west.read().names() == []


async def test_the_end_of_the_other_direction_withdraws_too(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    _, back = await world.agree(west, east)
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    assert len(west.read().held) == 2
    await world.hub.operations.end(ADMIN, back, "over")
    await settle()
    assert west.read().names() == []
    await world.hub.granted(east.newcomer, west.newcomer)
    await settle()
    assert len(west.read().held) == 2


async def test_what_is_not_exported_can_be_imported_by_nobody(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await west.say(import_("east", host="secret.shop.svc.cluster.local"))
    await east.say(gateway(), export("east"))
    assert west.read().names() == []  # no gateway either: it sees nothing that would be behind it


async def test_by_host_namespace_and_group(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await east.say(
        export("east", "a"), export("east", "b", "stock"), export("east", "c", "stock", groups=("open", "more"))
    )
    for what, expected in (
        ({"host": "a.shop.svc.cluster.local"}, "a"),
        ({"namespace": "stock"}, "bc"),
        ({"group": "open"}, "c"),
    ):
        await west.say(import_("east", "one", **what))
        assert "".join(at.split("/")[2][0] for at in west.read().names()) == expected


async def test_a_gateway_change_touches_its_importers_and_nobody_else(world: MeshHub) -> None:
    west, east, third = await world.domains("west", "east", "third")
    await world.agree(west, east)
    await world.agree(third, east)
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    for one in (west, east, third):
        one.read()
    await east.say(gateway(address="198.51.100.8"))
    assert [one.view.mesh.routes for one in (west, east, third)] == [{"east/gateway/gw-1"}, set(), set()]
    before = len(west.reader.messages)
    west.read()
    (message,) = west.reader.messages[before:]
    assert len(message.upsert) == 1
    assert not message.remove


async def test_many_changes_are_few_messages_and_a_slow_reader_gets_the_newest(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await west.say(import_("east"))
    exports = [export("east", f"s{n}") for n in range(60)]
    for address in range(5):
        await east.say(gateway(address=f"198.51.100.{address + 1}"), *exports)
    west.read()
    assert len(west.reader.messages) == 1
    assert len(west.reader.held) == 61
    assert next(iter(west.reader.messages[0].upsert)).kind == "gateway"  # before what is reached by it


async def test_a_stream_begins_with_what_differs_only(world: MeshHub) -> None:
    west, east, third = await world.domains("west", "east", "third")
    for other in (east, third):
        await world.agree(west, other)
        await other.say(gateway(), export(other.name, f"of-{other.name}"))
        await west.say(import_(other.name))
    west.read()
    await west.away()
    await west.back()
    assert not west.view.mesh.whole  # nothing happened meanwhile: nothing is sent
    await west.away()
    await east.say(export("east", "more"))
    await third.unsay(gateway())
    await east.unsay(export("east", "of-east"))
    await west.back()
    before = len(west.reader.messages)
    west.read()
    assert {message.whole_of for message in west.reader.messages[before:]} == {"east", "third"}
    assert west.reader.names() == [
        "east/export/more.shop.svc.cluster.local",
        "east/gateway/gw-1",
        "third/export/of-third.shop.svc.cluster.local",
    ]


async def test_who_was_away_while_all_ended_lets_go_of_it(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    grant, _ = await world.agree(west, east)
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    west.read()
    await west.away()
    await world.hub.operations.end(ADMIN, grant, "over")
    await settle()
    await west.back()
    assert west.read().names() == []


async def test_a_hub_that_comes_back_knows_who_sees_what(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    west.read()
    await west.away()
    await east.away()
    again = await world.restarted()
    west.world = east.world = again
    await west.back()
    await east.back()
    assert not west.view.mesh.whole
    await east.say(gateway(address="203.0.113.9"))
    assert west.read().held["east/gateway/gw-1"] != b""
    assert again.mesh.intake.digest("east") == east.digest()
    await again.stop()


async def _restored(world: MeshHub, position: int, *talkers: Talker) -> MeshHub:
    again = await world.restored(position)
    for one in talkers:
        one.world = again
    return again


async def test_a_hub_restored_from_a_backup_takes_no_live_route_away(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await east.say(gateway(), export("east", "old"))
    backup = world.hub.fold.position
    await east.say(gateway(address="203.0.113.9"), export("east", "new"))
    await east.unsay(export("east", "old"))
    await west.say(import_("east"))
    held = dict(west.read().held)
    assert len(held) == 2
    again = await _restored(world, backup, west, east)
    try:
        await west.back()
        assert west.read().held == held  # the hub lacks the import, and east's newest
        await west.say_all()
        # What the backup has is sent; an importer takes no older statement, and this reader takes everything.
        assert held.keys() <= west.read().held.keys()
        assert not any(message.last for message in west.reader.messages)
        await east.back()
        assert held.keys() <= west.read().held.keys()
        await east.say_all()  # from here on the hub knows that nothing else is there
        assert west.read().names() == sorted(held)
        assert not west.view.mesh.unsure
    finally:
        await again.close()


async def test_a_restored_hub_that_has_lost_an_answer_to_a_grant_waits_for_it(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    await world.hub.granted(west.newcomer, east.newcomer)
    who = {"importer": east.newcomer.trust_domain, "exporter": west.newcomer.trust_domain}
    until = world.hub.clock.now() + DAY
    offered = await world.hub.operations.offer(ADMIN, **who, until=until, reason="test")
    backup = world.hub.fold.position
    answer = {"actor": "uid:1", "reason": "yes", "fingerprint": west.newcomer.key.fingerprint}
    await world.hub.operations.decide("east", offered.id, "accept", **answer)
    await settle()
    held = dict(west.read().held)
    assert len(held) == 2
    again = await _restored(world, backup, west, east)
    try:
        await west.back()
        await east.back()  # both have said all
        assert west.read().held == held
        await again.hub.operations.decide("east", offered.id, "accept", **answer)
        await settle()
        assert west.read().held == held
        assert not west.view.mesh.unsure
    finally:
        await again.close()


async def test_what_is_over_is_taken_back_also_by_a_hub_that_just_began(world: MeshHub) -> None:
    west, east, third = await world.domains("west", "east", "third")
    for other in (east, third):
        await world.agree(west, other)
        await other.say(gateway(), export(other.name, f"of-{other.name}"))
        await west.say(import_(other.name))
    await third.unsay(gateway())
    assert len(west.read().held) == 3
    await west.away()
    await world.hub.alone(DomainRemoval("east", "gone"))
    await third.unsay(export("third", "of-third"))
    again = await world.restarted()
    west.world = third.world = again
    await west.back()
    assert west.read().names() == ["third/export/of-third.shop.svc.cluster.local"]  # nobody knows yet
    await third.back()
    assert west.read().names() == []
    await again.stop()


async def test_a_removed_domain_takes_its_mesh_with_it(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    assert len(west.read().held) == 2
    await world.hub.alone(DomainRemoval("east", "gone"))
    await settle()
    assert west.read().names() == []
    assert "east" not in world.hub.state.mesh.domains
    assert not len(world.hub.state.mesh.hosts)
    assert world.mesh.relay.index.importers("east") == []


async def test_an_import_that_is_put_again_is_answered_again(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    west.read()
    west.reader = Reader()  # its cluster let go of all when the import went, and the hub never heard of that
    await west.say(import_("east"))
    assert len(west.read().held) == 2


async def test_parts_are_bounded_and_the_last_one_says_so(world: MeshHub, monkeypatch: object) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await west.say(import_("east"))
    await east.say(gateway(), *[export("east", f"s{n}") for n in range(20)])
    await west.away()
    monkeypatch.setattr(relaying, "MAX_PART_BYTES", 2_000)  # type: ignore[attr-defined]
    await west.back()
    west.read()
    assert [message.last for message in west.reader.messages] == [False] * (len(west.reader.messages) - 1) + [True]
    assert len(west.reader.messages) > 5
    assert all(message.ByteSize() < 3_000 for message in west.reader.messages)
    assert len(west.reader.held) == 21


async def test_whatever_happens_in_whatever_order_every_reader_holds_what_it_should(world: MeshHub) -> None:
    chance = random.Random(7)
    talkers = await world.domains("a", "b", "c")
    grants: dict[tuple[str, str], str] = {}
    for _ in range(120):
        one, other = chance.sample(talkers, 2)
        match chance.randrange(8):
            case 0:
                await one.say(gateway(f"g{chance.randrange(3)}", f"198.51.100.{chance.randrange(1, 250)}"))
            case 1:
                await one.unsay(gateway(f"g{chance.randrange(3)}"))
            case 2:
                groups = ("open",) if chance.random() < 0.5 else ()
                await one.say(export(one.name, f"{one.name}{chance.randrange(3)}", groups=groups))
            case 3:
                await one.unsay(export(one.name, f"{one.name}{chance.randrange(3)}"))
            case 4:
                what = chance.choice(
                    [{"namespace": "shop"}, {"group": "open"}, {"host": f"{other.name}1.shop.svc.cluster.local"}]
                )
                await one.say(import_(other.name, f"i{chance.randrange(2)}", **what))
            case 5:
                await one.unsay(import_(other.name, f"i{chance.randrange(2)}"))
            case 6:
                if (one.name, other.name) in grants:
                    await world.hub.operations.end(ADMIN, grants.pop((one.name, other.name)), "over")
                    await settle()
                else:
                    grants[one.name, other.name] = await world.hub.granted(one.newcomer, other.newcomer)
            case 7:
                await one.away()
                await one.back()
        chance.choice(talkers).read()
    for one in talkers:
        one.read()
        expected = []
        for other in talkers:
            if (one.name, other.name) not in grants or (other.name, one.name) not in grants:
                continue
            wanted = [item for at, (_, item) in one.items.items() if at.startswith("import/")]
            exports = [item for at, (_, item) in other.items.items() if at.startswith("export/")]
            seen = [x.name for x in exports if any(w.wants(other.name, x) for w in wanted)]  # type: ignore[union-attr, arg-type]
            gateways = [item.name for at, (_, item) in other.items.items() if at.startswith("gateway/")]
            expected += [f"{other.name}/export/{name}" for name in seen]
            expected += [f"{other.name}/gateway/{name}" for name in gateways] if seen else []
        assert one.reader.names() == sorted(expected)
        for at, statement in one.reader.held.items():
            exporter, _, name = at.partition("/")
            (source,) = [talker for talker in talkers if talker.name == exporter]
            assert world.sequence_of(statement) == source.items[name][0]


async def test_a_grant_that_comes_while_others_are_written_goes_before_the_routes_that_rest_on_it(
    world: MeshHub,
) -> None:
    west, east = await world.domains("west", "east")
    await east.say(gateway(), export("east"))
    await west.say(import_("east"))
    await world.hub.granted(west.newcomer, east.newcomer)
    written: list[str] = []

    class Context:
        async def write(self, message: pb.FromHub) -> None:
            if not written:  # a slow reader: meanwhile east accepts west
                written.append("begun")
                await world.hub.granted(east.newcomer, west.newcomer)
            kind = str(message.WhichOneof("message"))
            written.append(f"{message.grant.importer}>{message.grant.exporter}" if kind == "grant" else kind)

    hub = world.hub
    door = Federation(hub.operations, hub.relay, None, hub.clock, mesh=world.mesh)  # type: ignore[arg-type]
    writing = asyncio.create_task(door._write(west.view, [], Context()))
    await settle()
    await asyncio.sleep(0.05)
    writing.cancel()
    assert "east>west" in written[: written.index("routes")]


async def test_a_flapping_export_costs_the_same_however_many_others_are_seen(world: MeshHub) -> None:
    west, east, third = await world.domains("west", "east", "third")
    for importer in (west, third):
        await world.agree(importer, east)
    await west.say(import_("east"))
    await third.say(import_("east", host="c.shop.svc.cluster.local"))
    services = "abcdef"
    index = world.mesh.relay.index
    for service in services:
        await east.say(export("east", service))
    for service in (*services, *reversed(services)):
        await east.unsay(export("east", service))
        seen = sorted({*services} - {service})
        assert index.routes("west", "east") == [f"east/export/{s}.shop.svc.cluster.local" for s in seen]
        assert (index.exporters("third") == set()) == (service == "c")
        assert index.digest("west", "east") != index.digest("third", "east")
        await east.say(export("east", service))
        assert len(west.read().held) == len(services)
        assert third.read().names() == ["east/export/c.shop.svc.cluster.local"]
