"""Confirmations and bundle endpoints pass through the hub: verified, newest only, in paced batches, to importers alone."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.unit.hub.hub_parts import ADMIN, HubParts, settle
from tests.unit.hub.newcomer import Newcomer
from trustfed.errors import Denied, Invalid
from trustfed.federation import confirmation
from trustfed.federation.envelope import Level
from trustfed.hub import clusters_say, relay
from trustfed.hub.peers import Peers
from trustfed.hub.relay import View
from trustfed.hub.rpc import CONFIRMATIONS_SECONDS, Federation
from trustfed.hub.turns import ENDPOINTS, MESSAGES, SAME_ENVELOPE, Turns, Waiting
from trustfed.proto import federation_pb2 as pb
from trustfed.spiffe.x509svid import X509Svid, parse_leaf


async def confirmed(domain: Newcomer, at: datetime, sequence: int | None = None) -> bytes:
    level = Level(domain.trust_domain, domain.epoch, sequence or domain.sequence)
    (signature,) = await domain.keys.sign("publication", [confirmation.payload_to_sign(level, at)])
    return confirmation.assemble(level, at, signature, domain.key).data


async def joined(hub: HubParts, domain: Newcomer, **hello: Any) -> tuple[View, bool]:
    view = View(domain.trust_domain.name, parse_leaf((await domain.svid()).chain[0]), connected=hub.clock.now())
    snapshot = hub.relay.join(view, pb.ClusterHello(**{"hub_instance": "instance", **hello}), hub.state)
    return view, snapshot


def says(hub: HubParts, domain: Newcomer, data: bytes) -> None:
    said = clusters_say.confirmed(hub.state, domain.trust_domain.name, data, hub.clock.now())
    if said is not None:
        hub.relay.confirm(said, hub.state)


def told(hub: HubParts, view: View) -> list[tuple[str, bytes]]:
    messages = hub.relay.take_confirmed(view, hub.state)
    return [(peer.trust_domain, peer.confirmation) for m in messages for peer in m.confirmations.peers]


async def test_the_newest_goes_to_importers_alone_once_and_byte_for_byte(hub: HubParts) -> None:
    west, east, third = [await hub.enrolled(name) for name in ("west", "east", "third")]
    await hub.granted(east, west)
    (importer, _), (stranger, _) = await joined(hub, east), await joined(hub, third)
    told(hub, importer)
    now = hub.clock.now()
    for seconds in (30, 90, 60):
        says(hub, west, await confirmed(west, now - timedelta(seconds=seconds)))
    newest = await confirmed(west, now)
    says(hub, west, newest)
    assert told(hub, importer) == [("west", newest)]
    assert told(hub, importer) == [] == told(hub, stranger)
    late, _ = await joined(hub, east)
    assert told(hub, late) == [("west", newest)]  # who connects is told at once


async def test_what_the_domain_did_not_sign_or_did_not_sign_about_this_bundle(hub: HubParts) -> None:
    west, forger = await hub.enrolled("west"), await Newcomer.make("west")
    now = hub.clock.now()
    forger.sequence = west.sequence
    with pytest.raises(Denied, match="did not make"):
        clusters_say.confirmed(hub.state, "west", await confirmed(forger, now), now)
    with pytest.raises(Denied, match="not come yet"):
        clusters_say.confirmed(hub.state, "west", await confirmed(west, now + timedelta(hours=1)), now)
    with pytest.raises(Invalid):
        clusters_say.confirmed(hub.state, "west", b"{}", now)
    assert clusters_say.confirmed(hub.state, "west", await confirmed(west, now, west.sequence + 1), now) is None
    assert clusters_say.confirmed(hub.state, "west", await confirmed(west, now), now) is not None


async def test_a_grant_that_ended_ends_the_confirmations(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    grant = await hub.granted(east, west)
    view, _ = await joined(hub, east)
    says(hub, west, await confirmed(west, hub.clock.now()))
    await hub.operations.end(ADMIN, grant, "over")
    await settle()
    assert told(hub, view) == []


async def test_batches_are_paced(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    await hub.granted(east, west)
    view, _ = await joined(hub, east)
    hub.relay.take(view, hub.state)
    says(hub, west, await confirmed(west, hub.clock.now() - timedelta(seconds=3)))
    written: list[pb.FromHub] = []

    class Context:
        async def write(self, message: pb.FromHub) -> None:
            written.append(message)

    door = Federation(hub.operations, hub.relay, None, hub.clock)  # type: ignore[arg-type]
    writing = asyncio.create_task(door._write(view, [], Context()))
    await asyncio.sleep(0.02)
    assert [m.WhichOneof("message") for m in written] == ["confirmations"]
    says(hub, west, await confirmed(west, hub.clock.now()))
    await asyncio.sleep(0.02)
    assert len(written) == 1  # too soon
    hub.clock.move(CONFIRMATIONS_SECONDS)
    view.mark(("stored", ""))
    await asyncio.sleep(0.02)
    assert [m.WhichOneof("message") for m in written] == ["confirmations", "stored", "confirmations"]
    writing.cancel()


async def test_endpoints_are_recorded_once_and_reach_importers_with_the_envelope(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    await hub.granted(east, west)
    view, _ = await joined(hub, east)
    hub.relay.take(view, hub.state)
    seen = hub.state.position
    urls = ["https://west.example:8443", "https://[2001:db8::1]:8443"]
    for _ in range(2):
        await hub.operations.tell_endpoints("west", urls)
    assert hub.state.position == seen + 1
    await settle()
    (message,) = hub.relay.take(view, hub.state)
    assert (message.envelope.trust_domain, list(message.envelope.bundle_endpoints)) == ("west", urls)
    away, _ = await joined(hub, east, position=seen, root_version=1)
    assert ("envelope", "west") in away.pending  # also to who was away


@pytest.mark.parametrize("bad", [["http://x"], ["https://x"] * 9, [f"https://{'x' * 400}"], ["https://a b"]])
async def test_endpoints_that_are_none(hub: HubParts, bad: list[str]) -> None:
    await hub.enrolled("west")
    with pytest.raises(Invalid):
        await hub.operations.tell_endpoints("west", bad)


async def test_after_weeks_apart_the_smaller_of_the_two_is_sent(hub: HubParts, monkeypatch: pytest.MonkeyPatch) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    seen = hub.state.position
    for _ in range(4):
        await hub.operations.end(ADMIN, await hub.granted(east, west), "over")
    await hub.granted(east, west)
    view, snapshot = await joined(hub, east, position=seen, root_version=1)
    assert not snapshot and sum(kind == "grant-ended" for kind, _ in view.pending) == 4
    monkeypatch.setattr(relay, "SNAPSHOT_GAIN", 0)
    view, snapshot = await joined(hub, east, position=seen, root_version=1)
    assert snapshot and view.position == 0
    assert not any(kind == "grant-ended" for kind, _ in view.pending)
    assert ("envelope", "west") in view.pending


# Paces are a domain's, not a stream's


class Hello:
    """A stream that says hello, and then what it is given."""

    def __init__(self, **hello: Any) -> None:
        self.said: asyncio.Queue[pb.FromCluster] = asyncio.Queue()
        self.said.put_nowait(pb.FromCluster(hello=pb.ClusterHello(protocol_min=1, protocol_max=1, **hello)))
        self.written: list[pb.FromHub] = []

    async def read(self) -> pb.FromCluster:
        return await self.said.get()

    async def write(self, message: pb.FromHub) -> None:
        self.written.append(message)

    def peer(self) -> str:
        return "test"

    async def abort(self, code: object, text: str) -> None:
        raise AssertionError(text)


class Door(Federation):
    """The door for clusters, of which each has shown who it is."""

    def __init__(self, hub: HubParts, domain: Newcomer) -> None:
        super().__init__(hub.operations, hub.relay, Peers(lambda: hub.state), hub.clock)
        self.domain, self.svid = domain, b""

    async def opened(self) -> Door:
        self.svid = (await self.domain.svid()).chain[0]
        return self

    def _authenticate(self, context: Any) -> X509Svid:
        return parse_leaf(self.svid)


async def test_other_endpoints_at_every_hello_are_paced_and_the_newest_is_not_lost(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    door, seen = await Door(hub, west).opened(), hub.state.position
    streams: list[asyncio.Task[None]] = []
    for number in range(30):
        hello = Hello(bundle_endpoints=[f"https://west.example:{2000 + number}"])
        streams.append(asyncio.create_task(door._sync(None, hello)))
        await settle()
        if number < 29:
            streams[-1].cancel()
            await asyncio.gather(streams[-1], return_exceptions=True)
    assert hub.state.position == seen + ENDPOINTS[0]
    await hub.clock.advance(ENDPOINTS[1], turns=50)
    assert hub.state.domains["west"].bundle_endpoints == ("https://west.example:2029",)
    assert hub.state.position == seen + ENDPOINTS[0] + 1
    streams[-1].cancel()
    await asyncio.gather(*streams, return_exceptions=True)


async def test_a_new_stream_brings_no_new_burst_of_envelopes(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    door, seen = await Door(hub, west).opened(), hub.state.position
    for _ in range(6):
        hello = Hello()
        for _ in range(5):
            hello.said.put_nowait(pb.FromCluster(envelope=await west.envelope()))
        stream = asyncio.create_task(door._sync(None, hello))
        for _ in range(10):
            await settle()
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
    assert hub.state.position == seen + MESSAGES[0]


async def test_roles_over_one_envelope_are_paced_and_a_new_envelope_passes_at_once(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    turns, taken = Turns(hub.clock), list[bytes]()
    waiting = Waiting(turns, "west")

    async def take(role: pb.Published) -> None:
        taken.append(role.metadata)

    following = asyncio.create_task(waiting.roles(take))
    for number in range(40):
        waiting.put(pb.Published(metadata=b"%d" % number, envelope=b"first"))
        await settle()
    first = [b"%d" % number for number in range(1 + SAME_ENVELOPE[0])]  # one of them is the first over this envelope
    assert taken == first
    waiting.put(pb.Published(metadata=b"new", envelope=b"second"))
    await settle()
    assert taken == [*first, b"new"]  # nobody waits for a taint that stands behind a flood
    waiting.put(pb.Published(metadata=b"late", envelope=b"second"))
    await settle()
    assert taken[-1] == b"new"
    Waiting(turns, "west").put(pb.Published(metadata=b"another stream", envelope=b"second"))
    await hub.clock.advance(SAME_ENVELOPE[1], turns=50)
    assert taken[-1] == b"late" and len(taken) == len(first) + 2
    following.cancel()
    assert west
