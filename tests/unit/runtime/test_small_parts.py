"""Addresses, timestamps, nonces, waiting."""

from __future__ import annotations

import asyncio
import base64
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.clocks import ManualClock
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.runtime import nonces as nonces_module
from trustfed.runtime.addresses import split, split_url
from trustfed.runtime.nonces import LIFE_MS, Nonces
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.runtime.waiting import news_or_time

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8443", ("::1", 8443)), ("hub.example:0", ("hub.example", 0))],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split(address) == expected


@pytest.mark.parametrize("bad", ["", "host", ":80", "host:", "host:-1", "host:65536", "::1:80", "[::1:80", "h:٣"])
def test_what_is_no_address(bad: str) -> None:
    with pytest.raises(Invalid, match="HOST:PORT"):
        split(bad)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h:1/", ("h", 1)),
        ("https://h", ("h", 443)),
        ("https://[::1]", ("::1", 443)),
        ("https://[::1]:7", ("::1", 7)),
    ],
)
def test_urls(url: str, expected: tuple[str, int]) -> None:
    assert split_url(url) == expected


def test_only_https() -> None:
    with pytest.raises(Invalid):
        split_url("http://h:1")


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
    await asyncio.wait_for(waiting, 1)
    assert not news.is_set()
    waiting = asyncio.create_task(news_or_time(news, clock, 60))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await clock.advance(61)
    await asyncio.wait_for(waiting, 1)
