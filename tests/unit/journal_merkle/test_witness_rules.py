"""A witness cosigns what goes on from what it holds, says where it stands, and alarms on a fork or a shrink."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trustfed.errors import Invalid, Unavailable
from trustfed.journal.merkle.checkpoint import Checkpoint, assemble, payload_to_sign
from trustfed.journal.merkle.hashing import EMPTY_ROOT, root_of
from trustfed.journal.merkle.proofs import consistency
from trustfed.journal.merkle.vkey import vkey_of
from trustfed.journal.merkle.witness import (
    BadSignature,
    Cosign,
    Fork,
    Held,
    NotYours,
    Offer,
    Shrunk,
    Verdict,
    Witness,
    judge,
)
from trustfed.journal.merkle.witness_files import WitnessFiles

ORIGIN = "trustfed/prod.example/journal"
SECRET = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
KEY = vkey_of(ORIGIN, SECRET.public_key())
LEAVES = [hashlib.sha256(b"%d" % number).digest() for number in range(40)]
OTHERS = [*LEAVES[:10], *(hashlib.sha256(b"x%d" % number).digest() for number in range(30))]


def note(size: int, leaves: list[bytes] = LEAVES, *, secret: Ed25519PrivateKey = SECRET, origin: str = ORIGIN) -> bytes:
    checkpoint = Checkpoint(origin, size, root_of(leaves[:size]))
    return assemble(checkpoint, vkey_of(origin, secret.public_key()), secret.sign(payload_to_sign(checkpoint))).data


def offer(old: int, size: int, leaves: list[bytes] = LEAVES) -> Offer:
    def read(level: int, index: int) -> bytes:
        return root_of(leaves[index << level : index + 1 << level])

    return Offer(old, tuple(consistency(read, old, size)), note(size, leaves))


def held(size: int) -> Held:
    return Held(ORIGIN, size, root_of(LEAVES[:size]), note(size))


def verdict(known: Held | None, offered: Offer) -> Verdict:
    return judge(known, offered, origin=ORIGIN, log_keys=[KEY])


def test_what_goes_on_is_cosigned_and_kept() -> None:
    first = verdict(None, offer(0, 12))
    assert isinstance(first, Cosign)
    assert first.held == held(12)
    later = verdict(first.held, offer(12, 33))
    assert isinstance(later, Cosign)
    assert (later.checkpoint.size, later.held.note) == (33, note(33))
    assert isinstance(verdict(later.held, offer(33, 33)), Cosign)
    assert isinstance(verdict(None, offer(0, 0)), Cosign)
    assert isinstance(verdict(Held(ORIGIN, 0, EMPTY_ROOT, note(0)), offer(0, 5)), Cosign)


def test_a_proof_from_elsewhere_is_told_where_the_witness_stands() -> None:
    assert verdict(held(12), offer(0, 33)) == NotYours(12)
    assert verdict(held(12), offer(7, 33)) == NotYours(12)
    assert verdict(None, offer(7, 33)) == NotYours(0)
    assert verdict(held(12), offer(20, 33)) == NotYours(12)


def test_another_past_is_a_fork() -> None:
    beside = verdict(held(12), offer(12, 33, OTHERS))
    assert isinstance(beside, Fork)
    assert (beside.held, beside.offered) == (held(12), note(33, OTHERS))
    for old in (0, 12):
        same = verdict(held(12), Offer(old, (), note(12, OTHERS)))
        assert isinstance(same, Fork)
        assert "two roots at the size 12" in same.why
    assert isinstance(verdict(held(8), offer(8, 33, OTHERS)), Cosign), "up to 10 the two are one log"


def test_fewer_leaves_are_a_shrink_however_they_are_offered() -> None:
    for old in (0, 5):
        shrunk = verdict(held(12), offer(old, 5))
        assert isinstance(shrunk, Shrunk)
        assert (shrunk.held.size, shrunk.size) == (12, 5)


def test_only_the_log_itself_makes_its_checkpoints() -> None:
    stranger = Ed25519PrivateKey.generate()
    answer = verdict(held(12), Offer(12, (), note(33, secret=stranger)))
    assert isinstance(answer, BadSignature)
    assert "no signature is by a key that is trusted here" in answer.why


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(Invalid, match="is of the log"):
        verdict(None, Offer(0, (), note(3, origin="trustfed/other/journal")))
    with pytest.raises(Invalid, match="has no meaning"):
        verdict(held(12), Offer(34, (), note(33)))
    with pytest.raises(Invalid, match="is empty"):
        verdict(held(12), Offer(12, (), note(33)))
    with pytest.raises(Invalid, match="must be empty"):
        verdict(None, Offer(0, (bytes(32),), note(33)))
    with pytest.raises(Invalid):
        verdict(None, Offer(0, (), b"no note"))
    with pytest.raises(Invalid, match="what is held is of the log"):
        judge(held(1), offer(1, 2), origin="trustfed/other/journal", log_keys=[KEY])


async def test_a_witness_keeps_before_it_cosigns_and_survives_a_restart(tmp_path: Path) -> None:
    store = WitnessFiles(tmp_path / "witness")
    cosigned: list[int] = []

    async def cosign(checkpoint: Checkpoint) -> bytes:
        found = await store.load(ORIGIN)
        assert found is not None
        assert found.size == checkpoint.size
        cosigned.append(checkpoint.size)
        return b"line\n"

    assert await store.load(ORIGIN) is None
    given, lines = await Witness(store, cosign).consider(offer(0, 12), origin=ORIGIN, log_keys=[KEY])
    assert isinstance(given, Cosign)
    assert lines == b"line\n"
    again = Witness(WitnessFiles(tmp_path / "witness"), cosign)
    race = [again.consider(offer(12, size), origin=ORIGIN, log_keys=[KEY]) for size in (33, 20, 40)]
    answers = [each for each, _ in await asyncio.gather(*race)]
    assert [type(each).__name__ for each in answers] == ["Cosign", "Shrunk", "NotYours"]
    assert cosigned == [12, 33]
    assert (await store.load(ORIGIN)) == held(33)


async def test_a_witness_that_cannot_keep_does_not_cosign(tmp_path: Path) -> None:
    class Full(WitnessFiles):
        async def save(self, held: Held) -> None:
            raise Unavailable("the disk is full")

    async def cosign(checkpoint: Checkpoint) -> bytes:
        raise AssertionError("must not be asked")

    with pytest.raises(Unavailable):
        await Witness(Full(tmp_path), cosign).consider(offer(0, 1), origin=ORIGIN, log_keys=[KEY])


async def test_a_damaged_file_of_a_witness_is_no_new_beginning(tmp_path: Path) -> None:
    store = WitnessFiles(tmp_path / "witness")
    await store.save(held(12))
    (path,) = (tmp_path / "witness").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    for damaged in (b"", note(12)[:-3], note(3, origin="trustfed/other/journal")):
        path.write_bytes(damaged)
        with pytest.raises(Invalid, match=r"\.note (is damaged|holds another log)"):
            await store.load(ORIGIN)
