"""What is prepared, and when it is made anew: once per rotation, shared by all who ask, and let go with what it was made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.bundles import HeldBundle
from agent.freshness import LIMIT
from agent.matching import Entry
from agent.sds import secrets as module
from agent.sds.config import SdsConfig
from agent.sds.conversations import Conversations, _Stream
from agent.sds.protocol import Incremental
from agent.sds.secrets import Secrets
from agent.store import Store, Svid
from tests.fakes.clocks import ManualClock
from tests.fakes.cluster import Domain
from tests.unit.agent_sds.client import domains
from trustfed.errors import Denied, Unavailable
from trustfed.proto import envoy_pb2 as pb
from trustfed.spiffe.ids import SpiffeId, TrustDomain

NOW = datetime.now(UTC).replace(microsecond=0)
EAST, WEST = Domain("east.test"), Domain("west.test")


def svid(number: int = 1, life: timedelta = timedelta(hours=1)) -> Svid:
    return Svid((b"chain-%d" % number,), b"key-%d" % number, f"{number:032x}", "a1", NOW, NOW + life)


def entry(id_: str, path: str, **more: Any) -> Entry:
    return Entry(id_, SpiffeId(EAST.trust_domain, path), frozenset({"unix:uid:1"}), **more)


class World:
    def __init__(self) -> None:
        self._soon: list[Any] = []
        self.store = Store(EAST.trust_domain, self._soon.append)
        self.secrets = Secrets(self.store, SdsConfig())
        self.store.put_entries([entry("e1", "/web", federates_with=(WEST.trust_domain,)), entry("e2", "/api")])
        for domain in (EAST, WEST):
            self.hold(domain)
        self.store.put_svids({"e1": svid()})
        self.store.mark_synced()
        self.settle()

    def hold(self, domain: Domain, confirmed: datetime = NOW) -> None:
        self.store.put_bundle(HeldBundle(domain.envelope(), domain.publication_key, NOW), confirmed)

    def settle(self) -> None:
        while self._soon:
            self._soon.pop(0)()

    def find(self, name: str, *ids: str, now: datetime = NOW, had: bool = False) -> Any:
        return self.secrets.find(name, ids or ("e1",), now, had=had)

    def domains(self, name: str, *ids: str, now: datetime = NOW, had: bool = False) -> set[str]:
        (resource,) = pb.DiscoveryResponse.FromString(self.find(name, *ids, now=now, had=had).resource).resources
        return set(domains(pb.Secret.FromString(resource.value)))


def test_a_secret_is_made_once_until_it_changes() -> None:
    world = World()
    first, anchors = world.find("default"), world.find("ROOTCA")
    world.store.put_svids({"e2": svid(9)})
    world.hold(WEST)  # confirmed anew
    world.settle()
    assert world.find("default") is first and world.find("ROOTCA").version == anchors.version
    assert first.delta is first.delta
    world.store.put_svids({"e1": svid(2)})
    world.settle()
    second = world.find("default")
    assert second.version != first.version and second.serial == svid(2).serial
    assert b"key-1" not in b"".join(one.resource for one in world.secrets._prepared.values())


def test_versions_are_the_same_in_every_agent() -> None:
    one, two = World(), World()
    for name in ("default", "ROOTCA", "spiffe://west.test"):
        assert one.find(name).version == two.find(name).version
    assert one.find("default").version == one.find("spiffe://east.test/web").version
    assert len({one.find(name).version for name in ("default", "ROOTCA", "spiffe://west.test")}) == 3


def test_what_is_served_no_more_is_not_kept() -> None:
    world = World()
    world.find("default")
    world.store.put_entries((), ["e1"])
    world.settle()
    assert not any(one.entry_id for one in world.secrets._prepared.values())


def test_an_svid_that_has_ended_is_not_given_and_the_next_identity_is_no_substitute() -> None:
    world = World()
    world.store.put_svids({"e2": svid(2)})
    world.settle()
    assert world.find("default", "e1", "e2", now=NOW + timedelta(hours=1)) is None
    assert isinstance(world.secrets.why_not("default", ("e1", "e2")), Unavailable)


def test_each_process_has_the_domains_of_its_own_entries() -> None:
    world = World()
    assert world.domains("ROOTCA") == {"east.test", "west.test"}
    assert world.domains("ROOTCA", "e2") == {"east.test"}
    assert world.find("spiffe://west.test", "e2") is None
    assert isinstance(world.secrets.why_not("spiffe://west.test", ("e2",)), Denied)
    assert world.secrets.find("ROOTCA", (), NOW) is None


def test_a_domain_that_nobody_confirms_is_closed_out() -> None:
    world = World()
    late = NOW + LIMIT + timedelta(seconds=1)
    assert world.domains("ROOTCA", now=late) == {"east.test"}
    assert world.find("spiffe://west.test", now=late) is None
    assert world.domains("spiffe://west.test", now=late, had=True) == {"west.test"}
    nobody = world.find("spiffe://west.test", now=late, had=True)
    assert nobody is world.find("spiffe://west.test", now=late, had=True)
    world.store.confirm(WEST.trust_domain, late, late)
    assert world.find("spiffe://west.test", now=late).version != nobody.version


def test_a_domain_without_authorities_is_left_out() -> None:
    world = World()
    bare = replace(WEST, sequence=2)
    bare.authorities = []
    world.hold(bare)
    assert world.domains("ALL") == {"east.test"} and world.find("spiffe://west.test") is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PREPARED", 2)
    world = World()
    for name in ("default", "ROOTCA", "ALL", "spiffe://west.test", "default"):
        assert world.find(name).name == name
    assert len(world.secrets._prepared) == 2


def test_no_secret_shows_its_key() -> None:
    assert "key" not in repr(World().find("default"))


def test_nothing_is_given_before_the_home_bundle_is_there() -> None:
    store = Store(TrustDomain("east.test"), lambda _: None)
    secrets = Secrets(store, SdsConfig())
    store.put_entries([entry("e1", "/web")])
    assert secrets.find("ROOTCA", ("e1",), NOW) is None
    assert isinstance(secrets.why_not("ROOTCA", ("e1",)), Unavailable)


class _Somebody:
    uid = pid = 1

    def alive(self) -> bool:
        return True


async def test_before_the_first_synchronisation_nothing_is_taken_away() -> None:
    """Who comes back to an agent that has just started is not told that what it holds is gone: nobody knows that yet."""
    store, nobody_asks = Store(EAST.trust_domain, lambda _: None), None
    parts: Any = (store, nobody_asks, SdsConfig(), ManualClock(), nobody_asks)
    somebody: Any = _Somebody()
    stream = _Stream(Conversations(*parts), somebody, Incremental(SdsConfig()), pb.DeltaDiscoveryRequest)
    held = {"default": "v1", "spiffe://west.test": "w1"}
    request = pb.DeltaDiscoveryRequest(resource_names_subscribe=list(held), initial_resource_versions=held)
    stream.hear(request.SerializeToString())
    assert await stream.next() is None and isinstance(stream.missing, Unavailable)
    assert stream.protocol.had("default") and stream.protocol.had("spiffe://west.test")
