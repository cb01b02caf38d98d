"""The audit trail searched: who, what, when, from where, what became of it; in pages, within bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.unit.hub.hub_parts import ADMIN, DAY, HubParts
from trustfed.errors import Invalid, NotFound
from trustfed.hub.approvals import DomainRemoval, root_preparation
from trustfed.hub.public import admin_app
from trustfed.journal import audit
from trustfed.journal.audit import Query, look_up, search
from trustfed.journal.events import Event
from trustfed.journal.memory import MemoryJournal
from trustfed.runtime.timestamps import to_ms

START = datetime(2026, 11, 1, tzinfo=UTC)


async def journal_of(count: int, **every: Any) -> MemoryJournal:
    """Events a minute apart: authority.tainted by uid:1 where the position is a multiple of 7, else entry.put by uid:2."""
    journal, batch = MemoryJournal(), list[Event]()
    for position in range(1, count + 1):
        odd = position % 7 == 0
        batch.append(
            Event(
                id=f"e{position}",
                command_id=f"c{position}",
                at=to_ms(START + position * timedelta(minutes=1)),
                actor="uid:1" if odd else "uid:2",
                owner="",
                reason=f"Reason {position}",
                kind="authority.tainted" if odd else "entry.put",
                version=1,
                body={"id": f"a{position}", "blob": "ab" * 2_000, **every},
            )
        )
        if len(batch) == 500 or position == count:
            await journal.append(position - len(batch), batch)
            batch = []
    return journal


async def positions(journal: MemoryJournal, head: int, **query: Any) -> list[int]:
    return [one.position for one in (await search(journal, head, Query(**query))).records]


async def test_newest_first_by_every_field() -> None:
    journal = await journal_of(50)
    assert await positions(journal, 50, limit=3) == [50, 49, 48]
    assert await positions(journal, 50, kind="authority.*") == [49, 42, 35, 28, 21, 14, 7]
    assert await positions(journal, 50, actor="uid:1", before=30) == [28, 21, 14, 7]
    since, until = START + timedelta(minutes=10), START + timedelta(minutes=21)
    assert await positions(journal, 50, actor="uid:?", kind="authority.tainted", since=since, until=until) == [21, 14]
    assert await positions(journal, 50, contains="reason 33") == [33]  # any case
    assert await positions(journal, 50, contains="A34") == [34]
    assert await positions(journal, 50, contains="abab") == []  # certificates and envelopes are no text
    assert await positions(journal, 50, outcome="proposed") == []
    assert len(await positions(journal, 50, outcome="done")) == 50


async def test_pages_join_without_a_gap_and_every_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_SCAN", 1_000)
    monkeypatch.setattr(audit, "MAX_BYTES", 200_000)
    journal, found, before, asked = await journal_of(4_600), list[int](), 0, 0
    while True:
        page = await search(journal, 4_600, Query(kind="authority.tainted", before=before, limit=40))
        assert page.scanned <= 1_000 + 1_000
        assert sum(len(one.canonical) for one in page.records) <= 200_000
        found += [one.position for one in page.records]
        asked += 1
        if page.next is None:
            break
        before = page.next
    assert found == list(range(4_599, 0, -7))
    assert asked > 10


async def test_a_search_ends_where_it_is_long_past() -> None:
    journal = await journal_of(4_600)
    page = await search(journal, 4_600, Query(actor="nobody", since=START + timedelta(minutes=4_500)))
    assert (page.records, page.next) == ([], None)
    assert page.scanned < 4_600


@pytest.mark.parametrize(
    "bad",
    [
        {"outcome": "great"},
        {"limit": 0},
        {"limit": 1_001},
        {"before": -1},
        {"actor": "x" * 200},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001
    ],
)
def test_a_question_that_does_not_fit(bad: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Query(**bad)


async def test_one_event_and_none() -> None:
    journal = await journal_of(3)
    assert (await look_up(journal, 3)).event.id == "e3"
    for position in (0, 4):
        with pytest.raises(NotFound):
            await look_up(journal, position)


@pytest.mark.parametrize(
    ("actor", "door"),
    [
        ("uid:0", "admin socket"),
        ("token:ab", "API"),
        ("uid:1000/alice", "dashboard"),
        ("oidc:ab", "dashboard"),
        ("cluster:west", "stream"),
        ("hub", "inside"),
        ("kubernetes", "inside"),
    ],
)
def test_from_where_somebody_came(actor: str, door: str) -> None:
    assert audit.door_of(actor, "hub") == door


async def test_the_hub_answers_with_who_from_where_and_what_became_of_it() -> None:
    hub = await HubParts.make()
    try:
        await hub.enrolled("west")
        await hub.operations.ask(ADMIN, root_preparation(hub.state), "yearly")
        await hub.alone(DomainRemoval("west", "gone"))
        app = admin_app(hub.parts(), lambda: True)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=("uid:7", 1)), base_url="http://hub"
        ) as client:

            async def get(path: str) -> Any:
                return (await client.get(path)).json()

            found = (await get("/audit?actor=uid:0&contains=WEST&limit=4"))["events"]
            rows = [(one["kind"], one["door"], one["outcome"]) for one in found]
            assert ("glass.broken", "admin socket", "done alone") in rows
            assert ("domain.removed", "admin socket", "done") in rows
            (made,) = (await get("/audit?outcome=proposed"))["events"]
            assert (made["kind"], made["body"]["command"]) == ("proposal.made", "root.prepare")
            assert await get(f"/audit/{made['position']}") == made
            assert (await client.get("/audit/9999")).status_code == 404
            assert (await client.get("/audit?outcome=great")).status_code == 400
            assert (await client.get("/audit?since=soon")).status_code == 400
            future = (hub.clock.now() + DAY).isoformat()
            assert (await client.get("/audit", params={"since": future})).json()["events"] == []
    finally:
        await hub.close()
