"""A publisher that is killed at every write, two that race, and a target that somebody else damages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from tuf.api.metadata import MetaFile, Timestamp

from bundle_publisher.targets.port import Document, Stored
from bundle_publisher.tuf.online import OnlineKeys
from bundle_publisher.tuf.repository import Repository
from tests.fakes.targets import MemoryTarget
from tests.fakes.tuf_repository import DAY, TufRepository
from trustfed.errors import Conflict, Unavailable


class Killed(Exception):
    """The process is gone."""


class Mortal:
    """A target at which the process dies: before the `last`th change, or right after it."""

    def __init__(self, target: MemoryTarget, last: int, *, after: bool) -> None:
        self.target, self.last, self.after = target, last, after

    async def read(self, name: str) -> Stored | None:
        return await self.target.read(name)

    async def write(self, document: Document, if_tag: str | None) -> str:
        self._before()
        tag = await self.target.write(document, if_tag)
        self._after()
        return tag

    async def remove(self, name: str, if_tag: str) -> None:
        self._before()
        await self.target.remove(name, if_tag)
        self._after()

    def _before(self) -> None:
        self.last -= 1
        if self.last <= 0 and not self.after:
            raise Killed

    def _after(self) -> None:
        if self.last <= 0:
            raise Killed


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_every_change_readers_see_the_old_or_the_new_and_the_next_process_goes_on(
    tmp_path: Path, after: bool
) -> None:
    kills = 0
    for last in range(1, 40):
        made = await TufRepository.make(keys=1, threshold=1)
        a, b = await made.domain("td-a"), await made.domain("td-b")
        await made.bring()
        reader, old = made.reader(tmp_path / f"{last}"), a.envelope
        assert reader.envelope("td-a") == old
        made.clock.move(3 * 3600)  # what this edition supersedes, and what it leaves, is removed later in this test
        made.remove(b)
        await made.publish(a)
        await made.rotate(threshold=1)
        mortal = Mortal(made.target, last, after=after)
        try:
            await made.another().bring(mortal)
        except Killed:
            kills += 1
            assert reader.envelope("td-a") in (old, a.envelope)
            made.clock.move(1)
            await made.another().bring(made.target)
        assert reader.envelope("td-a") == a.envelope
        made.clock.move(4 * 3600)
        await made.another().bring(made.target)  # what the killed one left goes too
        assert len([name for name in made.target.held if name.startswith("envelopes/")]) == 1
        assert len([name for name in made.target.held if name.endswith("snapshot.json")]) == 1
        if mortal.last > 0:
            break
    assert kills >= 6
    assert mortal.last > 0


async def test_killed_at_every_removal_the_rest_goes_later() -> None:
    for last in range(3, 8):
        made = await TufRepository.make(keys=1, threshold=1)
        a = await made.domain("td-a")
        for _ in range(3):
            await made.publish(a)
            await made.bring()
            made.clock.move(10)
        made.clock.move(3 * 3600)
        mortal = Mortal(made.target, last, after=True)
        with pytest.raises(Killed):
            await made.another().bring(mortal)
        made.clock.move(3 * 3600)
        await made.another().bring(made.target)
        assert len([name for name in made.target.held if name.startswith("envelopes/")]) == 1


async def test_two_publishers_that_race_converge_and_never_go_backwards(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    one, two = made.another(), made.another()
    reader, seen = made.reader(tmp_path), 0
    for _ in range(10):
        made.clock.move(1)
        await made.publish(a)
        await asyncio.gather(one.bring(made.target), two.bring(made.target))
        assert reader.envelope("td-a") == a.envelope
        writes = made.target.writes
        await asyncio.gather(one.bring(made.target), two.bring(made.target))
        assert made.target.writes == writes  # each takes what the other wrote last for its own
        version = one.edition.top.timestamp.signed.version
        assert version == two.edition.top.timestamp.signed.version > seen
        seen = version


class Swept:
    """A target at which another publisher is quicker between the look of a sweep and what it removes."""

    def __init__(self, target: MemoryTarget) -> None:
        self.target = target
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def read(self, name: str) -> Stored | None:
        return await self.target.read(name)

    async def write(self, document: Document, if_tag: str | None) -> str:
        return await self.target.write(document, if_tag)

    async def remove(self, name: str, if_tag: str) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        await self.target.remove(name, if_tag)


async def test_a_file_that_is_needed_again_while_another_sweeps_it_away_is_put_back_at_once() -> None:
    made = await TufRepository.make(keys=1, threshold=1)
    a = await made.domain("td-a")
    await made.bring()
    old, b, target = a.https, made.another(), Swept(made.target)
    a.https = ("other.example:1",)
    made.clock.move(5)
    await made.publish(a)
    await made.bring()
    made.clock.move(3 * 3600)  # the first cluster document is due for removal

    async def changed_back() -> None:
        a.https = old
        made.clock.move(1)
        await made.publish(a, envelope=False)
        await made.repository.bring(made.target)

    target.meanwhile = changed_back
    await b.bring(target)
    assert target.meanwhile is None
    assert set(a.part.role.files) <= set(made.target.held)


async def test_a_target_that_calls_every_version_taken_costs_the_others_next_to_nothing() -> None:
    made = await TufRepository.make(keys=1, threshold=1)
    await made.domain("td-a")
    await made.bring()
    evil, good = Taking(), made.target
    written = good.writes
    for _ in range(60):
        with pytest.raises(Conflict):
            await made.repository.bring(evil)
        await made.bring()
        made.clock.move(1)
    assert made.repository.edition is not None
    ahead = made.repository.edition.top.targets.signed.version - int(made.clock.now().timestamp())
    assert ahead < 60
    assert good.writes - written < 60  # it was five for each try


class Taking(MemoryTarget):
    """A target that says of every version that it is taken."""

    async def write(self, document: Document, if_tag: str | None) -> str:
        if document.name.endswith(".targets.json"):
            self.held[document.name] = Stored(b"{}", "x")
            raise Conflict("it is there")
        return await super().write(document, if_tag)


async def test_a_publisher_on_an_old_copy_takes_the_newer_over_instead_of_going_back(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a, b = await made.domain("td-a"), await made.domain("td-b")
    old = made.wanted
    made.clock.move(60)
    await made.publish(a)
    c = await made.domain("td-c")
    await made.bring()
    reader, newest = made.reader(tmp_path), a.envelope
    assert reader.envelope("td-a") == newest
    made.wanted = old  # restored from a backup: an older td-a, and no td-c
    made.clock.move(60)
    await made.publish(b)
    await made.another().bring(made.target)
    assert reader.envelope("td-a") == newest
    assert reader.envelope("td-b") == b.envelope
    assert reader.envelope("td-c") == c.envelope
    other = MemoryTarget()  # and a target that never had it gets it too
    restored = made.another()
    await restored.bring(made.target)
    await restored.bring(other)
    assert made.reader(tmp_path / "other", store=other.held).envelope("td-c") == c.envelope


async def test_an_older_role_that_cannot_be_taken_over_is_left_out_not_taken_back(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a, b = await made.domain("td-a"), await made.domain("td-b")
    old = made.wanted
    made.clock.move(60)
    await made.publish(a)
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-a") == a.envelope
    del made.target.held[f"tuf/{a.version}.td-a.json"]
    made.wanted = old
    await made.another().bring(made.target)
    assert reader.envelope("td-a") is None
    assert reader.envelope("td-b") == b.envelope


async def test_overtaken_at_the_timestamp_the_round_starts_anew(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    made.clock.move(5)
    await made.publish(a)
    other = made.another()

    class Overtaking(Mortal):
        async def write(self, document: Document, if_tag: str | None) -> str:
            if document.name == "tuf/timestamp.json" and self.last:
                self.last = 0
                await other.bring(self.target)
            return await self.target.write(document, if_tag)

    await made.another().bring(Overtaking(made.target, 1, after=False))
    assert made.reader(tmp_path).envelope("td-a") == a.envelope


async def test_a_target_that_changes_all_the_time_ends_in_one_error() -> None:
    made = await TufRepository.make()
    await made.domain("td-a")

    class Busy(Mortal):
        async def write(self, document: Document, if_tag: str | None) -> str:
            if document.name == "tuf/timestamp.json":
                self.target._put(Document(document.name, b"other %d" % len(self.target.held)))
            return await self.target.write(document, if_tag)

    with pytest.raises(Conflict, match=r"tuf/timestamp\.json changes faster"):
        await made.another().bring(Busy(made.target, 99, after=False))


@pytest.mark.parametrize("damage", [b"", b"{}", b"junk", b"\xff" * 100])
async def test_damaged_files_are_mended_and_versions_still_rise(tmp_path: Path, damage: bytes) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-a") == a.envelope
    for name in [*made.target.held]:
        made.put(name, damage)
    made.clock.move(1)
    await made.another().bring(made.target)
    assert reader.envelope("td-a") == a.envelope  # whose memory refuses whatever goes back


async def test_an_emptied_target_is_filled_again_above_what_readers_remember(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-a") == a.envelope
    made.target.held.clear()
    made.clock.move(1)
    await made.another().bring(made.target)
    assert reader.envelope("td-a") == a.envelope


async def test_a_file_that_vanished_is_put_back_within_a_day(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    (name,) = [name for name in made.target.held if name.startswith("envelopes/")]
    del made.target.held[name]
    made.clock.move(86_400)
    await made.bring()
    assert made.target.held[name].data == a.envelope


@pytest.mark.parametrize("kind", ["snapshot", "targets", "td-a"])
async def test_a_file_that_was_damaged_is_mended_within_a_day(tmp_path: Path, kind: str) -> None:
    made = await TufRepository.make(ttl=30 * DAY)
    a = await made.domain("td-a")
    await made.bring()
    (name,) = [name for name in made.target.held if name.endswith(f".{kind}.json")]
    made.put(name, b"{}")
    made.clock.move(86_400)
    await made.bring()
    assert made.reader(tmp_path).envelope("td-a") == a.envelope


async def test_a_target_put_back_to_an_older_state_is_brought_forward_again(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    old = dict(made.target.held)
    made.clock.move(5)
    await made.publish(a)
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-a") == a.envelope
    made.target.held = old
    made.clock.move(5)
    await made.another().bring(made.target)
    assert reader.envelope("td-a") == a.envelope


async def test_a_forged_timestamp_moves_nothing(tmp_path: Path) -> None:
    made, thief = await TufRepository.make(), await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    forged = Timestamp(2**40, None, None, MetaFile(2**40))
    made.put("tuf/timestamp.json", await thief.sign("timestamp", forged))
    await made.another().bring(made.target)
    assert made.reader(tmp_path).envelope("td-a") == a.envelope
    assert made.clock.now().timestamp() - 5 < made.repository.edition.top.timestamp.signed.version < 2**40


async def test_a_failing_target_loses_nothing_and_what_was_written_is_not_written_again() -> None:
    made = await TufRepository.make()
    for number in range(30):
        await made.domain(f"td-{number}")
    mortal = Mortal(made.target, 50, after=False)
    with pytest.raises(Killed):
        await made.bring(mortal)
    wrote = made.target.writes
    assert wrote == 49
    mortal.last = 10_000
    await made.bring(mortal)
    assert (
        made.target.writes == 30 * 3 + 5 + 1
    )  # role and two files each; list, targets, snapshot, root, timestamp; and
    # the list once more, for the edition begun anew


async def test_errors_of_the_target_come_through() -> None:
    made = await TufRepository.make()
    await made.domain("td-a")
    made.target.fail(Unavailable("the store is away"))
    with pytest.raises(Unavailable, match="the store is away"):
        await made.bring()
    await made.bring()


async def test_what_a_thief_of_the_online_keys_published_is_void_after_they_are_replaced(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-a") == a.envelope
    evil = await (await TufRepository.make()).domain("td-evil")
    thief = made.another()
    honest, made.wanted = (
        made.wanted,
        replace(made.wanted, parts={**made.wanted.parts, "td-evil": evil.part}, floors={"td-a": 2**50}),
    )
    made.clock.move(1)
    await thief.bring(made.target)  # a domain that nobody enrolled, and a version that td-a never reaches
    made.wanted = honest
    await made.publish(a)
    await made.bring()
    assert reader.envelope("td-a") is None
    assert reader.envelope("td-evil") == evil.envelope
    await made.rotate(online=True)
    made.clock.move(1)
    await made.bring()
    for who in (reader, made.reader(tmp_path / "new")):
        assert who.envelope("td-a") == a.envelope
        assert who.envelope("td-evil") is None


async def test_a_root_that_is_installed_while_the_one_before_signs_is_followed_at_once(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")

    class Interrupted:
        async def public_key(self, name: str) -> EllipticCurvePublicKey:
            return await made.keys.public_key(name)

        async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
            if len(made.roots) == 1:
                await made.rotate(online=True)
                await other.bring(second)
            return await made.keys.sign(name, messages)

    second = MemoryTarget()
    other = made.another()
    one = Repository(lambda: made.wanted, Interrupted(), OnlineKeys(made.keys), made.clock, made.ttl)
    await one.bring(made.target)
    made.clock.move(1)
    await one.bring(made.target)
    await one.bring(second)
    for number, target in enumerate((made.target, second)):
        assert made.reader(tmp_path / f"{number}", root=1, store=target.held).envelope("td-a") == a.envelope
