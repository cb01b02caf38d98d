"""The hub's root sets: bounded in number, bytes and pace. And when those who only poll could have our bundle."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.cluster.cluster_parts import HOUR, ClusterParts
from trustfed.cluster import hub_news
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.state import newest_roots
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.timestamps import to_ms


def news(parts: ClusterParts) -> HubNews:
    return HubNews(parts.fold, lambda: None, lambda who, level: None, parts.clock, parts.registry)


async def say(told: HubNews, *documents: bytes) -> None:
    await told.take(pb.FromHub(root_set=pb.RootSet(documents=documents)))


@pytest.mark.parametrize(("bound", "value"), [("MAX_ROOT_SETS", 3), ("MAX_ROOT_BYTES", 0)])
async def test_root_sets_beyond_the_room_are_refused_and_nodes_still_enrol(
    parts: ClusterParts, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    told = news(parts)
    for _ in range(2):
        await say(told, await parts.hub.next_roots())
    assert not told.refused
    monkeypatch.setattr(hub_news, bound, value or sum(map(len, parts.state.root_documents)))
    before = parts.state.root_documents
    for _ in range(3):
        await say(told, await parts.hub.next_roots())
    assert "beyond" in told.refused["root_set"] or "follow" in told.refused["root_set"]
    assert parts.state.root_documents == before
    _, key = await parts.node()
    assert key.answer["root_documents"] == [document.decode() for document in before]


async def test_root_sets_come_at_a_pace(parts: ClusterParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_news, "ROOT_BURST", 2)
    told = news(parts)
    documents = [await parts.hub.next_roots() for _ in range(4)]
    await say(told, *documents[:2])
    await say(told, documents[2])
    assert "too soon" in told.refused["root_set"]
    assert newest_roots(parts.state).version == 3
    parts.clock.move(HOUR.total_seconds())
    await say(told, documents[2])
    await say(told, documents[3])
    assert newest_roots(parts.state).version == 4
    parts.clock.move(timedelta(hours=1).total_seconds())
    await say(told, *documents)
    assert newest_roots(parts.state).version == 4  # a walk must begin where we are
    await say(told, documents[3])
    assert newest_roots(parts.state).version == 5


async def stored(told: HubNews, parts: ClusterParts, *, publishes: bool = True, at_ms: int = 0, back: int = 0) -> None:
    level = pb.Level(trust_domain="x", epoch=parts.state.level.epoch, sequence=parts.state.level.sequence - back)
    said = pb.EnvelopeStored(level=level, publishes=publishes, published_at_ms=at_ms)
    await told.take(pb.FromHub(stored=said))


async def test_who_only_polls_is_waited_for_until_every_target_has_the_newest(parts: ClusterParts) -> None:
    told, now = news(parts), parts.clock.now()
    assert told.pushed(now) == now  # nothing was said: our own endpoint is all there is
    await stored(told, parts)
    assert told.pushed(now) is None
    earlier = now - timedelta(minutes=1)
    await stored(told, parts, at_ms=to_ms(earlier))
    assert told.pushed(earlier - timedelta(minutes=1)) == earlier
    assert told.pushed(now) == now
    await stored(told, parts, at_ms=to_ms(now), back=1)  # of an older bundle
    assert told.pushed(now) is None
    await stored(told, parts, publishes=False)
    assert told.pushed(now) == now


async def test_a_push_of_the_future_counts_from_now(parts: ClusterParts) -> None:
    told, now = news(parts), parts.clock.now()
    await stored(told, parts, at_ms=to_ms(now + timedelta(days=300)))
    assert told.pushed(now - timedelta(hours=1)) == now
