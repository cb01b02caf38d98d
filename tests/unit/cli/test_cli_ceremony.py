"""The ceremony of the protected publication's root, command by command, as its people type it."""

from __future__ import annotations

import base64
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bundle_publisher.tuf import root
from bundle_publisher.tuf.online import OnlineKeys
from ca.keys.memory import MemoryKeys
from trustfed.cli.main import main


class Table:
    """People around a table: a folder with their files, and the online keys of a hub."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    async def online(self) -> OnlineKeys:
        keys = OnlineKeys(MemoryKeys())
        self.write_online(await keys.newest())
        return keys

    def write_online(self, found: dict) -> None:  # type: ignore[type-arg]
        shown = {name: base64.b64encode(key.spki).decode() for name, key in found.items()}
        self.path("online.json").write_text(json.dumps(shown))

    def path(self, name: str) -> Path:
        return self.folder / name

    def type(self, line: str, code: int = 0) -> str:
        """Run one command in the folder; what it said."""
        words = [str(self.path(word[1:])) if word.startswith("/") else word for word in line.split()]
        words = ["@" + str(self.path(word[2:])) if word.startswith("@/") else word for word in words]
        assert main(["publication", "root", *words]) == code, self._capsys.readouterr()
        said = self._capsys.readouterr()
        return said.out + said.err


@pytest.fixture
def table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Table:
    return Table(tmp_path, capsys)


CREATE = "create --online /online.json --key /a.pem.pub --key /b.pem.pub --key /c.pem.pub --threshold 2 --write /1.json"


async def founded(table: Table) -> OnlineKeys:
    keys = await table.online()
    for name in "abc":
        table.type(f"key --write /{name}.pem")
    table.type(CREATE)
    return keys


async def test_two_of_three_people_make_a_root_and_its_successor(table: Table) -> None:
    keys = await founded(table)
    assert "wants 1 more signature(s)" in table.type("sign /1.json --key /a.pem")
    assert "wants 1 more signature(s)" in table.type("sign /1.json --key /a.pem")  # twice is once
    assert "is complete: install it" in table.type("sign /1.json --key /c.pem")
    first = table.path("1.json").read_bytes()
    assert root.check_next(first, [], datetime.now(UTC)).signed.version == 1

    table.type("key --write /d.pem")
    table.write_online(await keys.newest(anew=True))
    said = table.type(
        "rotate --previous /1.json --online /online.json --key /a.pem.pub --key /d.pem.pub --threshold 2 --write /2.json"
    )
    assert "wants 2 more signature(s) and 2 more of version 1's keys" in said
    table.type("sign /2.json --key /a.pem --previous /1.json")
    table.type("sign /2.json --key /d.pem --previous /1.json")
    assert "is complete" in table.type("sign /2.json --key /b.pem --previous /1.json")
    second = table.path("2.json").read_bytes()
    assert root.check_next(second, [first], datetime.now(UTC)).signed.version == 2
    shown = json.loads(table.type("show /2.json --previous /1.json --output json"))
    assert (shown["version"], shown["missing"], shown["version_1_missing"]) == (2, 0, 0)
    assert len(shown["signed"]) == 2 and len(shown["version_1_signed"]) == 2


async def test_keys_are_private_files_encrypted_on_demand_and_never_overwritten(table: Table) -> None:
    await founded(table)
    assert stat.S_IMODE(table.path("a.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(table.path("a.pem.pub").stat().st_mode) == 0o644
    assert "exists already" in table.type("key --write /a.pem", 5)
    for name, secret in (("pass", "correct horse battery"), ("wrong", "incorrect horse battery"), ("short", "x")):
        table.path(name).write_text(secret + "\n")
        table.path(name).chmod(0o600)
    assert "too short" in table.type("key --write /e.pem --passphrase @/short", 2)
    table.type("key --write /e.pem --passphrase @/pass")
    assert b"ENCRYPTED" in table.path("e.pem").read_bytes()
    table.type(
        "create --online /online.json --key /e.pem.pub --threshold 1 --expires 30d --write /one.json",
    )
    assert "is encrypted" in table.type("sign /one.json --key /e.pem", 2)
    assert "cannot be read as a private key" in table.type("sign /one.json --key /e.pem --passphrase @/wrong", 2)
    assert "is complete" in table.type("sign /one.json --key /e.pem --passphrase @/pass")
    table.path("a.pem").chmod(0o644)
    assert "chmod 600" in table.type("sign /1.json --key /a.pem", 2)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (CREATE, 5, "exists already"),
        (CREATE.replace("/1.json", "/x.json").replace("--threshold 2", "--threshold 4"), 2, "threshold of 4"),
        (CREATE.replace("/1.json", "/x.json") + " --expires 1990-01-01T00:00:00Z", 2, "of no use"),
        (CREATE.replace("/1.json", "/x.json").replace("/online.json", "/a.pem.pub"), 2, "trustfed publication keys"),
        (CREATE.replace("/1.json", "/x.json").replace("/a.pem.pub", "/online.json"), 2, "holds no public key"),
        (CREATE.replace("/1.json", "/x.json").replace("/b.pem.pub", "/a.pem.pub"), 2, "named twice"),
        ("sign /1.json --key /online.json", 2, "open to others"),
        ("sign /none.json --key /a.pem", 4, "does not exist"),
        ("sign /a.pem.pub --key /a.pem", 2, "not JSON"),
        ("sign /1.json --key /stranger.pem", 2, "none of this root's keys"),
        ("show /1.json --previous /1.json", 5, "does not follow"),
    ],
)
async def test_one_clear_error_for(table: Table, line: str, code: int, said: str) -> None:
    await founded(table)
    table.type("key --write /stranger.pem")
    assert said in table.type(line, code)
