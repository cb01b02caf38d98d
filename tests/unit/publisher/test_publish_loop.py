"""The publishing loop: newest wins, never backwards, failures delay only themselves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from bundle_publisher.documents import MAP, bundle_document, bundle_map, bundle_name, check_continues, progress
from bundle_publisher.publish import LONGEST_PAUSE, Make, Publisher, Status
from bundle_publisher.targets.directory import DirectoryTarget
from bundle_publisher.targets.port import Document
from tests.fakes.clocks import ManualClock
from tests.fakes.targets import MemoryTarget
from trustfed.errors import Denied, Unavailable
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import TrustDomain

WEST, EAST = TrustDomain("west"), TrustDomain("east")


class Loop:
    """A running publisher on a misbehaving target, in the hands of a test."""

    def __init__(self) -> None:
        self.target, self.clock = MemoryTarget(), ManualClock()
        self.publisher = Publisher(self.target, self.clock, lambda: 0.5)  # pauses are then exactly as long as named
        self.running = asyncio.create_task(self.publisher.run())

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let everything run until this holds; threads take real time, a little."""
        for _ in range(400):
            if holds():
                return
            await asyncio.sleep(0.002)
        raise AssertionError(self.publisher.status())

    def status(self, name: str) -> Status:
        return next(status for status in self.publisher.status() if status.name == name)

    def published(self, name: str) -> bool:
        return self.status(name).wanted is None


@pytest_asyncio.fixture
async def loop() -> AsyncIterator[Loop]:
    made = Loop()
    yield made
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)


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
    pauses = [0.5, 1.0, 2.0, 4.0]
    for attempt, pause in enumerate(pauses, start=1):
        await loop.until(lambda attempt=attempt: loop.status("bundles/west").attempts == attempt)  # type: ignore[misc]
        await loop.until(lambda: loop.clock.sleeping == 1)
        assert loop.status("bundles/west").error == "the store is away"
        await loop.clock.advance(pause - 0.25)  # exact in binary
        assert loop.status("bundles/west").attempts == attempt
        await loop.clock.advance(0.25)
    await loop.until(lambda: loop.published("bundles/west"))
    assert loop.status("bundles/west") == Status("bundles/west", published=loop.clock.now())


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
    loop.publisher.want("bundles/west", None)
    await loop.until(lambda: loop.published("bundles/west"))


async def test_an_unchanged_document_is_not_written_again(loop: Loop) -> None:
    for _ in range(2):
        loop.publisher.want("bundles/west", _make(1))
        await loop.until(lambda: loop.published("bundles/west"))
    assert loop.target.writes == 1


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
