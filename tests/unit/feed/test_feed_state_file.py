"""The last routes on disk: one of the states that were saved, or nothing at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.routes import service_entry
from trustfed.errors import Invalid, Unavailable
from trustfed.feed.intake import State
from trustfed.feed.resources import accept
from trustfed.feed.state_file import StateFile

ROOT = Path(__file__).resolve().parents[3]


def state(weight: int, count: int = 20) -> State:
    made = [service_entry(f"s{number}", weight=weight) for number in range(count)]
    return State({r.key: accept(r.key, r.version, 7, r.manifest) for r in made}, {}, weight)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path, "west")
    assert file.load() is None
    file.save(state(1))
    assert file.load() == state(1)
    assert (tmp_path / "routes.jsonl").stat().st_mode & 0o777 == 0o600
    file.confirm(99)
    loaded = file.load()
    assert loaded is not None and loaded.confirmed_ms == 99
    file.save(State())
    loaded = StateFile(tmp_path, "west").load()
    assert loaded is not None and not loaded.resources  # known to be empty is not the same as unknown
    with pytest.raises(Invalid, match="not of a feed of east"):
        StateFile(tmp_path, "east").load()


def test_damage_is_never_taken_for_routes(tmp_path: Path) -> None:
    file, path = StateFile(tmp_path, "west"), tmp_path / "routes.jsonl"
    file.save(state(1))
    whole = path.read_bytes()
    lines = whole.splitlines()
    head = json.loads(lines[0])
    one = json.loads(lines[1])
    for data in (
        b"",
        b"\x00" * 64,
        whole.replace(b'"confirmed_ms": 1', b'"confirmed_ms": 1e999', 1),
        whole.replace(b", 7, ", b", 1e999, ", 1),
        whole[:-40],
        b"\n".join(lines[:-1]),
        b"\n".join([*lines, lines[1].replace(b"s0", b"s9")]),
        whole.replace(b"203.0.113.20", b"203.0.113.66"),
        whole.replace(b"203.0.113.20", b"203.0.113.66", 1),
        json.dumps({**head, "format": 2}).encode(),
        json.dumps({**head, "digest": "00"}).encode() + b"\n" + b"\n".join(lines[1:]),
        lines[0] + b"\n" + json.dumps(one[:3]).encode(),
        b"[" * 50_000,
    ):
        path.write_bytes(data)
        with pytest.raises(Invalid):
            file.load()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    file = StateFile(tmp_path, "west")
    file.save(state(1))
    tmp_path.chmod(0o500)
    try:
        if os.geteuid() != 0:
            with pytest.raises(Unavailable):
                file.save(state(2))
    finally:
        tmp_path.chmod(0o700)
    assert file.load() == state(1)


def test_killed_at_any_moment_one_whole_state_is_there(tmp_path: Path) -> None:
    """kill -9 in the middle of saving, several times: the next process finds a state that was saved, and cleans up."""
    code = (
        "import sys; from pathlib import Path; from tests.unit.feed.test_feed_state_file import state, StateFile\n"
        "file = StateFile(Path(sys.argv[1]), 'west'); states = [state(1), state(2)]; n = 0\n"
        "file.save(states[0]); print('up', flush=True)\n"
        "while True:\n    n += 1; file.save(states[n % 2])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    # One process is killed; what each moment would have left is what a copy of the folder at that moment holds.
    for pause in (0.011, 0.023, 0.005, 0.017):
        time.sleep(pause)
        process.send_signal(signal.SIGSTOP)
        assert StateFile(tmp_path, "west").load() in (state(1), state(2))
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait(10)
    found = StateFile(tmp_path, "west")
    assert found.load() in (state(1), state(2))
    found.clean()
    assert not list(tmp_path.glob(".*.tmp"))
