"""Foreign peers as operators see them: terms, settings, who is followed when, and who reads our own bundle."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from ca.lifecycle import Level
from tests.fakes.cluster import Domain
from tests.fakes.foreign_peer import ForeignPeer, http
from tests.fakes.waiting import until
from tests.unit.cluster.cluster_parts import TD
from tests.unit.cluster.foreign_house import CA, CONFIG, DAY, TDF, House, watch_of
from trustfed.cluster import events as e
from trustfed.cluster import grants
from trustfed.cluster.foreign.commands import SPIFFE, WEB, Settings
from trustfed.cluster.foreign.config import ForeignConfig
from trustfed.cluster.foreign.course import Course
from trustfed.cluster.foreign.readers import MAX_READERS, Readers
from trustfed.cluster.foreign.workers import Workers
from trustfed.cluster.hub_news import HubNews
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.metrics import Registry

# The grant


async def test_the_hub_neither_ends_nor_hears_of_a_local_grant(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    await house.peers.refresh(TDF)
    state, now = house.parts.state, house.parts.now
    (grant,) = state.grants.values()
    assert grant.local and not grant.confirmed
    news = HubNews(house.parts.fold, lambda: None, lambda *_: None, house.parts.clock, Registry())
    news.begin(snapshot=True)
    await news.take(pb.FromHub(snapshot_end=pb.SnapshotEnd()))
    assert house.parts.state.grants[grant.id].state == "accepted"
    said = pb.Grant(id=grant.id, importer=TD, exporter=TDF, state="ended", exporter_publication_key=b"x")
    with pytest.raises(Denied, match="alone"):
        grants.heard(house.parts.state, said, 9, now)
    house.parts.presence.alive("n1", now + DAY)
    house.parts.presence.says("n1", [(TDF, Level(1, house.parts.state.peers[TDF].sequence))])
    assert house.parts.presence.levels(house.parts.state, now) == {}
    with pytest.raises(Conflict, match="foreign"):
        grants.repin(house.parts.state, grant.id, house.domain_key, "")


async def test_a_member_of_the_federation_is_no_foreign_peer_and_the_reverse(house: House, web: ForeignPeer) -> None:
    from tests.unit.hub.newcomer import Newcomer
    from trustfed.federation.envelope import PublicationKey

    member, now = await Newcomer.make(TDF), house.parts.now
    offered = e.GrantOffered("g1", TD, TDF, now, now + DAY, "why", member.key.spki, 3)
    await house.parts.record(offered)
    await house.add_web(web)
    print_ = PublicationKey(member.key.spki).fingerprint
    with pytest.raises(Conflict, match="foreign peer already"):
        grants.accept(house.parts.state, "g1", print_, now)
    await house.remove()
    await house.parts.decide(lambda s: grants.accept(s, "g1", print_, now))
    with pytest.raises(Conflict, match="is a member"):
        await house.add_web(web)


async def test_removing_ends_the_grant_and_what_was_held_is_not_handed_out_again(
    house: House, spiffe: ForeignPeer
) -> None:
    await house.add_spiffe(spiffe)
    await house.peers.refresh(TDF)
    last = house.parts.state.peers[TDF].sequence
    await house.remove()
    assert TDF not in house.parts.state.imports(house.parts.now) and TDF not in house.parts.state.foreign
    with pytest.raises(NotFound):
        await house.peers.refresh(TDF)
    await house.add_spiffe(spiffe)
    assert TDF not in house.parts.state.peers
    house.parts.clock.move(1)
    await house.peers.refresh(TDF)
    assert house.parts.state.peers[TDF].sequence > last


async def test_a_grant_that_ended_by_itself_is_renewed_by_adding_the_peer_again(
    house: House, spiffe: ForeignPeer
) -> None:
    await house.add_spiffe(spiffe)
    await house.peers.refresh(TDF)
    (grant,) = house.parts.state.grants.values()
    await house.parts.record(e.GrantEnded(grant.id, "time", "its time is over", house.parts.now))
    with pytest.raises(Conflict, match="has ended"):
        await house.peers.refresh(TDF)
    with pytest.raises(Invalid, match="nothing is held"):  # its old bundle is not believed any more
        await house.add_spiffe(spiffe, bundle=b"")
    await house.add_spiffe(spiffe)
    assert TDF not in house.parts.state.peers
    house.parts.clock.move(1)
    await house.peers.refresh(TDF)


async def test_settings_change_without_a_gap(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    await house.peers.refresh(TDF)
    before, at = house.bundle, house.parts.fold.position
    await house.add_web(web)  # the same again
    assert house.parts.fold.position == at
    await house.add_web(web, readers=("198.51.100.0/24",))
    assert house.bundle == before and house.peer.readers == ("198.51.100.0/24",) and house.peer.keys
    await house.add(Settings(TDF, WEB, web.url, ca=(CA.der,)), until=2 * DAY)
    states = sorted(grant.state for grant in house.parts.state.grants.values())
    assert states == ["accepted", "ended"] and house.bundle == before
    await house.peers.refresh(TDF)


@pytest.mark.parametrize(
    "given",
    [
        Settings(TD, WEB, "https://t.example/"),
        Settings("trustfed.example", WEB, "http://t.example/"),
        Settings(TDF, WEB, "https://t.example:22/"),
        Settings(TDF, WEB, "https://t.example/", endpoint_id="spiffe://td-f/x"),
        Settings(TDF, WEB, "https://t.example/", ca=(Domain(TDF).publication_key.spki,)),
        Settings(TDF, "https_other", "https://t.example/"),
        Settings(TDF, SPIFFE, "https://t.example/"),
        Settings(TDF, SPIFFE, "https://t.example/", endpoint_id="spiffe://td-f"),
        Settings(TDF, SPIFFE, "https://t.example/", endpoint_id="spiffe://td-f/x"),
        Settings(TDF, SPIFFE, "https://t.example/", endpoint_id="spiffe://td-f/x", bundle=b"{}"),
        Settings(TDF, SPIFFE, "https://t.example/", endpoint_id="spiffe://td-f/x", bundle=b'{"keys":[]}'),
        Settings(TDF, SPIFFE, "https://t.example/", "spiffe://td-f/x", bundle=Domain("td-g").bundle().marshal()),
        Settings(TDF, SPIFFE, "https://t.example/", endpoint_id="spiffe://td-f/x", ca=(CA.der,)),
        Settings(TDF, WEB, "https://t.example/", readers=("10.0.0.1/8",)),
        Settings(TDF, WEB, "https://t.example/", readers=("10.0.0.0/8",) * 17),
        Settings("UPPER", WEB, "https://t.example/"),
    ],
)
async def test_settings_that_make_no_sense_are_refused(house: House, given: Settings) -> None:
    with pytest.raises(Invalid):
        await house.add(given)
    assert not house.parts.state.foreign and not house.parts.state.grants


async def test_terms_that_make_no_sense_are_refused(house: House) -> None:
    good = Settings(TDF, WEB, "https://t.example/")
    for ends, reason in ((timedelta(0), "why"), (DAY, " "), (DAY, "x" * 1025)):
        with pytest.raises(Invalid):
            await house.add(good, ends, reason)


def test_configuration_is_checked() -> None:
    assert not CONFIG.reach().check("127.0.0.1").is_global
    for bad in ({"allow_addresses": ("x",)}, {"timeout": DAY}, {"least_refresh": timedelta(0)}):
        with pytest.raises(Invalid):
            ForeignConfig(**bad)


# Followed


async def test_peers_are_followed_by_their_hint_and_after_failures(house: House, web: ForeignPeer) -> None:
    course = house.peers.course(TDF)
    async with house.following():
        await house.add_web(web)
        await until(lambda: TDF in house.parts.state.peers and course.next_at)
        wait = (house.peers.course(TDF).next_at - house.parts.now).total_seconds()  # type: ignore[operator]
        assert 15 <= wait <= 18  # 0.2 to 0.3 of the hint, and no less than 15 s
        web.rotate()
        await house.parts.clock.advance(19)
        await until(lambda: house.peer.sequence == 2)
        web.says(http(b"", "500 No"))
        await until(lambda: house.peers.course(TDF).turn.locked() is False)
        await house.parts.clock.advance(19)
        await until(lambda: house.peers.course(TDF).failures == 1)
        web.answer = web.good
        await house.parts.clock.advance(20)
        await until(lambda: house.peers.course(TDF).failures == 0)
        await house.remove()
        await asyncio.sleep(0.02)
        asked = len(web.asked)
        await house.parts.clock.advance(600)
        assert len(web.asked) == asked
    again = house.make()  # another process: what was confirmed is not forgotten
    assert again.course(TDF).fetched_at is None


async def test_another_process_begins_with_what_was_confirmed_last(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    await house.peers.refresh(TDF)
    at = house.peer.accepted_at
    house.confirmed.clear()
    web.says(http(b"", "500 No"))
    house.parts.clock.move(3600)
    house.peers = house.make()
    async with house.following():
        await asyncio.sleep(0.02)
    assert house.confirmed == [(TDF, at)]


def test_waits_are_bounded_whatever_the_hint_and_chance() -> None:
    from tests.unit.cluster.test_foreign_rules import peer

    course = Course()
    for hint in (1, 60, 3600):
        for chance in (0.0, 1.0):
            assert 15 <= course.wait(peer(refresh_hint=hint), 15, chance) <= max(15, 0.3001 * hint)
    for failures in range(1, 40):
        course.failures = failures
        assert 15 <= course.wait(peer(refresh_hint=300), 15, 1.0) <= 300


# Readers of ours


async def test_a_peer_that_reads_our_bundle_no_longer_is_alarmed(house: House, web: ForeignPeer) -> None:
    await house.add_web(web, readers=("198.51.100.0/24",))
    readers = Readers(house.parts.now)
    watch, clock = watch_of(house, readers), house.parts.clock

    def overdue() -> bool:
        watch.look()
        shown = f'cluster_foreign_reader_overdue{{trust_domain="{TDF}"}} 1' in house.registry.exposition().decode()
        assert watch.status(house.peer)["reader_overdue"] is shown
        return bool(shown)

    assert not overdue()
    clock.move(181)
    assert overdue()
    readers.saw("203.0.113.1", "https_web", "bundle", (1, 1), clock.now())  # somebody else
    readers.saw("198.51.100.7", "https_web", "envelope", (1, 1), clock.now())  # not the bundle
    assert overdue()
    readers.saw("198.51.100.7", "https_web", "bundle", (1, 4), clock.now())
    assert not overdue()
    assert watch.status(house.peer)["reader"]["level"] == {"epoch": 1, "sequence": 4}
    for number in range(MAX_READERS + 10):  # a flood does not hide who was seen
        readers.saw(f"203.0.{number // 256}.{number % 256}", "https_web", "bundle", (1, 4), clock.now())
    clock.move(100)
    assert not overdue() and len(watch.readers()) == MAX_READERS
    clock.move(100)
    assert overdue()
    await house.remove()
    watch.look()
    assert TDF not in house.registry.exposition().decode()


def test_readers_are_counted_by_address_and_the_table_is_bounded() -> None:
    from tests.fakes.clocks import START

    readers = Readers(START)
    for number in range(MAX_READERS + 5):
        readers.saw(f"10.0.{number // 256}.{number % 256}", "https_web", "bundle", (1, number), START)
    readers.saw("10.0.3.3", "https_web", "bundle", (1, 9), START + DAY)
    newest = readers.all()[0]
    assert (len(readers.all()), newest.count, newest.sequence) == (MAX_READERS, 2, 9)
    assert readers.latest({"x": ["198.51.100.0/24", "10.0.0.0/24"]})["x"].address == "10.0.0.255"
    readers.saw("::ffff:192.0.2.1", "https_web", "bundle", (1, 9), START)
    assert set(readers.latest({"x": ["192.0.2.0/24"], "y": ["0.0.0.0/0"], "z": ["::/0"]})) == {"x", "y"}
    readers.saw("", "https_web", "bundle", (1, 9), START)
    assert readers.latest({"x": ["198.51.100.0/24"]}) == {}


def test_a_network_of_ipv6_is_one_reader_and_peers_are_looked_up_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes.clocks import START

    readers = Readers(START)
    readers.saw("2001:db8:1::7", "https_web", "bundle", (1, 1), START)
    for number in range(500):
        readers.saw(f"2001:db8:2::{number:x}", "https_web", "bundle", (1, 1), START)
    assert len(readers.all()) == 2 and readers.all()[0].count == 500
    found = readers.latest({"one": ["2001:db8:1::7/128"], "all": ["2001:db8::/32"], "none": ["2001:db8:3::/48"]})
    assert {name: reader.address for name, reader in found.items()} == {
        "one": "2001:db8:1::7",
        "all": "2001:db8:2::1f3",
    }
    for number in range(MAX_READERS):
        readers.saw(f"10.1.{number // 256}.{number % 256}", "https_web", "bundle", (1, 1), START)
    asked = {f"x{number}": [f"198.51.{number}.0/24", f"2001:db8:{number:x}::/48"] for number in range(200)}
    readers.latest(asked)
    parsed: list[str] = []
    monkeypatch.setattr("trustfed.cluster.foreign.readers.ipaddress.ip_address", parsed.append)
    began = time.perf_counter()
    assert readers.latest(asked) == {}
    assert time.perf_counter() - began < 0.1  # it was more than a second, every five seconds
    assert parsed == []


async def test_slow_work_is_bounded_and_holds_up_no_end() -> None:
    workers, gate = Workers(1, "test"), threading.Event()
    slow, next_ = asyncio.create_task(workers.run(gate.wait)), asyncio.create_task(workers.run(lambda: 7))
    await asyncio.sleep(0.02)
    assert not next_.done()
    slow.cancel()
    assert await next_ == 7  # the thread that was left behind is a daemon
    gate.set()
    with pytest.raises(Denied):
        await workers.run(lambda: (_ for _ in ()).throw(Denied("no")))
