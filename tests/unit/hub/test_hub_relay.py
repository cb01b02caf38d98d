"""What goes to whom: one view per stream, coalesced, bounded, ordered, and resumed by position."""

from __future__ import annotations

import pytest

from tests.unit.hub.hub_parts import ADMIN, HubParts, settle
from tests.unit.hub.newcomer import Newcomer
from trustfed.errors import Conflict, Denied, Invalid
from trustfed.hub.approvals import DomainRemoval, root_preparation
from trustfed.hub.events import EnvelopeAccepted
from trustfed.hub.relay import MAX_STREAMS, Relay, View
from trustfed.proto import federation_pb2 as pb
from trustfed.spiffe.x509svid import parse_leaf


async def _join(hub: HubParts, domain: Newcomer, **hello: object) -> View:
    """A new stream of this cluster."""
    svid = parse_leaf((await domain.svid()).chain[0])
    view = View(domain.trust_domain.name, svid, connected=hub.clock.now())
    values = {"hub_instance": "instance", **hello}
    hub.relay.join(view, pb.ClusterHello(**values), hub.state)  # type: ignore[arg-type]
    return view


def _kinds(messages: list[pb.FromHub]) -> list[str]:
    return [str(message.WhichOneof("message")) for message in messages]


async def test_a_slow_cluster_gets_the_newest_only(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    await hub.granted(east, west)
    view = await _join(hub, east)
    hub.relay.take(view, hub.state)
    for _ in range(50):
        newest = await west.envelope()
        await hub.operations.accept_envelope("west", newest)
    await settle()
    assert view.pending == {("envelope", "west")}
    (message,) = hub.relay.take(view, hub.state)
    assert message.envelope.envelope == newest
    assert message.position == hub.state.position
    assert hub.relay.take(view, hub.state) == []


async def test_a_change_reaches_those_it_concerns_and_nobody_else(hub: HubParts) -> None:
    west, east, third = [await hub.enrolled(name) for name in ("west", "east", "third")]
    await hub.granted(east, west)
    views = [await _join(hub, domain) for domain in (west, east, third)]
    for view in views:
        hub.relay.take(view, hub.state)
    await hub.operations.accept_envelope("west", await west.envelope())
    await settle()
    assert [sorted(view.pending) for view in views] == [[], [("envelope", "west")], []]
    newcomer = await hub.enrolled("newcomer")
    assert [sorted(view.pending) for view in views] == [[], [("envelope", "west")], []]
    del newcomer


async def test_an_ended_grant_is_said_before_any_envelope(hub: HubParts) -> None:
    west, east, third = [await hub.enrolled(name) for name in ("west", "east", "third")]
    over = await hub.granted(east, west)
    await hub.granted(east, third)
    view = await _join(hub, east)
    hub.relay.take(view, hub.state)
    await hub.operations.accept_envelope("third", await third.envelope())
    await hub.operations.accept_envelope("west", await west.envelope())
    await hub.operations.end(ADMIN, over, "over")
    await settle()
    messages = hub.relay.take(view, hub.state)
    assert _kinds(messages) == ["grant", "envelope"]
    assert messages[1].envelope.trust_domain == "third"  # west's was marked, but the grant is over
    assert [message.position for message in messages] == [view.position - 3, hub.state.position]


async def test_only_the_last_fact_moves_the_reader_on(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    await hub.granted(east, west)
    view = await _join(hub, east)
    messages = hub.relay.take(view, hub.state)
    assert _kinds(messages) == ["root_set", "grant", "envelope", "stored"]
    assert [message.position for message in messages] == [0, 0, hub.state.position, 0]


async def test_an_exporter_hears_of_a_grant_before_it_hears_of_the_importer(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    exporting = await _join(hub, west, root_version=1)
    await _join(hub, east)
    hub.relay.take(exporting, hub.state)
    await hub.granted(east, west)
    assert _kinds(hub.relay.take(exporting, hub.state)) == ["grant", "consumer"]


async def test_who_was_away_gets_what_changed(hub: HubParts) -> None:
    west, east, third = [await hub.enrolled(name) for name in ("west", "east", "third")]
    await hub.granted(east, west)
    await hub.granted(east, third)
    seen = hub.state.position
    await hub.operations.accept_envelope("third", await third.envelope())
    view = await _join(hub, east, position=seen, root_version=1)
    assert sorted(view.pending) == [("envelope", "third"), ("stored", "")]
    ahead = await _join(hub, east, position=hub.state.position + 1, root_version=1)
    assert ("envelope", "west") in ahead.pending  # it knows a future that this journal lost: a snapshot


async def test_a_snapshot_leaves_ended_grants_out(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    over = await hub.granted(east, west)
    await hub.operations.end(ADMIN, over, "over")
    anew = await _join(hub, east)
    assert not any(kind.startswith("grant") for kind, _ in anew.pending)
    resumed = await _join(hub, east, position=1)
    assert ("grant-ended", over) in resumed.pending


async def test_levels_rise_and_belong_to_importers(hub: HubParts) -> None:
    west, east, third = [await hub.enrolled(name) for name in ("west", "east", "third")]
    await hub.granted(east, west)
    exporting, importing, stranger = [await _join(hub, domain) for domain in (west, east, third)]
    await hub.operations.accept_envelope("west", await west.envelope())

    def acknowledge(view: View, epoch: int, sequence: int, **more: object) -> None:
        level = pb.Level(trust_domain="west", epoch=epoch, sequence=sequence)
        hub.relay.acknowledge(view, pb.Acknowledge(level=level, **more), hub.state)  # type: ignore[arg-type]

    acknowledge(importing, 1, 2, laggards=[f"n{n}" for n in range(150)], laggard_count=150)
    said = hub.relay.reported("east", "west")
    assert said is not None and said.level is not None
    assert (said.level.sequence, len(said.laggards), said.laggard_count) == (2, 100, 150)
    acknowledge(importing, 1, 1)  # late, or replayed
    assert hub.relay.reported("east", "west") == said
    for more in ((1, 3), (2, 1)):  # from the exporter's own endpoint, perhaps: the hub counts what it has itself
        acknowledge(importing, *more, laggards=[f"n{n}" for n in range(150)], laggard_count=150)
        assert hub.relay.reported("east", "west") == said
    with pytest.raises(Invalid, match="highest there is"):
        acknowledge(exporting, 1, 3)
    acknowledge(stranger, 1, 1)
    assert hub.relay.reported("third", "west") is None
    messages = [m for m in hub.relay.take(exporting, hub.state) if m.WhichOneof("message") == "consumer"]
    assert [message.consumer.importer for message in messages] == ["east"]


async def test_a_reconnected_importer_starts_from_what_its_hello_says(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    await hub.granted(east, west)
    held = pb.Level(trust_domain="west", epoch=1, sequence=1)
    await _join(hub, east, levels=[held])
    said = hub.relay.reported("east", "west")
    assert said is not None and said.level is not None
    await _join(hub, east)  # restored from a backup: it holds nothing
    said = hub.relay.reported("east", "west")
    assert said is not None and said.level is None


async def test_streams_of_one_cluster_are_bounded(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    views = [await _join(hub, west) for _ in range(MAX_STREAMS + 1)]
    assert isinstance(views[0].over, Conflict)
    assert [view.over for view in views[1:]] == [None] * MAX_STREAMS
    assert len(hub.relay.views("west")) == MAX_STREAMS
    for view in views:
        hub.relay.leave(view)
    assert hub.relay.connected() == 0


async def test_a_removed_domain_loses_its_streams_and_its_peers_hear_of_it(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    grant = await hub.granted(east, west)
    leaving, staying = await _join(hub, west), await _join(hub, east)
    hub.relay.take(staying, hub.state)
    await hub.alone(DomainRemoval("west", "gone"))
    await settle()
    assert isinstance(leaving.over, Denied)
    messages = hub.relay.take(staying, hub.state)
    assert [(m.grant.id, m.grant.state) for m in messages if m.WhichOneof("message") == "grant"] == [(grant, "ended")]


async def test_new_root_sets_go_to_all_once(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    view = await _join(hub, west, root_version=1)
    hub.relay.take(view, hub.state)
    await hub.alone(root_preparation(hub.state))
    await settle()
    (message,) = hub.relay.take(view, hub.state)
    assert list(message.root_set.documents) == [hub.state.root_documents[1]]
    assert view.root_version == 2


async def test_no_reader_is_told_a_position_whose_events_were_not_marked_yet(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    grant = await hub.granted(west, east)
    relay = Relay()  # nobody marks here but this test
    view = View("west", parse_leaf((await west.svid()).chain[0]), connected=hub.clock.now())
    relay.join(view, pb.ClusterHello(hub_instance="instance"), hub.state)
    relay.take(view, hub.state)
    told = view.position
    await hub.operations.accept_envelope("east", await east.envelope())
    view.mark(("grant", grant))
    relay.take(view, hub.state)
    assert view.position == told < hub.state.position
    relay.on_event(hub.state.position, EnvelopeAccepted("east", 1, 2, b""), hub.state)
    relay.take(view, hub.state)
    assert view.position == hub.state.position
