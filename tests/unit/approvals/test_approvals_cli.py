"""The commands, as transcripts: proposed, listed, shown, approved, withdrawn, broken; and the journal searched and verified."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.hub.hub_parts import HubParts
from trustfed.cli.journalcheck import Expected, Walk
from trustfed.cli.main import main
from trustfed.errors import Conflict, Denied
from trustfed.hub import presentation
from trustfed.hub.access import Caller
from trustfed.hub.approvals import NEXT_ROOT
from trustfed.hub.public import admin_app
from trustfed.journal.merkle.checkpoint import Checkpoint, assemble, origin_of, payload_to_sign
from trustfed.journal.merkle.hashing import leaf_hash
from trustfed.journal.merkle.ranges import CompactRange
from trustfed.journal.merkle.vkey import vkey_of
from trustfed.runtime import web
from trustfed.runtime.sockets import listen_admin

ME = f"uid:{os.geteuid()}"
ANN = Caller("uid:4001", "admin")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("HUB", "CLUSTER"):
        monkeypatch.delenv(f"TRUSTFED_{name}_SOCKET", raising=False)
    with tempfile.TemporaryDirectory(prefix="tf-") as made:
        yield Path(made)


@pytest_asyncio.fixture
async def hub(folder: Path) -> AsyncIterator[HubParts]:
    made = await HubParts.make()
    door = await web.serve(admin_app(made.parts(), lambda: True), listen_admin(folder / "s"))
    yield made
    await door.close()
    await made.close()


class Shell:
    """`trustfed ...` at the hub's socket."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._socket, self._capsys = str(folder / "s"), capsys

    async def __call__(self, *words: str, code: int = 0) -> str:
        at = [] if words[0] in ("root", "domain") else ["--hub"]
        self._capsys.readouterr()
        found = await asyncio.to_thread(main, [*words, *at, "--socket", self._socket])
        out, err = self._capsys.readouterr()
        assert found == code, (words, out, err)
        return out + err


@pytest.fixture
def shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(folder, capsys)


async def test_a_command_says_who_is_needed_and_what_to_type(hub: HubParts, shell: Shell) -> None:
    said = await shell("root", "prepare", "--reason", "yearly")
    (one,) = hub.state.proposals.values()
    assert said.startswith(f"proposed {one.id}: put root-2 into the root set; until ")
    assert said.endswith(f"another person approves it with: trustfed approval approve {one.id} --hub\n")
    as_json = json.loads(await shell("root", "prepare", "--reason", "yearly", "--output", "json"))
    assert (as_json["proposal"], as_json["needs"]) == (one.id, "another person")
    listed = await shell("approval", "list")
    assert one.id in listed
    assert ME in listed
    assert one.body_hash in await shell("approval", "show", one.id)
    refused = await shell("approval", "approve", one.id, code=3)
    assert f"both are {ME}" in refused
    assert "withdrawn: put root-2" in await shell("approval", "withdraw", one.id, "--reason", "next week")
    assert (await shell("approval", "list")).strip() == "none"
    assert "withdrawn" in await shell("approval", "list", "--all")
    assert "approval list" in await shell("approval", "show", "0000", code=4)


async def test_another_person_approves_what_was_proposed(hub: HubParts, shell: Shell) -> None:
    asked = await hub.operations.ask(ANN, NEXT_ROOT, "yearly")
    assert asked.proposal is not None
    said = await shell("approval", "approve", asked.proposal.id)
    assert said == "approved and done: put root-2 into the root set (proposed by uid:4001: yearly)\n"
    assert [root.status for root in hub.state.roots] == ["active", "prepared"]


async def test_one_person_alone_is_listed(hub: HubParts, shell: Shell) -> None:
    assert "at least 10 characters" in await shell("root", "prepare", "--reason", "now", "--break-glass", code=2)
    done = await shell("root", "prepare", "--reason", "one person on duty", "--break-glass")
    assert done == "root set 2 holds 2 roots\n"
    listed = json.loads(await shell("approval", "list", "--broken", "--output", "json"))
    assert [(one["status"], one["proposed_by"], one["reason"]) for one in listed] == [
        ("broken", ME, "one person on duty")
    ]


async def test_the_trail_is_searched_and_shown(hub: HubParts, shell: Shell) -> None:
    await shell("root", "prepare", "--reason", "one person on duty", "--break-glass")
    await hub.enrolled("west")
    found = json.loads(await shell("audit", "list", "--kind", "root.*", "--since", "1h", "--output", "json"))
    assert [one["kind"] for one in found] == ["root.prepared", "root.created"]
    table = await shell("audit", "list", "--outcome", "done alone")
    assert "glass.broken" in table
    assert "admin socket" in table
    assert "west" not in await shell("audit", "list", "--until", "30d")
    (first,) = json.loads(await shell("audit", "list", "--contains", "ONE PERSON", "--last", "1", "--output", "json"))
    shown = await shell("audit", "show", str(first["position"]))
    assert "one person on duty" in shown
    assert "no position 9999" in await shell("audit", "show", "9999", code=4)
    assert "unknown" in await shell("audit", "list", "--outcome", "great", code=2)
    assert "1  " in await shell("audit", "list", "--after", "0", "--limit", "1")


def noted(records: list[Any], size: int, key: Ed25519PrivateKey) -> tuple[bytes, str]:
    """A signed checkpoint over the first `size` of these, and the log's key."""
    tree = CompactRange()
    for record in records[:size]:
        tree.append(leaf_hash(record.canonical))
    origin = origin_of("hub.example", "journal")
    checkpoint, vkey = Checkpoint(origin, size, tree.root()), vkey_of(origin, key.public_key())
    return assemble(checkpoint, vkey, key.sign(payload_to_sign(checkpoint))).data, vkey.text


async def test_the_journal_is_held_to_a_checkpoint_that_somebody_kept(
    hub: HubParts, shell: Shell, folder: Path
) -> None:
    await hub.enrolled("west")
    records, note, vkey = await hub.journal.read(0, 1000), folder / "note", folder / "vkey"
    data, text = noted(records, len(records) - 1, Ed25519PrivateKey.generate())
    note.write_bytes(data)
    vkey.write_text(text + "\n")
    assert "no checkpoint yet" in Walk(None).end()
    assert "signed by trustfed/hub.example/journal" in await shell(
        "audit", "verify", "--checkpoint", str(note), "--log-key", str(vkey)
    )
    assert "was not checked" in await shell("audit", "verify", "--checkpoint", str(note))
    _, other = noted(records, 1, Ed25519PrivateKey.generate())
    vkey.write_text(other)
    await shell("audit", "verify", "--checkpoint", str(note), "--log-key", str(vkey), code=3)


@pytest.mark.parametrize(("fault", "said"), [("changed", "was rewritten"), ("cut", "was signed"), ("forged", "verif")])
async def test_a_journal_that_is_not_the_one_that_was_signed(hub: HubParts, fault: str, said: str) -> None:
    records = await hub.journal.read(0, 1000)
    note, vkey = noted(records, len(records), Ed25519PrivateKey.generate())
    events = [presentation.event(record) for record in records]
    match fault:
        case "changed":
            events[0] = {**events[0], "reason": "another"}
        case "cut":
            events.pop()
        case "forged":
            note = note.replace(b"\n3\n", b"\n2\n")
    with pytest.raises((Conflict, Denied)) as told:
        walk = Walk(Expected.signed(note, "key", vkey.encode(), "kept"))
        for event in events:
            walk.step(event)
        walk.end()
    assert said in told.value.message
