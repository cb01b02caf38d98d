"""Packs that are whole, signed and false: made by somebody who has all the keys, or who goes on where another one stopped."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.fakes.domain import new_key
from tests.fakes.evidence_facts import START
from tests.fakes.evidence_house import NAME, WINDOW, EvidenceHouse, lived
from tests.unit.evidence_pack.test_packs import World, ours, theirs, write
from trustfed.errors import Conflict, Invalid
from trustfed.evidence import pack_export, pack_share
from trustfed.evidence.definition import DEFINITION, Definition
from trustfed.evidence.model import COUNTS
from trustfed.evidence.pack import Reader, Unreadable
from trustfed.evidence.pack_export import Scope, export
from trustfed.evidence.pack_figures import rate
from trustfed.evidence.pack_verify import Outcome
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.events import Fact
from trustfed.runtime.timestamps import from_ms

SCOPE = Scope(*WINDOW, 7_200_000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("packs"))


@pytest.fixture(scope="module")
def shed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auditor")
    (folder / "verify.py").write_bytes(world.members()["verify.py"])
    return folder


def refused(pack: Path, shed: Path, trust: bytes, code: str) -> None:
    """Both name the fault."""
    verdict = ours(pack, trust)
    assert verdict.outcome is Outcome.FAILED
    assert code in {fault.code for fault in verdict.faults}, verdict.faults
    exit_code, said = theirs(pack, shed, trust)
    assert (exit_code, f"FAILS  {code}" in said) == (1, True), said


def trust_of(house: EvidenceHouse) -> bytes:
    return f"{house.vkey.text}\n{house.hub_vkey.text}\n{house.publication.fingerprint}\n".encode()


def test_who_goes_on_with_a_true_journal_under_keys_of_their_own_is_refused(tmp_path: Path, shed: Path) -> None:
    async def forge() -> bytes:
        house = await lived(tmp_path / "store")
        real = await house.checkpoint()
        house._log, house._hub = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        house._publication = new_key()
        house.publication = PublicationKey.of(house._publication.public_key())
        key = base64.b64encode(house.publication.spki).decode()
        await house.decide("cluster.keyed", trust_domain=NAME, publication_key=key)
        await export(house, SCOPE, DEFINITION, tmp_path / "false.pack", now_ms=house.at)
        await house.close()
        return real

    trust = asyncio.run(forge())
    refused(tmp_path / "false.pack", shed, trust, "key")


def test_a_cosigner_of_the_same_name_is_not_the_one_that_is_trusted(world: World, shed: Path) -> None:
    refused(world.other, shed, world.keys.splitlines()[1], "cosignature")


def _kinder(monkeypatch: pytest.MonkeyPatch) -> Definition:
    return Definition(on_time_permille=999, unknown_grace_ms=400 * 86_400_000)


def _later(monkeypatch: pytest.MonkeyPatch) -> Definition:
    _range(monkeypatch, lambda sizes: (sizes[len(sizes) // 2], sizes[-1]))
    return DEFINITION


def _sooner(monkeypatch: pytest.MonkeyPatch) -> Definition:
    _range(monkeypatch, lambda sizes: (sizes[0], sizes[len(sizes) // 2]))
    return DEFINITION


def _range(monkeypatch: pytest.MonkeyPatch, choose: Callable[[list[int]], tuple[int, int]]) -> None:
    honest = pack_export._range

    def chosen(cuts: Any, *asked: Any) -> tuple[int, int]:
        begin, end = honest(cuts, *asked)
        return choose([size for _, size in cuts if begin <= size <= end])

    monkeypatch.setattr(pack_export, "_range", chosen)


@pytest.mark.parametrize(("change", "code"), [(_kinder, "definition"), (_later, "scope"), (_sooner, "scope")])
def test_who_has_all_keys_cannot_choose_the_metric_or_the_facts(
    change: Callable[[pytest.MonkeyPatch], Definition],
    code: str,
    tmp_path: Path,
    shed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forge() -> bytes:
        house = await lived(tmp_path / "store")
        await export(house, SCOPE, change(monkeypatch), tmp_path / "false.pack", now_ms=house.at)
        await house.close()
        return trust_of(house)

    trust = asyncio.run(forge())
    refused(tmp_path / "false.pack", shed, trust, code)


STEP = {
    "authority": "a9",
    "kind": "x509",
    "not_before": 1,
    "not_after": 9,
    "forced": False,
    "missing": [],
    "retires": "",
}
UNDECIDED: dict[str, dict[str, Any]] = {
    "a step that nobody took": {"kind": "authority.step", "body": {**STEP, "step": "activated", "journal": 1}},
    "a step dated back": {
        "kind": "authority.step",
        "decided": "authority.activated",
        "body": {**STEP, "step": "activated"},
    },
    "an unforced step": {
        "kind": "authority.step",
        "decided": "authority.activated",
        "body": {**STEP, "step": "activated"},
    },
    "a command that nobody gave": {
        "kind": "rotation.forced",
        "body": {"authorities": ["a"], "entries": [], "deadline": 1 << 50, "journal": 1},
    },
    "a deadline later than the command's": {
        "kind": "rotation.forced",
        "decided": "authority.reissued",
        "body": {"authorities": ["a9"], "entries": [], "deadline": 1 << 50},
    },
    "a command made of another decision": {
        "kind": "rotation.forced",
        "decided": "entry.deleted",
        "body": {"authorities": ["a9"], "entries": [], "deadline": 1 << 50},
    },
    "a deadline before the command": {
        "kind": "rotation.forced",
        "decided": "authority.reissued",
        "body": {"authorities": ["a9"], "entries": [], "deadline": 1},
    },
    "an end where an entry began": {"kind": "entry.ended", "decided": "entry.put", "body": {"entry": "a9"}},
    "an end dated back": {"kind": "entry.ended", "decided": "entry.deleted", "body": {"entry": "a9"}},
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_facts_that_mirror_no_decision_are_named_by_both(name: str, tmp_path: Path, shed: Path) -> None:
    said = UNDECIDED[name]

    async def forge() -> bytes:
        house = await lived(tmp_path / "store", minutes=400)
        body = {"at": house.at, **said["body"]}
        if "decided" in said:
            forced = name == "an unforced step"
            more = {"at": from_ms(house.at).isoformat(), "spread_seconds": 3_600}
            body["journal"] = await house.decide(
                said["decided"], id="a9", forced=forced, retires="", missing=[], **more
            )
        if name.endswith("dated back"):
            body["at"] -= 3_600_000
        await house.store.ledger.append([Fact(house.at, said["kind"], "a9", body)])
        await house._cut()
        await export(
            house,
            Scope(WINDOW[0], WINDOW[0] + 300_000, 7_200_000),
            DEFINITION,
            tmp_path / "false.pack",
            now_ms=house.at,
        )
        await house.close()
        return trust_of(house)

    trust = asyncio.run(forge())
    refused(tmp_path / "false.pack", shed, trust, "mirror")


LIFE = {"kind": "x509", "not_before": "2025-10-09T00:00:00+00:00", "not_after": "2025-10-12T00:00:00Z"}
BEGIN, END = 1_759_968_000, 1_760_227_200
"""The same, Unix s."""


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"safe_ms": END * 1000}, ""),
        ({"safe_ms": END * 1000 + 1_000}, "mirror"),
        ({"not_after": END + 1}, "mirror"),
        ({"not_before": BEGIN - 1}, "mirror"),
        ({"kind": "jwt"}, "mirror"),
    ],
)
def test_an_authority_lives_as_it_was_prepared(change: dict[str, Any], code: str, tmp_path: Path, shed: Path) -> None:
    async def forge() -> bytes:
        house = await EvidenceHouse.open(tmp_path / "store")
        await house.decide("authority.prepared", id="a9", **LIFE)
        position = await house.decide("authority.activated", id="a9", forced=False, retires="", missing=[])
        body = {**STEP, "step": "activated", "not_before": BEGIN, "not_after": END, **change}
        said = [Fact(house.at, "authority.step", "a9", {**body, "at": house.at, "journal": position})]
        return await _packed(house, said, tmp_path)

    _judged(asyncio.run(forge()), code, tmp_path, shed)


@pytest.mark.parametrize("how", ["left out", "said twice", "said under another key", "kept back", "only now"])
def test_each_decision_is_told_once(how: str, tmp_path: Path, shed: Path) -> None:
    async def forge() -> bytes:
        house = await EvidenceHouse.open(tmp_path / "store")
        at, day = house.at, 86_400_000
        positions = [await house.decide("entry.deleted", id=name) for name in ("e1", "e2")]
        told = [
            Fact(at, "entry.ended", name, {"entry": name, "at": at, "journal": position})
            for name, position in zip(("e1", "e2"), positions, strict=True)
        ]
        house.at += day + 1
        later = {
            "left out": [told[1]],  # before another one that is mirrored: it was passed over
            "said twice": [*told, told[0]],
            "said under another key": [*told, replace(told[0], key="again")],  # e1 that came back is excused again
            "kept back": told[::-1],
            "only now": [Fact(house.at, "cluster.gap", NAME, {"from": at, "to": house.at})],  # a day, and nothing said
        }
        return await _packed(house, later[how], tmp_path)

    _judged(asyncio.run(forge()), "mirror", tmp_path, shed)


@pytest.mark.parametrize("again", [False, True])
def test_what_lived_longer_than_all_that_is_there_cannot_be_left_out(again: bool, tmp_path: Path, shed: Path) -> None:
    """Every SVID in the pack lives for an hour; the authority could sign longer ones, which an earlier range would show.

    To say later that it lives for an hour changes nothing.
    """

    async def forge() -> bytes:
        house = await EvidenceHouse.open(tmp_path / "store")
        await house.decide("authority.prepared", id="a9", **LIFE)
        for number in range(4):
            house.at = START + number * 3_600_000
            issued = _issued(number, house.at)
            await house.live([issued])
        sizes, begin = (3, house.store.ledger.position), house.at - house.at % 300_000
        if again:
            begin += 2 * 3_600_000
            life = {"not_before": from_ms(begin).isoformat(), "not_after": from_ms(begin + 3_600_000).isoformat()}
            await house.decide("authority.prepared", id="a9", kind="x509", **life)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pack_export, "_range", lambda *_: sizes)
            scope = Scope(begin, begin + 300_000, 0)
            await export(house, scope, DEFINITION, tmp_path / "made.pack", now_ms=house.at)
        await house.close()
        return trust_of(house)

    _judged(asyncio.run(forge()), "scope", tmp_path, shed)


def _issued(number: int, at: int) -> Fact:
    serial = f"{number:032x}"
    who = {"serial": serial, "node": "n1", "entry": "e1", "instance": "n1/e1", "slot": "x509", "predecessor": ""}
    life = {"not_before": at // 1000, "not_after": at // 1000 + 3_600}
    return Fact(at, "x509.issued", serial, {**who, **life, "authority": "a9", "spiffe_id": "spiffe://prod/web"})


async def _packed(house: EvidenceHouse, facts: list[Fact], folder: Path) -> bytes:
    await house.store.ledger.append(facts)
    await house._cut()
    begin = START - START % 300_000
    await export(house, Scope(begin, begin + 300_000, 0), DEFINITION, folder / "made.pack", now_ms=house.at)
    await house.close()
    return trust_of(house)


def _judged(trust: bytes, code: str, folder: Path, shed: Path) -> None:
    """Both refuse the pack for this reason; without one, both verify it."""
    if code:
        refused(folder / "made.pack", shed, trust, code)
        return
    verdict = ours(folder / "made.pack", trust)
    assert verdict.outcome is Outcome.VERIFIED, verdict.faults
    assert theirs(folder / "made.pack", shed, trust)[0] == 0


def test_what_left_by_retention_is_not_left_out_in_silence() -> None:
    """A scope that depends on it is refused, with the first one that is not."""
    begin, hour = START - START % 300_000, 3_600_000
    cuts = [(0, 0), *((begin + number * hour, number + 1) for number in range(4))]
    scope, needed = Scope(begin + hour, begin + 2 * hour, 0), 4 * hour
    assert pack_export._range(cuts, scope, 1, needed, 0) == (0, 4)
    with pytest.raises(Conflict, match="left by retention") as refusal:
        pack_export._range(cuts, scope, 3, needed, 0)
    assert refusal.value.hint == "--from 2025-10-09T13:50:00Z or later"
    assert pack_export._range(cuts, Scope(begin + 5 * hour, begin + 6 * hour, 0), 3, needed, 0) == (2, 4)


def test_a_verifier_that_is_not_ours_is_named(world: World, tmp_path: Path) -> None:
    (found,) = [one for one in ours(world.pack, world.keys).findings if one.code == "program"]
    assert not found.doubt
    members = {**world.members(), "verify.py": b"print('verified')"}
    verdict = ours(write(tmp_path / "odd.pack", members), world.keys)
    (found,) = [one for one in verdict.findings if one.code == "program"]
    assert found.doubt and "not ours" in found.says
    assert verdict.outcome is Outcome.VERIFIED  # what they run is theirs to choose


@pytest.mark.parametrize("name", ["journal/000001.ndjson.gz", "ledger/000001.ndjson.gz"])
@pytest.mark.parametrize(
    "bomb",
    [b"x" * (2 << 20), b"{}\n" * 200_000, b"\n" * 200_000, b'{"at":NaN,"kind":"x","key":"","body":{}}\n'],
    ids=["line", "many", "empty", "not JSON"],
)
def test_what_unpacks_for_ever_is_given_up(name: str, bomb: bytes, world: World, shed: Path, tmp_path: Path) -> None:
    pack = write(tmp_path / "bomb.pack", {**world.members(), name: gzip.compress(bomb)})
    assert ours(pack, world.keys).outcome is Outcome.FAILED
    code, said = theirs(pack, shed, world.keys)
    assert code == 1 and "FAILS  reading" in said


def test_processes_that_share_the_work_say_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a fact that cannot be counted, or a pack that changes meanwhile, is a fault, not a wrong figure."""
    alone = ours(world.pack, world.keys)
    monkeypatch.setattr(pack_share, "WORTH", 1)
    monkeypatch.setattr(pack_share.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert pack_share.shares(1) == 2
    shared = ours(world.pack, world.keys)
    assert (shared.outcome, shared.figures) == (Outcome.VERIFIED, alone.figures)
    monkeypatch.setattr(pack_share, "_ARGV", (sys.executable, "-c", ""))
    (fault,) = ours(world.pack, world.keys).faults
    assert (fault.code, "was ended" in fault.says) == ("ledger", True)


def test_a_share_of_another_pack_is_refused(world: World) -> None:
    with Reader(world.pack) as reader:
        order = pack_share.Order(str(world.other), reader.manifest, DEFINITION.body(), 0, 2)
    with pytest.raises(Invalid, match="changed while"):
        pack_share.count(order)


@pytest.mark.parametrize("odd", ["twice", "link", "sparse"])
def test_members_that_two_readers_could_read_otherwise_are_refused(
    odd: str, world: World, shed: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "odd.pack", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in world.members().items():
            info = tarfile.TarInfo(name)
            if name == "manifest.json" and odd == "twice":
                info.size = 2
                archive.addfile(info, io.BytesIO(b"{}"))
            if name == "README.txt" and odd == "link":
                info.type, info.linkname = tarfile.LNKTYPE, "keys.json"
            if name == "README.txt" and odd == "sparse":
                info.type = tarfile.GNUTYPE_SPARSE
            info.size = len(data) if info.type != tarfile.LNKTYPE else 0
            archive.addfile(info, io.BytesIO(data) if info.size else None)
    with pytest.raises(Unreadable):
        ours(tmp_path / "odd.pack", world.keys)
    assert theirs(tmp_path / "odd.pack", shed, world.keys)[0] == 1


def test_what_goes_on_behind_a_segments_end_is_refused(world: World, shed: Path, tmp_path: Path) -> None:
    members, name = world.members(), "journal/000001.ndjson.gz"
    members[name] += gzip.compress(b'{"kind":"x","body":{}}\n')
    refused(write(tmp_path / "two.pack", members), shed, world.keys, "journal")


def test_names_in_a_pack_cannot_steer_the_terminal(world: World, shed: Path, tmp_path: Path) -> None:
    members = {**world.members(), "x\x1b[2J\u202ey": b"x"}
    said = theirs(write(tmp_path / "odd.pack", members), shed, world.keys)[1]
    assert not {"\x1b", "\u202e"} & set(said)


def test_a_rate_is_withheld_where_too_little_is_covered_or_little_there_is() -> None:
    counts = {**dict.fromkeys(COUNTS, 0), "due": 1_000, "on_time": 900}
    assert rate("leaf", counts, DEFINITION) == 0.9
    assert rate("leaf", {**counts, "unused": 48}, DEFINITION) == round(900 / 952, 6)
    assert rate("leaf", {**counts, "unused": 60}, DEFINITION) is None  # many that "nobody used" are no better figure
    assert rate("leaf", {**counts, "unknown": 60}, DEFINITION) is None
    assert rate("intermediate", counts, DEFINITION) is None
