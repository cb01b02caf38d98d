"""Actions: what they touch is shown first, a reason is kept, orders reach the journal, and CA commands take two people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from bundle_publisher.publish import Publisher
from tests.fakes.targets import MemoryTarget
from tests.unit.hub.hub_parts import HubParts
from tests.unit.hub_dashboard_door.dashboard_house import DashboardHouse
from trustfed.evidence.standing import Authority, Standing
from trustfed.hub.dashboard.actions.catalogue import ACTIONS
from trustfed.hub.evidence.questions import Questions
from trustfed.hub.evidence.session import Sessions as ClusterSessions
from trustfed.hub.publication import Publication
from trustfed.hub.relay import View
from trustfed.journal.events import Event
from trustfed.proto import federation_pb2 as pb
from trustfed.spiffe.x509svid import parse_leaf

KINDS = ("rotate", "republish", "refresh", "quarantine", "prepare", "activate", "taint", "pause", "resume")


def _standing(orders: tuple[str, ...] = KINDS) -> Standing:
    authorities = (
        Authority("x509-1", "x509", "active", "ec-p256", "file", 1, 2, 3),
        Authority(
            "x509-2", "x509", "distributed", "ec-p256", "file", 1, 2, 3, waiting_for=("node/a",), waiting_count=1
        ),
    )
    return Standing(
        "prod-us", 1, nodes=3, nodes_live=2, identities=1234, open_obligations=7, authorities=authorities, orders=orders
    )


async def _journal(house: DashboardHouse) -> list[Event]:
    return [record.event for record in await house.hub.journal.read(0, 1000)]


async def _newest(house: DashboardHouse, kind: str) -> Event:
    return next(event for event in reversed(await _journal(house)) if event.kind == kind)


async def test_an_order_shows_what_it_touches_wants_a_reason_and_is_journalled(peopled: DashboardHouse) -> None:
    house = peopled
    house.fleet.stream("prod-us", True, 1)
    house.fleet.tell_standing("prod-us", _standing())
    await house.enter(house, "operator")
    page = "/actions/rotate?domain=prod-us&entries=e1%20e2"
    shown = await house.get(page)
    assert "1,234" in shown.text and "3, of which 2 are live" in shown.text and "Why" in shown.text
    refused = await house.send(page, "/actions/rotate", reason=" ")
    assert refused.status_code == 400 and "a reason is a line of 3 to 1,024 characters" in refused.text
    assert not house.hub.state.evidence.orders_of("prod-us")
    done = await house.send(page, "/actions/rotate", reason="leaked\r\nkey")
    assert done.status_code == 303
    made = await _newest(house, "order.made")
    assert (made.actor, made.reason) == ("uid:1000/alice", "leaked key")
    (order,) = house.hub.state.evidence.orders_of("prod-us")
    assert msgspec.json.decode(order.made.body) == {"entries": ["e1", "e2"]}
    assert (order.made.kind, order.made.approved_by, order.made.break_glass) == ("rotate", "", False)
    listed = await house.get(done.headers["location"])
    assert "waiting" in listed.text and "leaked key" in listed.text


async def test_what_a_cluster_does_not_take_is_not_ordered(peopled: DashboardHouse) -> None:
    house = peopled
    house.fleet.tell_standing("prod-us", _standing(orders=("refresh",)))
    await house.enter(house, "admin")
    shown = await house.get("/actions/quarantine?domain=prod-us&node=node-1")
    assert "takes no orders of this kind" in shown.text and "This cannot be done now." in shown.text
    form = {"csrf": house.csrf, "domain": "prod-us", "node": "node-1", "reason": "because"}
    assert (await house.post("/actions/quarantine", form)).status_code == 409
    assert not house.hub.state.evidence.orders_of("prod-us")


async def test_a_quarantine_shows_who_loses_what_before_it_is_ordered(peopled: DashboardHouse) -> None:
    house, page = peopled, "/actions/quarantine?domain=prod-us&node=node-1"
    east = await house.hub.enrolled("east")
    await house.hub.granted(east, await house.hub.enrolled("west"))
    house.fleet.know("west", owner="team")
    house.fleet.tell_standing("west", replace(_standing(), trust_domain="west"))
    house.fleet.tell_standing("prod-us", _standing())
    await house.enter(house, "admin")
    shown = await house.get(page)
    assert "What runs there is not known here: this hub asks clusters nothing." in shown.text
    questions, asked = Questions(ClusterSessions(), house.fleet), list[tuple[str, bytes]]()
    object.__setattr__(house.parts, "questions", questions)
    shown = await house.get(page)
    assert "not known here: prod-us is not connected" in shown.text and 'value="do"' in shown.text
    ids = [f"spiffe://west/web-{number}" for number in range(12)]

    async def answer(kind: str, body: bytes) -> bytes:
        asked.append((kind, body))
        return msgspec.json.encode({"certificates": 14, "identities": 12, "spiffe_ids": ids})

    questions.local["west"] = answer
    shown = await house.get(page.replace("prod-us", "west"))
    assert asked == [("node", b'{"node":"node-1"}')]
    assert "12, of 14 certificates" in shown.text and "west, east" in shown.text
    assert "spiffe%3A%2F%2Fwest%2Fweb-9" in shown.text and "web-10" not in shown.text

    for lied in (
        b'{"certificates": "<b>"}',
        b'{"certificates": 1, "identities": 1%s, "spiffe_ids": []}' % (b"0" * 400),
    ):

        async def lie(kind: str, body: bytes, lied: bytes = lied) -> bytes:
            return lied

        questions.local["west"] = lie
        shown = await house.get(page.replace("prod-us", "west"))
        assert "west answered with something else" in shown.text and 'value="do"' in shown.text


async def test_the_hubs_own_domain_is_no_clusters(peopled: DashboardHouse) -> None:
    house = peopled
    house.fleet.know("hub.example", owner="the hub itself")
    await house.enter(house, "admin")
    for kind in ("rotate", "quarantine", "publish", "domain-remove"):
        shown = await house.get(f"/actions/{kind}?domain=hub.example&node=n")
        assert shown.status_code == 200, kind
        form = {"csrf": house.csrf, "domain": "hub.example", "node": "n", "reason": "because"}
        answer = await house.post(f"/actions/{kind}", form)
        assert answer.status_code == 404 and "own trust domain, which has no cluster" in answer.text, kind


async def test_what_moves_an_authority_is_ordered_by_two_people(peopled: DashboardHouse) -> None:
    house, other, same = peopled, peopled.browser(), peopled.browser()
    house.fleet.tell_standing("prod-us", _standing())
    await house.enter(house, "admin", "alice", "uid:1000")
    await house.enter(same, "admin", "bob", "uid:1000")  # another name, and the same person
    await house.enter(other, "admin", "carol", "uid:1001")
    page = "/actions/taint?domain=prod-us&authority=x509-1"
    assert "every identity below it rotates at once" in (await house.get(page)).text
    proposed = await house.send(page, "/actions/taint", reason="its key leaked", how="propose")
    assert proposed.status_code == 303 and not house.hub.state.evidence.orders_of("prod-us")
    proposal = proposed.headers["location"]
    assert "another person approves it" in (await house.get(proposal)).text
    for browser in (house, same):
        shown = house.hub.operations.approvals.found(proposal.rpartition("/")[2])
        form = {"csrf": browser.csrf, "body_hash": shown["body_hash"]}
        refused = await browser.post(f"{proposal}/approve", form)
        assert refused.status_code == 403 and "both are uid:1000" in refused.text
    stale = await other.send(proposal, f"{proposal}/approve", body_hash="sha256:" + "0" * 64)
    assert stale.status_code == 409 and "not what was looked at" in stale.text
    assert (await other.send(proposal, f"{proposal}/approve", body_hash="")).status_code == 409
    assert not house.hub.state.evidence.orders_of("prod-us")
    assert (await other.send(proposal, f"{proposal}/approve")).status_code == 303
    (order,) = house.hub.state.evidence.orders_of("prod-us")
    assert (order.made.kind, msgspec.json.decode(order.made.body)) == ("taint", {"authority": "x509-1"})
    assert (order.made.proposed_by, order.made.approved_by) == ("uid:1000/alice", "uid:1001/carol")
    assert order.made.reason == "its key leaked" and not order.made.break_glass
    assert "approved" in (await house.get(proposal)).text


async def test_a_root_is_prepared_by_two_people_and_a_no_ends_it(house: DashboardHouse) -> None:
    other = house.browser()
    await house.enter(house, "admin", "alice", "uid:1000")
    await house.enter(other, "admin", "carol", "uid:1001")
    proposed = await house.send("/actions/root-prepare", "/actions/root-prepare", reason="yearly", how="propose")
    proposal = proposed.headers["location"]
    assert (await other.send(proposal, f"{proposal}/withdraw", reason="not today")).status_code == 303
    assert len(house.hub.state.roots) == 1
    again = await house.send("/actions/root-prepare", "/actions/root-prepare", reason="yearly", how="propose")
    proposal = again.headers["location"]
    assert "1 proposal" in (await other.get("/proposals")).text
    assert (await other.send(proposal, f"{proposal}/approve")).status_code == 303
    assert len(house.hub.state.roots) == 2
    blocked = await house.get("/actions/root-prepare")
    assert "This cannot be done now." in blocked.text


async def test_breaking_the_glass_needs_the_words_and_a_long_reason(peopled: DashboardHouse) -> None:
    house = peopled
    house.fleet.tell_standing("prod-us", _standing())
    await house.enter(house, "admin")
    page, form = "/actions/taint?domain=prod-us&authority=x509-1", "/actions/taint"
    for words, reason in (("", "the key is stolen"), ("yes", "the key is stolen"), ("break the glass", "short")):
        answer = await house.send(page, form, how="glass", confirmation=words, reason=reason)
        assert answer.status_code == 400, (words, reason)
    assert not house.hub.state.evidence.orders_of("prod-us")
    done = await house.send(page, form, how="glass", confirmation="Break the glass", reason="the key is stolen")
    assert done.status_code == 303
    (order,) = house.hub.state.evidence.orders_of("prod-us")
    assert order.made.break_glass and (order.made.proposed_by, order.made.approved_by) == ("uid:1000/alice", "")
    assert (await _newest(house, "glass.broken")).actor == "uid:1000/alice"
    assert "glass broken" in (await house.get("/proposals")).text
    once = "/actions/refresh?domain=prod-us"
    answer = await house.send(
        once, "/actions/refresh", how="glass", confirmation="break the glass", reason="because so"
    )
    assert answer.status_code == 403


async def test_exceptions_are_for_a_time_and_change_nothing_else(peopled: DashboardHouse) -> None:
    house, reader = peopled, peopled.browser()
    await house.enter(house, "operator")
    await house.enter(reader, "auditor", "kpmg")
    page = "/actions/exception?domain=prod-us&subject=spiffe://prod-us/old&life=24h"
    assert "It changes no figure" in (await house.get(page)).text
    assert (await house.send(page, "/actions/exception", reason="is replaced on Monday")).status_code == 303
    made = await _newest(house, "evidence.exception")
    assert made.reason == "is replaced on Monday" and made.actor == "uid:1000/alice"
    (held,) = house.hub.state.dashboard.exceptions.values()
    shown = await reader.get("/exceptions")
    assert "is replaced on Monday" in shown.text and "/end" not in shown.text
    assert (await house.send("/exceptions", f"/exceptions/{held.id}/end", reason="done")).status_code == 303
    assert not len(house.hub.state.dashboard.exceptions)
    assert (await _newest(house, "evidence.exception_ended")).reason == "done"
    await house.send(page, "/actions/exception", reason="once more")
    house.clock.move(86_401)
    await house.enter(house, "operator")
    await house.send(page, "/actions/exception", reason="and again")
    assert len(house.hub.state.dashboard.exceptions) == 1  # what is over leaves with the next one


async def test_the_owner_changes_and_hostile_ones_are_inert(peopled: DashboardHouse) -> None:
    house = peopled
    await house.enter(house, "admin")
    hostile = '<b onmouseover="x">team</b>'
    done = await house.send(
        f"/actions/owner?domain=prod-us&owner={hostile.replace('<', '%3C').replace(' ', '+')}",
        "/actions/owner",
        reason="moved",
        owner=hostile,
    )
    assert done.status_code == 303 and house.hub.state.domains["prod-us"].owner == hostile
    assert (await _newest(house, "domain.owner_changed")).reason == "moved"
    page = (await house.get("/actions/repush?domain=prod-us")).text
    assert "<b onmouseover" not in page and "&lt;b onmouseover" in page
    for owner in ("", "x" * 257, "a\u202eb", "a\nb"):
        answer = await house.client.get("/dashboard/actions/owner", params={"domain": "prod-us", "owner": owner})
        assert "Do it" not in answer.text, owner


async def test_pushing_again_needs_a_stream_and_publishing_a_target(peopled: DashboardHouse) -> None:
    await peopled.enter(peopled, "operator")
    for kind, why in (("repush", "is not connected"), ("publish", "publishes to no target")):
        page = await peopled.get(f"/actions/{kind}?domain=prod-us")
        assert why in page.text and "Do it" not in page.text


async def test_a_connected_cluster_is_sent_everything_once_more(house: DashboardHouse) -> None:
    west, east = await house.hub.enrolled("west"), await house.hub.enrolled("east")
    await house.hub.granted(east, west)
    view = View("east", parse_leaf((await east.svid()).chain[0]), connected=house.clock.now())
    house.hub.relay.join(view, pb.ClusterHello(hub_instance="instance"), house.hub.state)
    house.hub.relay.take(view, house.hub.state)
    assert not view.pending
    await house.enter(house, "operator")
    done = await house.send("/actions/repush?domain=east", "/actions/repush", reason="it says it lacks one")
    assert done.status_code == 303 and ("envelope", "west") in view.pending
    assert "Push again: done" in (await house.get(done.headers["location"])).text
    taken = await _newest(house, "action.taken")
    assert (taken.actor, taken.reason) == ("uid:1000/alice", "it says it lacks one")
    assert taken.body == {"kind": "repush", "domain": "east"}


async def test_a_bundle_is_brought_to_every_target_once_more() -> None:
    hub, target = await HubParts.make(), MemoryTarget()
    hub.publication = Publication(Publisher({"plain": target}, hub.clock, lambda: 0.5), hub.manifests)
    house = DashboardHouse(hub, ())
    await hub.enrolled("west")
    publishing = asyncio.create_task(hub.publication._publisher.run())  # type: ignore[union-attr]
    await _until(lambda: "bundles/west" in target.held)
    target.held.clear()  # somebody deleted it there
    await house.enter(house, "operator")
    done = await house.send("/actions/publish?domain=west", "/actions/publish", reason="it was deleted")
    assert done.status_code == 303
    await _until(lambda: "bundles/west" in target.held)
    publishing.cancel()
    await house.close()


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def test_every_action_asks_checks_and_says_why(peopled: DashboardHouse) -> None:
    peopled.fleet.tell_standing("prod-us", _standing())
    await peopled.enter(peopled, "admin")
    hostile, csrf = "<script>alert(1)</script>\u202e", peopled.csrf
    for action in ACTIONS:
        kind = action.kind
        assert (await peopled.get(f"/actions/{kind}")).status_code == 200, kind
        fields = {field.name: hostile for field in action.fields}
        page = await peopled.client.get(f"/dashboard/actions/{kind}", params=fields)
        assert page.status_code == 200 and "<script>alert" not in page.text, kind
        if fields:
            sent = await peopled.post(f"/actions/{kind}", {**fields, "csrf": csrf, "reason": "because"})
            assert sent.status_code in (400, 404, 409) and "<script>alert" not in sent.text, kind
        position = peopled.hub.state.position
        unreasoned = await peopled.post(f"/actions/{kind}", {"csrf": csrf, "domain": "prod-us", "reason": hostile})
        assert unreasoned.status_code in (400, 409), kind
        assert peopled.hub.state.position == position, kind
