"""Commands against a real door on a Unix socket: what they ask, what they print, how they fail."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trustfed.cli.main import main
from trustfed.cli.options import moment
from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.runtime import unix_http
from trustfed.runtime.sockets import listen_unix
from trustfed.runtime.unix_http import Request, Response


class Door:
    """A door of our own kind that gives prepared answers, and keeps what was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[tuple[str, str], object] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._door: unix_http.Door | None = None

    def answer(self, method: str, path: str, value: object) -> None:
        self.answers[method, path] = value

    def open(self) -> None:
        routes = dict.fromkeys(self.answers, self._answered)
        opening = unix_http.serve(listen_unix(self.path), routes)
        self._door = asyncio.run_coroutine_threadsafe(opening, self._loop).result(5)

    async def _answered(self, request: Request) -> Response:
        self.asked.append((request.method, request.path, request.json() if request.body else dict(request.query)))
        value = self.answers[request.method, request.path]
        if isinstance(value, TrustfedError):
            raise value
        if isinstance(value, Response):
            return value
        return Response(body=value) if isinstance(value, bytes) else Response.of(value)

    def close(self) -> None:
        if self._door:
            asyncio.run_coroutine_threadsafe(self._door.close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    for name in ("HUB", "CLUSTER", "AGENT", "FEED"):
        monkeypatch.delenv(f"TRUSTFED_{name}_SOCKET", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = Door(Path(folder) / "s")
        yield made
        made.close()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


GRANT = {
    "id": "g1",
    "importer": "a",
    "exporter": "b",
    "state": "offered",
    "until": "2027-01-01T00:00:00Z",
    "reason": "x\x1b[31m\ny",
    "exporter_fingerprint": "sha256:1",
}


def test_json_is_exact_and_a_table_is_for_people(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("GET", "/grants", {"grants": [GRANT]})
    door.open()
    code, out, _ = run(capsys, "grant", "list", "--socket", str(door.path), "--output", "json")
    assert (code, json.loads(out)) == (0, [GRANT])
    code, out, _ = run(capsys, "grant", "list", "--socket", str(door.path))
    assert code == 0 and "\x1b" not in out
    heading, row = out.splitlines()
    assert heading.split() == ["ID", "IMPORTER", "EXPORTER", "STATE", "UNTIL", "REASON", "EXPORTER'S", "KEY"]
    assert row.split()[:4] == ["g1", "a", "b", "offered"] and "sha256:1" in row
    assert "x\\x1b[31m\\ny" in row  # what an operator elsewhere wrote cannot steer this terminal


def test_a_long_row_stays_on_one_line_in_a_pipe(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("GET", "/grants", {"grants": [{**GRANT, "reason": "because " * 60}]})
    door.open()
    _, out, _ = run(capsys, "grant", "list", "--socket", str(door.path))
    assert len(out.splitlines()) == 2


def test_an_empty_listing_says_so(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("GET", "/entries", {"entries": []})
    door.open()
    assert run(capsys, "entry", "list", "--socket", str(door.path))[:2] == (0, "none\n")
    assert run(capsys, "entry", "list", "--socket", str(door.path), "-o", "json")[:2] == (0, "[]\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("bad", hint="do better"), 2),
        (Denied("bad", hint="do better"), 3),
        (NotFound("bad", hint="do better"), 4),
        (Conflict("bad", hint="do better"), 5),
        (Unavailable("bad", hint="do better"), 6),
    ],
)
def test_a_refusal_is_one_line_a_hint_and_its_exit_code(
    door: Door, capsys: pytest.CaptureFixture[str], error: TrustfedError, code: int
) -> None:
    door.answer("POST", "/grants/g1/end", error)
    door.open()
    found = run(capsys, "grant", "end", "g1", "--reason", "r", "--socket", str(door.path))
    assert found == (code, "", "error: bad\n  hint: do better\n")


def test_no_door_is_unavailable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "entry", "list", "--socket", str(tmp_path / "none"))
    assert (code, out) == (6, "")
    assert "cannot be reached: no such file or directory" in err and "TRUSTFED_CLUSTER_SOCKET" in err


def test_what_is_not_json_is_one_clear_error(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("GET", "/entries", b"<html>")
    door.open()
    code, _, err = run(capsys, "entry", "list", "--socket", str(door.path))
    assert code == 6 and "not JSON" in err and "Traceback" not in err


def test_the_environment_names_the_socket(
    door: Door, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    door.answer("GET", "/domains", {"domains": []})
    door.answer("GET", "/bundles", {"bundles": []})
    door.open()
    monkeypatch.setenv("TRUSTFED_HUB_SOCKET", str(door.path))
    assert run(capsys, "domain", "list")[0] == 0
    assert run(capsys, "bundle", "list")[0] == 0  # only the hub's is named, so it is asked
    assert [path for _, path, _ in door.asked] == ["/domains", "/domains"]
    monkeypatch.setenv("TRUSTFED_CLUSTER_SOCKET", str(door.path))
    assert run(capsys, "bundle", "list")[0] == 0  # both are: the cluster
    assert run(capsys, "bundle", "list", "--hub")[0] == 0
    assert [path for _, path, _ in door.asked][2:] == ["/bundles", "/domains"]


def test_names_are_one_segment_of_a_path(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("GET", "/entries", {"entries": []})
    door.open()
    code, _, err = run(capsys, "entry", "show", "../grants", "--socket", str(door.path))
    assert code == 4 and "..%2Fgrants" in err


def test_a_token_goes_to_a_file_0600_or_alone_to_standard_output(
    door: Door, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    door.answer("POST", "/nodes/tokens", {"token": "trustfed-node-1-secret"})
    door.open()
    file = tmp_path / "t"
    code, out, err = run(capsys, "node", "token", "n", "--ttl", "1h", "--write", str(file), "--socket", str(door.path))
    assert (code, out) == (0, "") and "secret" not in err
    assert file.read_text() == "trustfed-node-1-secret\n" and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run(capsys, "node", "token", "n", "--socket", str(door.path))[1] == "trustfed-node-1-secret\n"
    assert door.asked[0][2] == {"name": "n", "groups": [], "ttl": "1h"}


def test_what_went_with_a_revoked_token_is_named(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("DELETE", "/tokens/ab", {"id": "ab", "revoked": True, "also": ["cd", "ef"]})
    door.answer("POST", "/evidence/forget-hub-log", {"forgotten": True})
    door.answer("GET", "/tokens", {"tokens": [{"id": "cd", "name": "ci", "role": "admin", "made_by": "token:ab"}]})
    door.open()
    code, out, _ = run(capsys, "token", "revoke", "ab", "--socket", str(door.path))
    assert (code, out.splitlines()) == (
        0,
        [
            "token ab is revoked",
            "token cd, which was made with it, is revoked",
            "token ef, which was made with it, is revoked",
        ],
    )
    assert "token:ab" in run(capsys, "token", "list", "--socket", str(door.path))[1]
    forgotten = run(capsys, "evidence", "forget-hub-log", "--reason", "made anew", "--socket", str(door.path))
    assert forgotten[:2] == (0, "the hub's log is forgotten\n") and door.asked[-1][2] == {"reason": "made anew"}


def test_a_token_is_never_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("cluster", "init", "trustfed-cluster-1-x"), ("agent", "serve", "--join", "trustfed-node-1-x")):
        code, _, err = run(capsys, *words, "--config", "none.toml")
        assert code == 2 and "must not stand in the command line" in err and "-1-x" not in err


@pytest.mark.parametrize(
    ("mode", "content", "code", "said"),
    [(0o644, "t", 2, "open to others"), (0o600, "", 2, "empty"), (0o600, "x" * 20_000, 2, "more than")],
)
def test_token_files_are_private_whole_and_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, content: str, code: int, said: str
) -> None:
    file = tmp_path / "t"
    file.write_text(content)
    file.chmod(mode)
    found = run(capsys, "cluster", "init", f"@{file}", "--config", "none.toml")
    assert found[0] == code and said in found[2]


def test_a_token_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("token\n"))
    code, _, err = run(capsys, "cluster", "init", "-", "--config", str(tmp_path / "none.toml"))
    assert code == 4 and "none.toml" in err  # the token was taken, and the next thing is missing


def test_entry_update_changes_only_what_is_given(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    held = {
        "id": "e",
        "spiffe_id": "spiffe://a/b",
        "parent": "node/n",
        "selectors": ["unix:uid:1"],
        "x509_ttl": 60,
        "jwt_ttl": 300,
        "federates_with": ["c"],
        "admin": True,
        "created_at": "2026-01-01T00:00:00Z",
        "type": "entry.put",
    }
    door.answer("GET", "/entries/e", held)
    door.answer("PUT", "/entries/e", held)
    door.open()
    code, _, err = run(capsys, "entry", "update", "e", "--ttl", "2m", "--no-admin", "--socket", str(door.path))
    assert code == 0, err
    sent = door.asked[1][2]
    assert sent["x509_ttl"] == 120 and sent["admin"] is False and sent["federates_with"] == ["c"]
    assert "created_at" not in sent and "type" not in sent


def test_audit_verify_finds_what_is_missing(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    def event(position: int) -> dict[str, object]:
        return {"position": position, "id": f"e{position}", "at": "2026-11-21T10:07:06Z", "kind": "k", "actor": "uid:0"}

    door.answer("GET", "/status", {"position": 3})
    door.answer("GET", "/events", {"events": [event(1), event(3)], "next": None})
    door.open()
    code, _, err = run(capsys, "audit", "verify", "--socket", str(door.path))
    assert code == 6 and "event 2 is missing" in err
    code, out, _ = run(capsys, "audit", "list", "--after", "0", "--socket", str(door.path))
    assert code == 0 and "2026-11-21T" in out


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (("nosuch",), "No such command 'nosuch'"),
        (("grant", "offer"), "Missing argument"),
        (("entry", "list", "--output", "xml"), "xml"),
        (("hub", "serve"), "no configuration was named"),
    ):
        code, out, err = run(capsys, *words)
        assert (code, out) == (2, "")
        assert said in err and err.startswith("error: ") and len(err.splitlines()) == 2, err


def test_ctrl_c_is_130_without_a_traceback(door: Door) -> None:
    listener = listen_unix(door.path)  # connects, and never answers
    argv = [sys.executable, "-m", "trustfed.cli", "svid", "watch", "--socket", str(door.path)]
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with listener:
        listener.settimeout(30)
        connection, _ = listener.accept()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
        connection.close()
    assert (running.returncode, out) == (130, "") and "Traceback" not in err, err


def test_a_reader_that_goes_away_is_no_error() -> None:
    argv = [sys.executable, "-m", "trustfed.cli", "hub", "init", "--print-config"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, timeout=20)
    os.close(write)
    assert done.stderr == ""


def test_moments() -> None:
    assert moment("2027-01-31T13:00:00+01:00") == "2027-01-31T12:00:00Z"
    assert moment("90d").endswith("Z")
    for text in ("2027-01-31T13:00:00", "soon", ""):
        with pytest.raises(Invalid):
            moment(text)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("token", "revoke", ""), "is empty"),
        (("entry", "delete", ""), "is empty"),
        (("token", "revoke", "\udcff"), "not UTF-8"),
        (("audit", "list", "--actor", "\udcff"), "not UTF-8"),
    ],
)
def test_what_names_nothing_is_not_asked(
    door: Door, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    door.open()
    code, out, err = run(capsys, *words, "--socket", str(door.path))
    assert code not in (0, 1) and why in err and not out and not door.asked


def test_a_redirect_is_no_success(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("DELETE", "/entries/x", Response(307, headers={"location": "http://elsewhere/entries"}))
    door.open()
    code, out, err = run(capsys, "entry", "delete", "x", "--socket", str(door.path))
    assert code == 6 and "307" in err and not out
