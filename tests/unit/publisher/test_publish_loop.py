"""The publishing loop: newest wins, never backwards, failures delay only themselves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from bundle_publisher.documents import MAP, bundle_document, bundle_map, bundle_name, check_continues, progress
from bundle_publisher.one_target import AT_ONCE, LONGEST_PAUSE
from bundle_publisher.publish import Make, Publisher, Status
from bundle_publisher.targets.directory import DirectoryTarget
from bundle_publisher.targets.port import Document, Target
from tests.fakes.clocks import ManualClock
from tests.fakes.targets import MemoryTarget
from tests.fakes.waiting import until
from trustfed.errors import Denied, Unavailable
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import TrustDomain

WEST, EAST = TrustDomain("west"), TrustDomain("east")


class Loop:
    """A running publisher on a misbehaving target, in the hands of a test."""

    def __init__(self, two: bool = False) -> None:
        self.target, self.other, self.clock = MemoryTarget(), MemoryTarget(), ManualClock()
        targets = {"one": self.target, "two": self.other} if two else {"one": self.target}
        # Full jitter at its longest: pauses are then exactly as long as named.
        self.publisher = Publisher(targets, self.clock, lambda: 1.0)
        self.running = asyncio.create_task(self.publisher.run())

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let everything run until this holds; threads take real time, a little."""
        await until(holds, self.publisher.status)

    def status(self, name: str, target: str = "one") -> Status:
        found = {(status.target, status.name): status for status in self.publisher.status()}
        return found.get((target, name), Status(target, name))

    def published(self, name: str, target: str = "one") -> bool:
        status = self.status(name, target)
        return status.wanted is None and status.published is not None

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@pytest_asyncio.fixture
async def loop() -> AsyncIterator[Loop]:
    made = Loop()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Loop]:
    made = Loop(two=True)
    yield made
    await made.close()


def _document(sequence: int, name: TrustDomain = WEST, hint: int = 60) -> Document:
    bundle = Bundle(name, sequence=sequence, refresh_hint=hint)
    return bundle_document(bundle, bundle.marshal())


def _make(sequence: int, name: TrustDomain = WEST) -> Make:
    return lambda: _document(sequence, name)


async def test_what_is_wanted_is_published_and_its_time_is_told(loop: Loop) -> None:
    loop.publisher.want("bundles/west", _make(1))
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.target.held["bundles/west"].data == _document(1).data
    assert loop.status("bundles/west").published == loop.clock.now()


async def test_a_burst_of_changes_is_written_as_one(loop: Loop) -> None:
    loop.target.hold()
    for sequence in range(1, 200):
        loop.publisher.want("bundles/west", _make(sequence))
    await asyncio.sleep(0.01)
    loop.target.release()
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.target.held["bundles/west"].data == _document(199).data
    assert loop.target.writes <= 2


async def test_a_failure_is_tried_again_with_growing_pauses(loop: Loop) -> None:
    loop.target.fail(Unavailable("the store is away"), times=4)
    loop.publisher.want("bundles/west", _make(1))
    pauses = [1.0, 2.0, 4.0, 8.0]
    for attempt, pause in enumerate(pauses, start=1):
        await loop.until(lambda attempt=attempt: loop.status("bundles/west").attempts == attempt)  # type: ignore[misc]
        await loop.until(lambda: loop.clock.sleeping == 1)
        status = loop.status("bundles/west")
        assert status.error == "the store is away"
        assert status.next_try == loop.clock.now() + timedelta(seconds=pause)
        await loop.clock.advance(pause - 0.25)  # exact in binary
        assert loop.status("bundles/west").attempts == attempt
        await loop.clock.advance(0.25)
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.status("bundles/west") == Status("one", "bundles/west", published=loop.clock.now())


async def test_pauses_are_bounded_and_the_newest_goes_out_in_the_end(loop: Loop) -> None:
    loop.target.fail(Unavailable("away"), times=20)
    loop.publisher.want("bundles/west", _make(1))
    sequence = 1
    while loop.status("bundles/west").attempts < 20:
        attempts = loop.status("bundles/west").attempts
        sequence += 1
        loop.publisher.want("bundles/west", _make(sequence))
        await loop.until(lambda: loop.clock.sleeping == 1)
        await loop.clock.advance(LONGEST_PAUSE)  # one pause is never longer
        await loop.until(lambda attempts=attempts: loop.status("bundles/west").attempts > attempts)  # type: ignore[misc]
    await loop.until(lambda: loop.clock.sleeping == 1)
    await loop.clock.advance(LONGEST_PAUSE)
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.target.held["bundles/west"].data == _document(sequence).data


async def test_a_document_that_fails_holds_up_no_other(loop: Loop) -> None:
    loop.target.fail(Unavailable("away"))
    loop.publisher.want("bundles/west", _make(1))
    await loop.until(lambda: loop.status("bundles/west").attempts == 1)
    loop.publisher.want("bundles/east", _make(1, EAST))
    await loop.until(lambda: loop.published("bundles/east"))
    assert not loop.published("bundles/west")


async def test_another_publisher_that_knows_more_is_not_taken_back(loop: Loop) -> None:
    loop.target.overtake(_document(9))
    loop.publisher.want("bundles/west", _make(5))
    await loop.until(lambda: loop.status("bundles/west").attempts == 1)
    assert "would go back" in loop.status("bundles/west").error
    assert loop.target.held["bundles/west"].data == _document(9).data
    loop.publisher.want("bundles/west", _make(10))
    await loop.until(lambda: loop.clock.sleeping == 1)
    await loop.clock.advance(1)
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.target.held["bundles/west"].data == _document(10).data


async def test_another_publisher_that_knows_less_is_followed(loop: Loop) -> None:
    loop.target.overtake(_document(3))
    loop.publisher.want("bundles/west", _make(5))
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.target.held["bundles/west"].data == _document(5).data


async def test_a_withdrawn_document_goes_and_stays_away(loop: Loop) -> None:
    loop.publisher.want("bundles/west", _make(1))
    await loop.until(lambda: loop.published("bundles/west"))
    loop.publisher.want("bundles/west", None)
    await loop.until(lambda: loop.published("bundles/west"))
    assert "bundles/west" not in loop.target.held
    assert loop.status("bundles/west").withdrawn
    loop.publisher.want("bundles/west", None)
    await loop.until(lambda: loop.published("bundles/west"))


async def test_an_unchanged_document_is_not_written_again(loop: Loop) -> None:
    for _ in range(2):
        loop.publisher.want("bundles/west", _make(1))
        await loop.until(lambda: loop.published("bundles/west"))
    assert loop.target.writes == 1


# Several targets


async def test_a_target_that_is_down_holds_back_no_other(two: Loop) -> None:
    two.target.fail(Unavailable("away", hint="look"), times=50)
    for sequence, name in ((1, WEST), (2, EAST)):
        two.publisher.want(bundle_name(name), _make(sequence, name))
    await two.until(lambda: two.published("bundles/west", "two") and two.published("bundles/east", "two"))
    await two.until(lambda: two.status("bundles/west").attempts == 1)
    assert two.publisher.published("bundles/west") is None  # pollers of the other target do not have it
    one, other = two.publisher.targets()
    assert (one.target, one.waiting, one.error, one.hint, one.last_success) == ("one", 2, "away", "look", None)
    assert (other.waiting, other.error, other.errors, other.last_success) == (0, "", 0, two.clock.now())


async def test_published_is_the_moment_of_the_last_target(two: Loop) -> None:
    two.target.fail(Unavailable("away"))
    two.publisher.want("bundles/west", _make(1))
    await two.until(lambda: two.published("bundles/west", "two") and two.clock.sleeping == 1)
    before = two.clock.now()
    await two.clock.advance(1)
    await two.until(lambda: two.published("bundles/west"))
    assert two.publisher.published("bundles/west") == before + timedelta(seconds=1)
    two.target.hold()
    two.publisher.want("bundles/west", _make(2))
    assert two.publisher.published("bundles/west") is None
    two.target.release()


async def test_a_target_that_hangs_has_so_many_calls_at_once(loop: Loop) -> None:
    loop.target.hold()
    for n in range(50):
        loop.publisher.want(f"bundles/d{n}", _make(1, TrustDomain(f"d{n}")))
    await asyncio.sleep(0.05)
    assert loop.target.waiting == AT_ONCE
    loop.target.release()
    await loop.until(lambda: all(loop.published(f"bundles/d{n}") for n in range(50)))


async def test_a_target_that_is_away_is_probed_and_when_it_is_back_all_goes_out_at_once(loop: Loop) -> None:
    names = [f"d{n}" for n in range(30)]
    loop.target.fail(Unavailable("away"), times=60)
    for name in names:
        loop.publisher.want(f"bundles/{name}", _make(1, TrustDomain(name)))
    await loop.until(lambda: sum(loop.status(f"bundles/{name}").attempts for name in names) == 30)
    await loop.clock.advance(1)
    await loop.until(lambda: sum(loop.status(f"bundles/{name}").attempts for name in names) == 60)
    # All pauses are 2 s now. One more name is wanted: its success tells the others, without waiting for their pauses.
    loop.publisher.want("bundles/west", _make(1))
    await loop.until(lambda: all(loop.published(f"bundles/{name}") for name in names))


async def test_full_jitter_spreads_pauses_from_nearly_nothing_to_the_longest() -> None:
    numbers = iter([0.0, 0.25, 1.0])
    target, clock = MemoryTarget(), ManualClock()
    publisher = Publisher({"one": target}, clock, lambda: next(numbers))
    target.fail(Unavailable("away"), times=3)
    publisher.want("bundles/west", _make(1))
    running = asyncio.create_task(publisher.run())
    pauses = []
    for attempt in (1, 2, 3):
        while publisher.status()[0].attempts < attempt:
            await asyncio.sleep(0.002)
        next_try = publisher.status()[0].next_try
        assert next_try is not None
        pauses.append((next_try - clock.now()).total_seconds())
        await clock.advance(pauses[-1])
    assert pauses == [0.05, 0.5, 4.0]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_two_publishers_at_once_never_go_backwards() -> None:
    """Both write every sequence they know, as they come to know it; what a reader sees only rises."""
    target, clock, seen = MemoryTarget(), ManualClock(), [0]
    target.wrote = lambda stored: seen.append(progress("bundles/west", stored.data)["west"])
    publishers = [Publisher({"one": target}, clock, lambda: 1.0) for _ in range(2)]
    running = [asyncio.create_task(publisher.run()) for publisher in publishers]
    for sequence in range(1, 40):
        publishers[sequence % 2].want("bundles/west", _make(sequence))
        publishers[(sequence + 1) % 2].want("bundles/west", _make(max(sequence - 1, 1)))
        await asyncio.sleep(0.003)
        await clock.advance(60)
    for publisher in publishers:
        publisher.want("bundles/west", _make(40))
    for _ in range(100):
        await clock.advance(60)
        await asyncio.sleep(0.002)
        if all(publisher.status()[0].wanted is None for publisher in publishers):
            break
    assert seen == sorted(seen) and seen[-1] == 40
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


# Rounds


class Counting:
    """A round that writes what the time is, and is due a minute after it ran."""

    name = "tuf"

    def __init__(self, loop: Loop) -> None:
        self.loop, self.next, self.runs = loop, loop.clock.now(), 0

    async def bring(self, target: Target) -> None:
        self.runs += 1
        held = await target.read("tuf/time")
        await target.write(Document("tuf/time", self.loop.clock.now().isoformat().encode()), held.tag if held else None)
        self.next = self.loop.clock.now() + timedelta(minutes=1)

    def due(self, now: datetime) -> datetime | None:
        return self.next


async def test_a_round_runs_at_once_on_news_and_when_it_is_due() -> None:
    loop = Loop(two=True)
    loop.running.cancel()
    round_ = Counting(loop)
    loop.publisher.add_round(round_)
    loop.running = asyncio.create_task(loop.publisher.run())
    await loop.until(lambda: loop.published("tuf") and loop.published("tuf", "two") and loop.clock.sleeping > 0)
    assert round_.runs == 2
    await loop.clock.advance(59.5)
    assert round_.runs == 2
    await loop.clock.advance(1)
    await loop.until(lambda: round_.runs == 4)
    await loop.until(lambda: loop.published("tuf") and loop.published("tuf", "two"))
    loop.publisher.want_round("tuf")
    await loop.until(lambda: round_.runs == 6)
    await loop.close()


async def test_a_round_that_fails_is_tried_again_and_holds_up_no_document() -> None:
    loop = Loop()
    loop.running.cancel()
    round_ = Counting(loop)
    loop.publisher.add_round(round_)
    loop.target.fail(Denied("tuf/ may not be written"))
    loop.running = asyncio.create_task(loop.publisher.run())
    await loop.until(lambda: loop.status("tuf").attempts == 1)
    loop.publisher.want("bundles/west", _make(1))
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.status("tuf").error == "tuf/ may not be written"
    await loop.clock.advance(1)
    await loop.until(lambda: loop.published("tuf"))
    await loop.close()


async def test_a_round_that_keeps_nothing_yet_is_no_success_and_in_no_status() -> None:
    class Nothing:
        name = "tuf"
        runs = 0

        async def bring(self, target: Target) -> None:
            self.runs += 1

        def due(self, now: datetime) -> datetime | None:
            return None

    loop, round_ = Loop(), Nothing()
    loop.running.cancel()
    loop.publisher.add_round(round_)
    loop.running = asyncio.create_task(loop.publisher.run())
    await loop.until(lambda: round_.runs == 1 and not loop.publisher.status())
    assert loop.publisher.targets()[0].last_success is None
    await loop.close()


# Documents


def test_a_map_holds_every_bundle_and_goes_back_for_none() -> None:
    both = bundle_map([Bundle(EAST, sequence=2, refresh_hint=30), Bundle(WEST, sequence=5)])
    assert (both.name, both.cache_control) == (MAP, "max-age=30")
    assert progress(MAP, both.data) == {"east": 2, "west": 5}
    assert set(BundleMap.parse(both.data).bundles) == {EAST, WEST}
    with pytest.raises(Denied, match="sequence 5 of west is published, 4"):
        check_continues(bundle_map([Bundle(WEST, sequence=4)]), both.data)
    check_continues(bundle_map([Bundle(WEST, sequence=5)]), both.data)  # east was removed


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff", b'{"keys": 1}'])
def test_what_is_no_document_is_replaced(damaged: bytes) -> None:
    check_continues(_document(1), damaged)
    assert progress(bundle_name(WEST), damaged) == {}


# The folder


async def test_files_are_public_and_nothing_is_left_behind(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        target = DirectoryTarget(tmp_path / "public")
        tag = await target.write(_document(1), None)
        await target.write(_document(2), tag)
    finally:
        os.umask(before)
    path = tmp_path / "public" / "bundles" / "west"
    assert path.read_bytes() == _document(2).data
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == path.parent.parent.stat().st_mode & 0o777 == 0o755
    left = sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file())
    assert left == ["public/.publisher.lock", "public/bundles/west"]


async def test_a_link_in_the_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = DirectoryTarget(tmp_path / "public")
    (tmp_path / "public" / "bundles").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (tmp_path / "public" / "bundles" / "west").symlink_to(outside)
    held = await target.read("bundles/west")
    await target.write(_document(1), held.tag if held else None)
    assert outside.read_bytes() == b"mine"
    assert not (tmp_path / "public" / "bundles" / "west").is_symlink()


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(Unavailable, match="file"):
        await DirectoryTarget(tmp_path / "file" / "public").write(_document(1), None)
