"""The hub's root sets: bounded in number, bytes and pace."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.cluster.cluster_parts import HOUR, ClusterParts
from trustfed.cluster import hub_news
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.state import newest_roots
from trustfed.proto import federation_pb2 as pb


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
