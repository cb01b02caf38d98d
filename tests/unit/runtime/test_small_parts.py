"""Timestamps, nonces, waiting, the version."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grpclib.utils import Wrapper
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.clocks import ManualClock
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.runtime import nonces as nonces_module
from trustfed.runtime import waiting as waiting_module
from trustfed.runtime.nonces import LIFE_MS, Nonces
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.runtime.version import VERSION
from trustfed.runtime.waiting import news_or_time, together

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@given(st.integers(0, 253_402_300_799_000))
def test_milliseconds_survive_the_round_trip(at: int) -> None:
    assert to_ms(from_ms(at)) == at


@pytest.mark.parametrize("bad", [-1, 253_402_300_799_001])
def test_times_outside_the_calendar(bad: int) -> None:
    with pytest.raises(Invalid):
        from_ms(bad)


def test_a_nonce_is_spent_once_and_only_here_and_in_time() -> None:
    given_out = Nonces(os.urandom)
    nonce, end = given_out.give(NOW)
    assert end == to_ms(NOW) + LIFE_MS
    with pytest.raises(Denied):
        Nonces(os.urandom).spend(nonce, NOW)
    given_out.spend(nonce, NOW)
    with pytest.raises(Denied):
        given_out.spend(nonce, NOW)
    late, _ = given_out.give(NOW)
    with pytest.raises(Denied):
        given_out.spend(late, NOW + timedelta(milliseconds=LIFE_MS))


def test_another_spelling_of_a_spent_nonce_is_spent() -> None:
    given_out = Nonces(os.urandom)
    nonce, _ = given_out.give(NOW)
    given_out.spend(nonce, NOW)
    other = base64.urlsafe_b64encode(base64.urlsafe_b64decode(nonce)).decode().replace("-", "+").replace("_", "/")
    with pytest.raises(Denied):
        given_out.spend(other, NOW)


@pytest.mark.parametrize("bad", ["", "x", "é", "A" * 10_000, base64.urlsafe_b64encode(b"\xff" * 56).decode()])
def test_what_is_no_nonce(bad: str) -> None:
    with pytest.raises(Denied):
        Nonces(os.urandom).spend(bad, NOW)


def test_a_flood_of_nonces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces_module, "MAX_SPENT", 3)
    given_out = Nonces(os.urandom)
    for _ in range(3):
        given_out.spend(given_out.give(NOW)[0], NOW)
    with pytest.raises(Unavailable):
        given_out.spend(given_out.give(NOW)[0], NOW)
    later = NOW + timedelta(minutes=3)
    given_out.spend(given_out.give(later)[0], later)


async def test_news_come_before_time_and_time_before_no_news() -> None:
    clock, news = ManualClock(), asyncio.Event()
    waiting = asyncio.create_task(news_or_time(news, clock, 60))
    await asyncio.sleep(0)
    news.set()
    await asyncio.wait_for(waiting, 20)
    assert not news.is_set()
    waiting = asyncio.create_task(news_or_time(news, clock, 60))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await clock.advance(61)
    await asyncio.wait_for(waiting, 20)


async def test_together_until_stop_or_the_first_end() -> None:
    ended: list[str] = []

    async def job(name: str, fault: Exception | None = None) -> None:
        try:
            if fault:
                raise fault
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    stop = asyncio.Event()
    running = asyncio.create_task(together([job("a"), job("b")], stop))
    await asyncio.sleep(0.01)
    assert not running.done()
    stop.set()
    await asyncio.wait_for(running, 20)
    assert ended == ["a", "b"]
    with pytest.raises(Unavailable, match="worst"):
        await together([job("c"), job("d", Unavailable("the worst"))], asyncio.Event())
    assert sorted(ended) == ["a", "b", "c", "d"]


async def test_together_within_another_leaves_nobody_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "_AGAIN_SECONDS", 0.01)
    stop, lost, ended = asyncio.Event(), 0, list[str]()

    async def deaf() -> None:
        nonlocal lost
        try:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    lost += 1
                    if lost > 2:
                        raise
        finally:
            ended.append("deaf")

    async def around() -> None:
        try:
            await together([deaf()], asyncio.Event())
        finally:
            ended.append("around")

    running = asyncio.create_task(together([around()], stop))
    await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 20)
    assert ended == ["deaf", "around"]


async def test_together_ends_a_job_in_which_a_cancellation_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "_AGAIN_SECONDS", 0.01)
    stop, tries, broken = asyncio.Event(), 0, Wrapper()

    async def connected() -> None:  # grpclib's way: a stream that breaks now says so, whatever else ends it
        nonlocal tries
        while True:
            tries += 1
            try:
                with broken if tries == 1 else contextlib.nullcontext():
                    await asyncio.Event().wait()
            except ConnectionError:
                continue

    async def breaking() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            broken.cancel(ConnectionError("reset by peer"))

    running = asyncio.create_task(together([breaking(), connected()], stop))
    await asyncio.sleep(0.01)
    stop.set()
    async with asyncio.timeout(20):
        await running
    assert tries == 2


async def test_together_cancelled_leaves_no_job_behind() -> None:
    ended = asyncio.Event()

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(together([job()], asyncio.Event()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


def test_the_version_is_that_of_the_package() -> None:
    with (Path(__file__).parents[3] / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == VERSION
