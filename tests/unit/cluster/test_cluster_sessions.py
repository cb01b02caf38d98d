"""What is still to be sent to each agent, and how far every node is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ca.lifecycle import Level
from tests.fakes.clocks import START
from tests.unit.cluster.cluster_parts import TD
from trustfed.cluster import changes
from trustfed.cluster import events as e
from trustfed.cluster.fold import apply
from trustfed.cluster.messages import MAX_ENTRIES_PER_MESSAGE, MAX_MESSAGE_BYTES
from trustfed.cluster.presence import Presence
from trustfed.cluster.sessions import Sessions, View
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Denied
from trustfed.proto import node_pb2 as pb

LIVE = START + timedelta(hours=1)


def entry(id_: str, parent: str = "group/default", **fields: Any) -> e.EntryPut:
    given = {
        "id": id_,
        "spiffe_id": f"spiffe://{TD}/{id_}",
        "parent": parent,
        "selectors": ("unix:uid:1",),
        "x509_ttl": 60,
        "jwt_ttl": 60,
        "dns_names": (),
        "federates_with": (),
        "hint": "",
        "admin": False,
        "chain": "leaf",
        "expires_at": None,
        "owner": "",
        "created_at": START,
        **fields,
    }
    return e.EntryPut(**given)


def node(name: str, *groups: str) -> e.NodeAttested:
    return e.NodeAttested(name, groups, "join_token", "t", "k", (b"c",), START)


class World:
    """State, sessions and their common position, moved by events."""

    def __init__(self, *events: Any) -> None:
        self.state, self.position = ClusterState(), 0
        self.log: list[Any] = []
        for event in (e.Keyed("i", TD, "p", b"key", START), node("n1", "default"), node("n2", "other"), *events):
            self._fold(event)
        self.sessions = Sessions(self.state, self.position, 300)

    def _fold(self, event: Any) -> None:
        self.state, self.position = apply(self.state, event), self.position + 1
        self.log.append(event)

    def happens(self, *events: Any, told: bool = True) -> None:
        for event in events:
            self._fold(event)
            if told:
                self.sessions.on_event(self.position, event, self.state)

    def join(self, name: str = "n1", *, snapshot: bool = True) -> View:
        view = View(name, self.state.nodes[name].groups, self.position)
        self.sessions.join(view, self.state, snapshot=snapshot)
        return view

    def take(self, view: View) -> list[pb.FromCluster]:
        return list(self.sessions.take(view, self.state, START))


def ids(messages: list[pb.FromCluster]) -> tuple[list[str], list[str]]:
    upserts = [item.id for m in messages if m.HasField("entries") for item in m.entries.upsert]
    return upserts, [id_ for m in messages if m.HasField("entries") for id_ in m.entries.remove]


def test_a_snapshot_holds_what_the_node_may_have_and_no_more() -> None:
    world = World(entry("a"), entry("b", "node/n1"), entry("c", "node/n2"), entry("d", "group/other"))
    assert ids(world.take(world.join("n1"))) == (["a", "b"], [])
    assert ids(world.take(world.join("n2"))) == (["c", "d"], [])


def test_each_thing_once_removals_first() -> None:
    world = World(entry("a"), entry("b"))
    view = world.join()
    world.take(view)
    world.happens(entry("a", hint="1"), entry("a", hint="2"), e.EntryDeleted("b"), entry("c"))
    messages = world.take(view)
    assert [m.WhichOneof("message") for m in messages] == ["entries", "entries"]
    assert list(messages[0].entries.remove) == ["b"]
    assert [(item.id, item.hint) for item in messages[1].entries.upsert] == [("a", "2"), ("c", "")]
    assert world.take(view) == []


def test_a_message_brings_an_agent_only_as_far_as_was_marked() -> None:
    """The state runs ahead of the marks: an agent told the state's position would miss what is marked later."""
    world = World()
    view = world.join()
    world.take(view)
    world.happens(entry("a"))
    world.happens(entry("b"), told=False)
    (message,) = world.take(view)
    assert message.position == world.position - 1
    world.sessions.on_event(world.position, world.log[-1], world.state)
    (message,) = world.take(view)
    assert (message.entries.upsert[0].id, message.position) == ("b", world.position)


def test_parent_change_moves_the_entry() -> None:
    world = World(entry("a", "node/n1"))
    one, two = world.join("n1"), world.join("n2")
    world.take(one), world.take(two)
    world.happens(entry("a", "node/n2"))
    assert ids(world.take(one)) == ([], ["a"])
    assert ids(world.take(two)) == (["a"], [])
    world.happens(e.EntryDeleted("a"))
    assert ids(world.take(one)) == ([], [])
    assert ids(world.take(two)) == ([], ["a"])


def test_a_change_of_named_peers_reaches_only_the_nodes_concerned() -> None:
    world = World(entry("a", federates_with=("peers:g",)), entry("b", "node/n2", federates_with=("peers:g",)))
    one, two = world.join("n1"), world.join("n2")
    world.take(one), world.take(two)
    world.happens(e.PeersSet("g", ("td-b",)))
    (message,) = world.take(one)
    assert [(item.id, list(item.federates_with)) for item in message.entries.upsert] == [("a", ["td-b"])]
    assert ids(world.take(two)) == (["b"], [])


def test_a_ban_ends_the_streams_of_that_node_only() -> None:
    world = World()
    one, two = world.join("n1"), world.join("n2")
    world.happens(e.NodeBanned("n1", "stolen", START))
    assert isinstance(one.over, Denied)
    assert two.over is None


def test_a_node_that_attests_anew_begins_anew() -> None:
    world = World()
    old = world.join("n1")
    world.happens(node("n1", "other"), told=False)
    new = world.join("n1")
    world.sessions.on_event(world.position, world.log[-1], world.state)
    assert isinstance(old.over, Conflict)
    assert new.over is None


def test_a_third_stream_of_a_node_ends_the_first() -> None:
    world = World()
    first, second, third = world.join(), world.join(), world.join()
    assert isinstance(first.over, Conflict)
    assert second.over is third.over is None
    for view in (first, second, third):
        world.sessions.leave(view)
    assert len(world.sessions) == 0


def test_who_resumes_gets_what_changed() -> None:
    world = World(entry("a"), entry("b"), entry("gone"), entry("moved", "node/n1"), entry("other", "node/n2"))
    seen = world.position
    world.happens(entry("a", hint="1"), e.EntryDeleted("gone"), e.PeersSet("g", ()), entry("a", hint="2"))
    world.happens(
        entry("moved", "node/n2"), entry("other", "node/n2", hint="1"), e.NodeInvited("t", "n9", (), LIVE, START)
    )
    view = world.join(snapshot=False)
    view.mark(world.sessions.missed(view, seen, world.state) or ())
    assert ids(world.take(view)) == (["a"], ["gone", "moved"])  # nothing of what was never its own
    assert world.sessions.missed(view, world.position, world.state) == set()
    assert world.sessions.missed(view, world.position + 1, world.state) is None  # a future that was lost
    assert world.sessions.missed(view, seen - 1, world.state) is None  # before these sessions began


def test_who_resumes_after_this_process_began_anew_gets_what_an_earlier_one_recorded() -> None:
    world = World(entry("a", "node/n1"), entry("b"))
    seen = world.position
    world.happens(entry("b", hint="1"), entry("a", "node/n2"))
    again = Sessions(world.state, world.position, 300)
    view = View("n1", world.state.nodes["n1"].groups, world.position)
    assert again.missed(view, seen, world.state) is None
    again.earlier(world.log[seen - 1 :], seen - 1, world.state)
    assert again.missed(view, seen, world.state) == {("entry", "a"), ("entry", "b")}
    assert again.missed(view, world.position, world.state) == set()
    assert again.missed(view, seen - 2, world.state) is None


def test_a_snapshot_is_sent_when_it_is_the_smaller() -> None:
    world = World(entry("mine"))
    seen = world.position
    world.happens(*(entry(f"e{i}") for i in range(2_000)))
    view = world.join(snapshot=False)
    assert len(world.sessions.missed(view, seen, world.state) or ()) == 2_000
    world.happens(*(e.EntryDeleted(f"e{i}") for i in range(2_000)))
    assert world.sessions.missed(view, seen, world.state) is None
    world.happens(node("n1", "default"))
    assert world.sessions.missed(view, world.position - 1, world.state) is None  # its groups may be others


def test_what_changed_is_kept_for_so_many_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_CHANGES", 3)
    world = World()
    world.happens(*(entry(f"e{i}") for i in range(5)))
    view = world.join(snapshot=False)
    assert world.sessions.missed(view, world.position - 4, world.state) is None
    assert world.sessions.missed(view, world.position - 3, world.state) == {("entry", f"e{i}") for i in (2, 3, 4)}


def test_many_large_entries_come_in_messages_of_bounded_size() -> None:
    large = tuple(f"unix:path:/{i}/{'x' * 900}" for i in range(32))
    world = World(*(entry(f"e{i:03}", selectors=large) for i in range(100)), *(entry(f"s{i:03}") for i in range(450)))
    messages = [m for m in world.take(world.join()) if m.HasField("entries")]
    assert sum(len(m.entries.upsert) for m in messages) == 550
    assert all(m.ByteSize() < MAX_MESSAGE_BYTES + 64 * 1024 for m in messages)
    assert all(len(m.entries.upsert) <= MAX_ENTRIES_PER_MESSAGE for m in messages)
    assert [m.position for m in messages[:-1]] == [0] * (len(messages) - 1)
    assert messages[-1].position == world.position


def authority(id_: str) -> e.AuthorityPrepared:
    return e.AuthorityPrepared(id_, "x509", id_, b"t", b"k", START, START + timedelta(days=3), "")


def activated(id_: str, retires: str = "") -> e.AuthorityActivated:
    return e.AuthorityActivated(id_, "x509", retires, None, False, (), "", START)


def test_what_a_stolen_authority_signed_is_replaced_although_it_left_first() -> None:
    world = World(authority("a"), activated("a"))
    view = world.join()
    world.take(view)
    world.happens(e.AuthorityTainted("a", True, START), e.AuthorityRemoved("a", ""), authority("b"))
    assert [m for m in world.take(view) if m.HasField("reissue")] == []
    world.happens(activated("b"))
    (message,) = [m for m in world.take(view) if m.HasField("reissue")]
    assert list(message.reissue.authorities) == ["a"]
    assert [m for m in world.take(world.join()) if m.HasField("reissue")]


def test_a_bundle_is_withdrawn_when_its_grant_ends() -> None:
    offered = e.GrantOffered("g", TD, "td-b", START, START + timedelta(days=1), "", b"k", 1)
    world = World(offered, e.GrantAccepted("g", b"k", START), e.PeerBundle("td-b", b"k", 1, 1, b"E", 2))
    view = world.join()
    assert any(m.bundle.trust_domain == "td-b" for m in world.take(view))
    world.happens(e.GrantEnded("g", "uid:1", "", START))
    (message,) = world.take(view)
    assert message.bundle_removed.trust_domain == "td-b"


# Presence


def peers() -> ClusterState:
    state = World(
        e.GrantOffered("g", TD, "td-b", START, START + timedelta(days=1), "", b"k", 1),
        e.GrantAccepted("g", b"k", START),
        e.PeerBundle("td-b", b"k", 1, 5, b"E", 2),
    ).state
    return state


def test_levels_are_what_all_live_nodes_hold() -> None:
    state, presence = peers(), Presence()
    assert presence.levels(state, START)["td-b"] == (Level(1, 5), (), 0)
    presence.alive("n1", LIVE)
    presence.alive("n2", LIVE)
    assert presence.levels(state, START) == {}
    assert presence.acknowledges("n1", "td-b", Level(1, 5))
    assert presence.levels(state, START) == {}
    assert presence.acknowledges("n2", "td-b", Level(1, 4))
    assert presence.levels(state, START)["td-b"] == (Level(1, 4), ("n2",), 1)
    assert not presence.acknowledges("n2", "td-b", Level(1, 3))
    presence.gone("n2")
    assert presence.levels(state, START)["td-b"] == (Level(1, 5), (), 0)
    assert presence.levels(state, LIVE)["td-b"] == (Level(1, 5), (), 0)


def test_a_hello_tells_all() -> None:
    presence = Presence()
    presence.alive("n1", LIVE)
    presence.says("n1", [(TD, Level(1, 3))])
    (consumer,) = presence.consumers(TD, START)
    assert (consumer.name, consumer.level, consumer.live_until) == ("node n1", Level(1, 3), LIVE)
    presence.says("n1", [])
    assert presence.consumers(TD, START)[0].level is None
    assert presence.consumers(TD, LIVE) == []


def test_after_a_restart_every_node_that_was_not_banned_may_be_alive() -> None:
    world, presence = World(), Presence()
    world.happens(e.NodeBanned("n2", "x", START))
    presence.load(world.state, LIVE)
    assert [consumer.name for consumer in presence.consumers(TD, START)] == ["node n1"]


@pytest.mark.parametrize("count", [1, 250])
def test_laggards_are_named_up_to_a_hundred(count: int) -> None:
    state, presence = peers(), Presence()
    for number in range(count):
        presence.alive(f"n{number}", LIVE)
        presence.acknowledges(f"n{number}", "td-b", Level(1, 1))
    _, names, behind = presence.levels(state, START)["td-b"]
    assert (len(names), behind) == (min(count, 100), count)
