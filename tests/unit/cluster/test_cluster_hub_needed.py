"""By when the hub must be back, at any moment at which it may go away; and what goes on without it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from ca.lifecycle import Consumer, Kind, Status
from tests.unit.cluster.cluster_parts import HOUR, MINUTE, ClusterParts
from trustfed.cluster import authority_commands as commands
from trustfed.cluster import events as e
from trustfed.cluster.config import Policy
from trustfed.cluster.hub_needed import HubAlarm, alarm, hub_needed_by
from trustfed.cluster.hub_news import HubNews
from trustfed.runtime.metrics import Registry

DAY = timedelta(days=1)
LEAST = timedelta(hours=29, minutes=50)
"""What the default policy promises: three quarters of 72 h, less the longest SVID and the margin."""


def needed(parts: ClusterParts) -> datetime:
    at = hub_needed_by(parts.state, parts.authorities.lifecycle_policy(), parts.now)
    assert at is not None
    return at


def holds(parts: ClusterParts) -> Consumer:
    return Consumer("node n1", parts.level(), parts.now + 100 * HOUR)


async def passes(parts: ClusterParts, period: timedelta, *, hub: bool) -> None:
    """Let time pass in steps of an hour; agents keep up, and the hub signs if it is there."""
    end = parts.now + period
    while parts.now < end:
        await parts.round(holds(parts), at=min(HOUR, end - parts.now))
        if hub:
            for authority in [a for a in parts.all() if commands.uncertified(a)]:
                await parts.authorities.certify_one(authority, parts)
        await parts.round(holds(parts))


@pytest.mark.parametrize("gone_after", [timedelta(0), 17 * HOUR, 19 * HOUR, 37 * HOUR, 53 * HOUR, 100 * HOUR])
async def test_whenever_the_hub_goes_the_next_authority_is_ready(parts: ClusterParts, gone_after: timedelta) -> None:
    await passes(parts, gone_after, hub=True)
    at = needed(parts)
    assert at - parts.now >= LEAST
    if gone_after > 18 * HOUR:
        standby = parts.one(Kind.X509, Status.PREPARED)
        assert standby.intermediate and standby.first_level is not None and standby.id in parts.state.carries
    await passes(parts, at - parts.now - MINUTE, hub=False)
    active = parts.one(Kind.X509, Status.ACTIVE)
    assert active.intermediate, "only what the root signed has signed so far"
    assert needed(parts) == at
    await passes(parts, 2 * MINUTE, hub=False)
    assert not parts.one(Kind.X509, Status.ACTIVE).intermediate, "it goes on, and says since when it should not"
    assert needed(parts) <= parts.now
    forced = [r.event.body for r in await parts.journal.read(0, 1000) if r.event.kind == "authority.activated"][-1]
    assert forced["forced"] and forced["missing"][0].startswith("root (")
    await passes(parts, HOUR, hub=True)
    assert needed(parts) - parts.now >= LEAST - HOUR


async def test_without_the_hub_a_standby_takes_over_when_it_is_tainted(parts: ClusterParts) -> None:
    await passes(parts, 20 * HOUR, hub=True)
    active, standby = parts.one(Kind.X509, Status.ACTIVE), parts.one(Kind.X509, Status.PREPARED)
    await parts.decide(lambda s: commands.taint(s, active.id, False, parts.now))
    await parts.round(holds(parts))
    assert parts.one(Kind.X509, Status.ACTIVE).id == standby.id


async def test_what_importers_acknowledged_is_known_to_a_process_that_begins_without_the_hub(
    parts: ClusterParts,
) -> None:
    await parts.record(
        e.GrantOffered("g", "td-b", "td-a", parts.now, parts.now + 300 * DAY, "", b"k", 1), e.GrantConfirmed("g", 2)
    )
    await passes(parts, 20 * HOUR, hub=True)
    standby = parts.one(Kind.X509, Status.PREPARED)
    assert parts.state.held == standby.first_level
    again = await parts.restart()
    news = HubNews(again.fold, lambda: None, lambda who, level: None, again.clock, Registry())
    for _ in range(17):
        await again.round(holds(again), *news.consumers(again.state, None, again.now), at=HOUR)
    events = [r.event.body for r in await again.journal.read(0, 1000) if r.event.kind == "authority.activated"]
    assert [(event["id"], event["forced"]) for event in events if event["id"] == standby.id] == [(standby.id, False)]
    (importer,) = news.consumers(again.state, again.now, again.now)
    assert importer.level is None  # a hub that is there must say it anew
    await again.close()


async def test_an_intermediate_that_ends_first_counts(parts: ClusterParts) -> None:
    made = await ClusterParts.make(policy=Policy(authority_ttl=30 * DAY))
    first = made.one(Kind.X509, Status.ACTIVE)
    end = made.now + 2 * DAY
    await made.record(e.AuthorityCertified(first.id, first.intermediate, end))
    assert needed(made) == end - made.policy.safety_margin
    await made.close()


async def test_before_there_is_an_authority_nothing_is_known() -> None:
    made = await ClusterParts.make(enrolled=False)
    assert hub_needed_by(made.state, made.authorities.lifecycle_policy(), made.now) is None
    await made.close()


def test_alarm_at_half_near_and_over() -> None:
    since = datetime.fromisoformat("2026-03-01T00:00:00Z")
    at = since + 10 * HOUR
    said = [alarm(since, at, since + hours * HOUR) for hours in (0, 4.9, 5, 8.9, 9, 9.9, 10, 99)]
    assert said == ["", "", "warning", "warning", "error", "error", "over", "over"]


async def test_the_alarm_is_said_once_per_step_and_ends_with_the_hubs_return(
    parts: ClusterParts, caplog: pytest.LogCaptureFixture
) -> None:
    connected: list[datetime | None] = [parts.now]
    made = HubAlarm(lambda: parts.state, parts.authorities.lifecycle_policy(), lambda: connected[0], parts.clock)
    running = asyncio.create_task(made.run())
    await parts.clock.advance(3600)
    assert made.status()["alarm"] is None
    connected[0] = None
    made.look()
    left = (needed(parts) - parts.now).total_seconds()
    assert made.status()["needed_in_seconds"] == left
    await parts.clock.advance(left + 60)
    assert made.status()["alarm"] == "over"
    said = [(r.levelname, r.message) for r in caplog.records if "hub is away" in r.message]
    assert [level for level, _ in said] == ["WARNING", "ERROR", "ERROR"]
    connected[0] = parts.now
    made.look()
    await parts.clock.advance(1)
    assert made.status()["alarm"] is None
    running.cancel()
