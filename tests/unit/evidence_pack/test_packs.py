"""Packs are made, and both verifiers agree on them: on good ones, and on every one that was tampered with."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.evidence_house import NAME, WINDOW, EvidenceHouse, canonical, lived
from trustfed.errors import Conflict, Invalid
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.pack import Reader, Unreadable
from trustfed.evidence.pack_export import Scope, export
from trustfed.evidence.pack_verify import Outcome, Verdict, verify
from trustfed.evidence.trust import Trust, read_trust

Members = dict[str, bytes]


class World:
    """One house, its pack, and what an auditor holds of it; an earlier checkpoint too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pack = folder / "good.pack"
        asyncio.run(self._make())

    async def _make(self) -> None:
        house = await lived(self.folder / "store")
        self.earlier = await house.checkpoint()
        await house.decide("entry.deleted", id="entry-x")
        self.manifest = await export(house, Scope(*WINDOW, 7_200_000), DEFINITION, self.pack, now_ms=house.at)
        self.later = self.earlier
        await house.decide("entry.deleted", id="entry-y")
        self.later = await house.checkpoint()
        self.keys = f"{house.vkey.text}\n{house.hub_vkey.text}\n".encode()
        self.fingerprint = house.publication.fingerprint.encode()
        await house.close()
        other = await lived(self.folder / "other", seed=2)
        self.other = self.folder / "other.pack"
        await export(other, Scope(*WINDOW, 7_200_000), DEFINITION, self.other, now_ms=other.at)
        await other.close()

    def members(self, pack: Path | None = None) -> Members:
        """All members of a pack."""
        with tarfile.open(pack or self.pack) as archive:
            return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield World(tmp_path_factory.mktemp("packs"))


def write(path: Path, members: Members, *, consistent: bool = True) -> Path:
    """A pack of these members; with a manifest that fits them, as a forger would make it."""
    if consistent:
        manifest = json.loads(members["manifest.json"])
        for one in manifest["members"]:
            data = members.get(one["name"], b"")
            one["size"], one["sha256"] = len(data), hashlib.sha256(data).hexdigest()
            if one["name"].endswith(".gz"):
                one["unpacked"] = len(gzip.decompress(data))
        members = {**members, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def lines(data: bytes) -> list[bytes]:
    return gzip.decompress(data).splitlines()


def packed(parts: list[bytes]) -> bytes:
    return gzip.compress(b"".join(one + b"\n" for one in parts))


def ours(pack: Path, *trust: bytes) -> Verdict:
    return verify(pack, read_trust([(f"trust-{n}", data) for n, data in enumerate(trust)]))


def theirs(pack: Path, folder: Path, *trust: bytes) -> tuple[int, str]:
    """The second verifier as it came in the good pack, begun anew each time."""
    verifier: dict[str, Any] = {"__name__": "verifier"}
    exec(compile((folder / "verify.py").read_text(), "verify.py", "exec"), verifier)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = verifier["run"](str(pack), list(trust))
    return code, said.getvalue()


def alone(pack: Path, folder: Path, *trust: bytes) -> int:
    """The same as an auditor runs it: a process of its own, without our code."""
    files = []
    for number, data in enumerate(trust):
        path = folder / f"trust-{number}.txt"
        path.write_bytes(data)
        files += ["--trust", str(path)]
    command = [sys.executable, "-I", str(folder / "verify.py"), str(pack), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def shed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pack's own verifier and nothing else."""
    folder = tmp_path_factory.mktemp("auditor")
    (folder / "verify.py").write_bytes(world.members()["verify.py"])
    return folder


def test_a_good_pack_is_verified_by_both(world: World, shed: Path) -> None:
    for trust in ((world.keys,), (world.earlier,), (world.fingerprint,), (world.keys, world.earlier)):
        verdict = ours(world.pack, *trust)
        assert verdict.outcome is Outcome.VERIFIED, verdict.faults
        assert theirs(world.pack, shed, *trust)[0] == 0
    assert alone(world.pack, shed, world.keys, world.earlier) == 0
    assert alone(world.pack, shed) == 3
    assert alone(world.other, shed, world.keys) == 1
    assert verdict.figures is not None
    assert verdict.figures.counts["leaf"]["due"] > 20


def test_without_trust_a_pack_is_only_consistent(world: World, shed: Path) -> None:
    assert ours(world.pack).outcome is Outcome.CONSISTENT
    code, said = theirs(world.pack, shed)
    assert code == 3
    assert "origin not established" in said


def test_the_second_verifier_is_short_and_alone(world: World) -> None:
    source = world.members()["verify.py"].decode()
    assert len(source.splitlines()) < 300
    assert "trustfed" not in {
        line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
    }


def _flip(name: str) -> Callable[[World], Members]:
    def change(world: World) -> Members:
        members = world.members()
        parts = lines(members[name])
        at = len(parts) // 2
        parts[at] = parts[at].replace(b'"at":1', b'"at":2', 1)
        return {**members, name: packed(parts)}

    return change


def _drop(name: str) -> Callable[[World], Members]:
    def change(world: World) -> Members:
        members = world.members()
        parts = lines(members[name])
        del parts[len(parts) // 2]
        manifest = json.loads(members["manifest.json"])
        log = name.split("/", maxsplit=1)[0]
        manifest[log]["last"] -= 1
        return {**members, name: packed(parts), "manifest.json": json.dumps(manifest).encode()}

    return change


def _swap(world: World) -> Members:
    members = world.members()
    parts = lines(members["ledger/000001.ndjson.gz"])
    parts[10:60], parts[60:110] = parts[60:110], parts[10:60]
    return {**members, "ledger/000001.ndjson.gz": packed(parts)}


def _old_checkpoint(world: World) -> Members:
    return {**world.members(), "checkpoint": world.earlier}


def _other_scope(world: World) -> Members:
    """The logs of one domain under the name of another."""
    members = world.members()
    manifest = json.loads(members["manifest.json"])
    manifest["trust_domain"] = "prod-eu"
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def _forged_cosignature(world: World) -> Members:
    members = world.members()
    note = members["checkpoint"].decode().splitlines()
    last = note[-1].rsplit(" ", 1)
    flipped = last[1][:-8] + ("A" if last[1][-8] != "A" else "B") + last[1][-7:]
    return {**members, "checkpoint": ("\n".join([*note[:-1], f"{last[0]} {flipped}"]) + "\n").encode()}


def _without_cosignature(world: World) -> Members:
    members = world.members()
    note = members["checkpoint"].decode().splitlines()
    keys = json.loads(members["keys.json"])
    return {
        **members,
        "checkpoint": ("\n".join(note[:-1]) + "\n").encode(),
        "keys.json": canonical({**keys, "cosigners": []}),
    }


def _better_figures(world: World) -> Members:
    members = world.members()
    figures = json.loads(members["figures.json"])
    leaf = figures["counts"]["leaf"]
    leaf["on_time"] += leaf.pop("expired", 0) + leaf.pop("late", 0)
    return {**members, "figures.json": canonical(figures)}


def _kinder_definition(world: World) -> Members:
    members = world.members()
    definition = json.loads(members["definition.json"])
    definition["on_time_permille"] = 990
    return {**members, "definition.json": canonical(definition)}


def _later_opening(world: World) -> Members:
    """The first facts left out, where no checkpoint stands."""
    members = world.members()
    parts = lines(members["ledger/000001.ndjson.gz"])
    manifest = json.loads(members["manifest.json"])
    manifest["ledger"]["first"] += 1
    opening = json.loads(members["opening.json"])
    opening = (
        [*opening, hashlib.sha256(b"\0" + parts[0]).hexdigest()] if manifest["ledger"]["first"] % 2 == 0 else opening
    )
    changed = {"ledger/000001.ndjson.gz": packed(parts[1:]), "opening.json": canonical(opening)}
    return {**members, **changed, "manifest.json": json.dumps(manifest).encode()}


def _earlier_end(world: World) -> Members:
    """The last facts left out."""
    members = world.members()
    name = sorted(one for one in members if one.startswith("ledger/"))[-1]
    manifest = json.loads(members["manifest.json"])
    manifest["ledger"]["last"] -= 1
    return {**members, name: packed(lines(members[name])[:-1]), "manifest.json": json.dumps(manifest).encode()}


def _foreign_ledger(world: World) -> Members:
    """Another domain's facts."""
    theirs = {name: data for name, data in world.members(world.other).items() if name.startswith("ledger/")}
    return {**world.members(), **theirs}


def _other_log_key(world: World) -> Members:
    return {**world.members(), "keys.json": world.members(world.other)["keys.json"]}


TAMPERED: dict[str, tuple[Callable[[World], Members], set[str]]] = {
    "one bit of a fact": (_flip("ledger/000001.ndjson.gz"), {"ledger"}),
    "one bit of a decision": (_flip("journal/000001.ndjson.gz"), {"journal"}),
    "a dropped fact": (_drop("ledger/000001.ndjson.gz"), {"ledger"}),
    "a dropped decision": (_drop("journal/000001.ndjson.gz"), {"journal"}),
    "swapped runs of facts": (_swap, {"ledger"}),
    "an old checkpoint": (_old_checkpoint, {"journal"}),
    "another scope's snapshot": (_other_scope, {"scope", "key", "signature"}),
    "a forged cosignature": (_forged_cosignature, {"signature", "cosignature"}),
    "no cosignature": (_without_cosignature, {"cosignature"}),
    "better figures": (_better_figures, {"figures"}),
    "a kinder definition": (_kinder_definition, {"definition"}),
    "a later opening": (_later_opening, {"opening", "ledger"}),
    "an earlier end": (_earlier_end, {"ledger"}),
    "another domain's facts": (_foreign_ledger, {"ledger"}),
    "another log's key": (_other_log_key, {"signature", "key"}),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_refused_by_both(name: str, world: World, shed: Path, tmp_path: Path) -> None:
    change, codes = TAMPERED[name]
    pack = write(tmp_path / "bad.pack", change(world))
    verdict = ours(pack, world.keys)
    assert verdict.outcome is Outcome.FAILED
    assert {fault.code for fault in verdict.faults} & codes, verdict.faults
    code, said = theirs(pack, shed, world.keys)
    assert code == 1, said
    assert "FAILS" in said


@pytest.mark.parametrize("name", TAMPERED)
def test_what_does_not_fit_the_manifest_is_named(name: str, world: World, shed: Path, tmp_path: Path) -> None:
    changed = TAMPERED[name][0](world)
    if changed["manifest.json"] != world.members()["manifest.json"]:
        return
    pack = write(tmp_path / "bad.pack", changed, consistent=False)
    assert "member" in {fault.code for fault in ours(pack, world.keys).faults}
    assert theirs(pack, shed, world.keys)[0] == 1


def test_a_cosigner_whom_the_auditor_did_not_name_is_said_to_prove_nothing(world: World) -> None:
    log, cosigner = world.keys.splitlines()[:2]
    said = [one.says for one in ours(world.pack, log).findings if one.code == "cosigner"]
    assert said == [
        f"cosigned by {cosigner.split(b'+')[0].decode()}, whom you did not name: to you that proves nothing"
    ]
    assert "cosigner" not in {one.code for one in ours(world.pack, world.keys).findings}


def test_a_pack_made_anew_with_other_keys_fools_nobody_who_holds_anything(world: World, shed: Path) -> None:
    assert ours(world.other).outcome is Outcome.CONSISTENT
    assert theirs(world.other, shed)[0] == 3
    for trust in (world.keys, world.earlier, world.fingerprint):
        verdict = ours(world.other, trust)
        assert verdict.outcome is Outcome.FAILED
        assert {fault.code for fault in verdict.faults} & {"origin", "fork", "cosignature", "checkpoint"}
        assert theirs(world.other, shed, trust)[0] == 1


def test_a_pack_older_than_what_the_auditor_holds_is_named(world: World, shed: Path) -> None:
    verdict = ours(world.pack, world.later)
    assert [fault.code for fault in verdict.faults] == ["checkpoint"]
    assert "older" in verdict.faults[0].says
    assert theirs(world.pack, shed, world.later)[0] == 1


@pytest.mark.parametrize("at", range(0, 20, 3))
def test_a_pack_that_was_cut_off_is_no_pack(at: int, world: World, shed: Path, tmp_path: Path) -> None:
    data = world.pack.read_bytes().rstrip(b"\0")
    (tmp_path / "cut.pack").write_bytes(data[: len(data) * at // 20])
    with contextlib.suppress(Unreadable):
        assert ours(tmp_path / "cut.pack", world.keys).faults
    assert theirs(tmp_path / "cut.pack", shed, world.keys)[0] == 1


def test_a_bomb_is_not_unpacked(world: World, tmp_path: Path) -> None:
    members = world.members()
    bomb = gzip.compress(b"\n" * (64 << 20))
    pack = write(tmp_path / "bomb.pack", {**members, "ledger/000001.ndjson.gz": bomb}, consistent=False)
    assert "ledger" in {fault.code for fault in ours(pack, world.keys).faults}


def test_names_that_no_pack_has_are_refused(world: World, tmp_path: Path) -> None:
    pack = write(tmp_path / "odd.pack", {**world.members(), "../etc/passwd": b"x"})
    assert "member" in {fault.code for fault in ours(pack, world.keys).faults}
    with pytest.raises(Unreadable):
        Reader(write(tmp_path / "long.pack", {**world.members(), "n" * 90: b"x"}))


def test_what_a_trust_file_must_hold() -> None:
    assert not read_trust([("empty", b"# nothing\n\n")])
    assert read_trust([("f", b"sha256:" + b"a" * 64)]) == Trust(fingerprints=("sha256:" + "a" * 64,))
    for bad in (b"hello", b"name+00000000+AA==", b"\xff\xfe"):
        with pytest.raises(Invalid, match="trust"):
            read_trust([("trust", bad)])


async def test_a_scope_that_is_none_is_refused(tmp_path: Path) -> None:
    house = await EvidenceHouse.open(tmp_path / "store")
    try:
        for scope in (Scope(300_000, 300_000, 0), Scope(0, 7, 0), Scope(-300_000, 0, 0)):
            with pytest.raises(Invalid):
                await export(house, scope, DEFINITION, tmp_path / "p", now_ms=1)
        (tmp_path / "there").write_bytes(b"x")
        with pytest.raises(Conflict, match="exists"):
            await export(house, Scope(0, 300_000, 0), DEFINITION, tmp_path / "there", now_ms=1)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["store", "there"]
        await export(house, Scope(0, 300_000, 0), DEFINITION, tmp_path / "empty.pack", now_ms=300_000)
    finally:
        await house.close()
    assert ours(tmp_path / "empty.pack").outcome is Outcome.CONSISTENT


def test_a_pack_says_whose_it_is(world: World) -> None:
    manifest: Any = json.loads(world.members()["manifest.json"])
    assert manifest["trust_domain"] == NAME
    assert manifest["journal"]["first"] == 1
    assert manifest["ledger"]["first"] > 1, "a pack need not hold what its scope cannot depend on"
