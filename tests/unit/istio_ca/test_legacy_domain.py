"""A mesh that moves: the old domain's anchor enters as a domain of its own, for a while, and never one of a member."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.foreign_peer import WebCa
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from trustfed.cluster import events as e
from trustfed.cluster.foreign.holdings import Holdings
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.istio_ca import legacy
from trustfed.cluster.state import newest_roots
from trustfed.errors import Conflict, Denied, Invalid, NotFound

DAY, OLD = timedelta(days=1), WebCa().der
NAME = "cluster.local"


class Moving:
    """A cluster whose mesh is on the move."""

    def __init__(self, parts: ClusterParts) -> None:
        self.parts = parts

    async def add(self, name: str = NAME, anchor: bytes = OLD, days: float = 30, reason: str = "it moves") -> None:
        parts, now = self.parts, self.parts.now
        bundle = legacy.bundle_of(parts.state, name, [anchor], now)
        data = await legacy.sign(parts.state, bundle, parts.keys)
        others, until = Holdings().others(parts.state, name, now), now + days * DAY
        id_ = f"legacy-{parts.fold.position}"
        await parts.decide(lambda s: legacy.add(s, bundle, data, others, until, reason, id_, now))

    async def end(self, name: str = NAME) -> None:
        await self.parts.decide(lambda s: legacy.end(s, name, "uid:0", "all moved", self.parts.now))


@pytest_asyncio.fixture
async def moving() -> AsyncIterator[Moving]:
    parts = await ClusterParts.make()
    yield Moving(parts)
    await parts.close()


async def test_the_old_anchor_is_a_bundle_of_its_own(moving: Moving) -> None:
    await moving.add()
    state = moving.parts.state
    assert state.domain is not None
    held = state.peers[NAME]
    bundle = held_envelope(held.envelope, NAME, state.domain.publication_key).bundle
    assert (bundle.trust_domain.name, bundle.x509_authorities) == (NAME, (OLD,))
    own = held_envelope(state.envelope, TD, state.domain.publication_key).bundle
    assert OLD not in own.x509_authorities
    grant = state.imports(moving.parts.now)[NAME]
    assert grant.local
    assert grant.until == moving.parts.now + 30 * DAY
    assert timedelta(seconds=grant.stale_limit) > timedelta(days=legacy.MAX_DAYS)
    assert legacy.mesh_config(state) == f"trustDomain: {TD}\ntrustDomainAliases:\n- {NAME}\n"


async def test_it_ends_by_itself(moving: Moving) -> None:
    await moving.add()
    moving.parts.clock.move((30 * DAY).total_seconds())
    now = moving.parts.now
    assert NAME not in moving.parts.state.imports(now)
    await moving.parts.decide(lambda s: legacy.over(s, now))
    assert not moving.parts.state.istio.legacy
    assert "trustDomainAliases" not in legacy.mesh_config(moving.parts.state)
    assert not legacy.over(moving.parts.state, now)


async def test_it_can_be_ended_and_begun_again(moving: Moving) -> None:
    await moving.add()
    first = moving.parts.state.peers[NAME].sequence
    await moving.end()
    assert NAME not in moving.parts.state.imports(moving.parts.now)
    with pytest.raises(NotFound):
        await moving.end()
    await moving.add()
    assert moving.parts.state.peers[NAME].sequence > first
    with pytest.raises(Conflict, match="believed already"):
        await moving.add()


async def test_a_grant_that_an_operator_ends_ends_it_too(moving: Moving) -> None:
    await moving.add()
    grant = moving.parts.state.istio.legacy[NAME].grant
    await moving.parts.record(e.GrantEnded(grant, "uid:0", "x", moving.parts.now))
    (ended,) = legacy.over(moving.parts.state, moving.parts.now)
    assert getattr(ended, "by", "") == "grant"


async def test_no_name_of_a_member_and_no_key_of_another_domain(moving: Moving) -> None:
    parts = moving.parts
    for name in (TD, parts.state.hub.trust_domain if parts.state.hub else ""):
        with pytest.raises(Denied, match="federation's own"):
            await moving.add(name)
    key = b"k" * 32
    now = parts.now
    await parts.record(e.GrantOffered("g1", TD, "td-b", now, now + DAY, "r", key, 1))
    with pytest.raises(Denied, match="is a member of this federation"):
        await moving.add("td-b")
    own = next(a.twin for a in parts.all() if a.twin)
    with pytest.raises((Denied, Invalid)):
        await moving.add(anchor=own)
    with pytest.raises(Denied, match="one key cannot speak"):
        await moving.add(anchor=newest_roots(parts.state).roots[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"days": 91}, "out of range"),
        ({"days": 0}, "out of range"),
        ({"days": -1}, "out of range"),
        ({"reason": " "}, "needs a reason"),
        ({"name": "Cluster.Local"}, "trust domain"),
        ({"anchor": b"\x30\x00"}, "not a DER certificate"),
        ({"anchor": x509.load_der_x509_certificate(WebCa().server().chain[0]).public_bytes(Encoding.DER)}, "not a CA"),
    ],
)
async def test_what_can_be_no_legacy_anchor(moving: Moving, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        await moving.add(**changes)
    assert not moving.parts.state.istio.legacy


async def test_there_are_few(moving: Moving) -> None:
    for at in range(legacy.MAX_LEGACY):
        await moving.add(f"old-{at}.local", WebCa().der)
    with pytest.raises(Conflict, match="already"):
        await moving.add("old-9.local", WebCa().der)
    bundle = legacy.bundle_of(moving.parts.state, NAME, [OLD], moving.parts.now)
    assert bundle.trust_domain.name == NAME
    with pytest.raises(Invalid, match="legacy anchors"):
        legacy.bundle_of(moving.parts.state, NAME, [], moving.parts.now)
