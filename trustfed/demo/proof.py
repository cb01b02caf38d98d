"""A step: a pack of a real cluster's evidence is made, verified by two programs, and refused by both after one bit changed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from trustfed.demo.door import ask
from trustfed.demo.house import CLI, House
from trustfed.demo.screen import Screen, milliseconds
from trustfed.errors import Unavailable
from trustfed.journal.merkle.vkey import COSIGNATURE, Vkey, parse_vkey

_SECONDS = 60.0


@dataclass
class _Running:
    name: str
    child: subprocess.Popen[str]


class Proof:
    """The step."""

    def __init__(self, place: House, screen: Screen) -> None:
        self._house, self._screen = place, screen
        self._west = place.clusters[0]
        self._folder = place.directory / "auditor"

    def verify(self) -> None:
        """Export, verify twice, change one bit, verify twice."""
        west, folder = self._west, self._folder
        with self._screen.step(
            f"a pack of {west.name}'s evidence verifies offline, and not with one bit changed"
        ) as step:
            folder.mkdir(mode=0o700)
            trust, pack, bad = folder / "keys.txt", folder / "today.pack", folder / "changed.pack"
            trust.write_text("".join(f"{line}\n" for line in (self._log_key(), self._cosigner())))
            step.say("the auditor holds the log's key, from the cluster, and the hub's as its cosigner")
            began = time.time()
            self._ended(self._cli("export", "--write", str(pack), "--from", "1h", "--socket", str(west.admin)), (0,))
            step.say(f"exported in {milliseconds(began)}: {pack.stat().st_size // 1024} KiB")
            second = self._second(pack)
            began = time.time()
            for said in self._both(pack, trust, second, (0,)):
                step.say(f"verified by {said}")
            step.say(f"both in {milliseconds(began)}")
            member, at = _flip(pack, bad)
            for said in self._both(bad, trust, second, (1,)):
                step.say(f"with one bit of {member} changed, at byte {at}: {said}")

    def _both(self, pack: Path, trust: Path, second: Path, codes: tuple[int, ...]) -> list[str]:
        """What each verifier says: the first thing that fails, or its verdict."""
        ours = self._cli("verify", str(pack), "--trust", str(trust))
        theirs = _run("the pack's own verify.py", [sys.executable, "-I", str(second), str(pack), "--trust", str(trust)])
        found = []
        for process in (ours, theirs):
            said = self._ended(process, codes).splitlines()
            fails = [line for line in said if line.startswith("FAILS")]
            found.append(f"{process.name}: {fails[0][:160] if fails else said[-1][:160]}")
        return found

    def _log_key(self) -> str:
        return self._ended(self._cli("keys", "--socket", str(self._west.admin)), (0,)).strip()

    def _cosigner(self) -> str:
        """The hub's log key as a cosigner's: another name and another kind for the same key."""
        log = parse_vkey(ask(self._house.hub.admin, "GET", "/evidence/checkpoint")["vkey"])
        return Vkey(log.name.rpartition("/")[0], COSIGNATURE, log.public).text

    def _second(self, pack: Path) -> Path:
        path = self._folder / "verify.py"
        with tarfile.open(pack) as archive:
            held = archive.extractfile("verify.py")
            assert held is not None
            path.write_bytes(held.read())
        return path

    def _cli(self, *words: str) -> _Running:
        return _run(f"trustfed evidence {words[0]}", [*CLI, "evidence", *words])

    def _ended(self, process: _Running, codes: tuple[int, ...]) -> str:
        try:
            out, errors = process.child.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.child.kill()
            process.child.communicate()
            raise Unavailable(f"{process.name} took more than {_SECONDS:.0f} s") from None
        if process.child.returncode not in codes:
            last = (errors or out).strip().splitlines()[-1:] or ["it said nothing"]
            raise Unavailable(f"{process.name} ended with {process.child.returncode}: {last[0][:300]}")
        return out


def _run(name: str, argv: list[str]) -> _Running:
    pipe = subprocess.PIPE
    return _Running(
        name,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, process_group=0),
    )


def _flip(pack: Path, bad: Path) -> tuple[str, int]:
    """A copy with one bit changed in the middle of the ledger's entries; gives the member's name and the byte."""
    with tarfile.open(pack) as archive:
        member = next(one for one in archive.getmembers() if one.name.startswith("ledger/"))
    data = bytearray(pack.read_bytes())
    at = member.offset_data + member.size // 2
    data[at] ^= 1
    bad.write_bytes(data)
    return member.name, at
