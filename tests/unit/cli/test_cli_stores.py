"""trustfed bundle fetch --from: what is verified is shown and left, what is refused is one line and an exit code."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fakes.cluster import Domain
from tests.fakes.tuf_store import TufStore
from trustfed.cli.main import main
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TufStore:
    made = TufStore(datetime.now(UTC))
    for name in ("west.test", "east.test"):
        made.add(name)
    made.publish()
    made.write(tmp_path / "store")
    (tmp_path / "root.json").write_bytes(made.root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "states"))
    return made


def fetch(*words: str) -> int:
    return main(["bundle", "fetch", "--from", "store", "--root", "root.json", *words])


def test_all_of_a_store_is_left_in_a_folder_and_verifies(
    store: TufStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert fetch("--write", "out", "--output", "json") == 0
    said = capsys.readouterr()
    assert "2 trust domain(s) verified and left in out" in said.err
    shown = json.loads(said.out)
    assert {one["trust_domain"] for one in shown["domains"]} == {"west.test", "east.test"}
    assert (shown["root_version"], shown["stale_seconds"]) == (1, 0)
    assert Bundle.parse(TrustDomain("west.test"), (tmp_path / "out" / "west.test.json").read_bytes()).sequence == 1
    verify = ["bundle", "verify", "out/west.test.envelope", "--trust-domain", "west.test"]
    assert main([*verify, "--publication-key", "out/west.test.pub"]) == 0
    (state,) = (tmp_path / "states" / "trustfed" / "stores").iterdir()
    assert state.stat().st_mode & 0o777 == 0o700


def test_what_was_seen_is_remembered_between_two_commands(
    store: TufStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = dict(store.files)
    store.publish()
    store.write(tmp_path / "store")
    assert fetch("--domain", "west.test") == 0
    for name, data in old.items():
        (tmp_path / "store" / name).write_bytes(data)
    assert fetch("--domain", "west.test") == 3
    said = capsys.readouterr()
    assert said.err.startswith("error: rollback refused: store: ") and said.err.count("\n") == 2


def test_stale_news_only_when_asked_for(store: TufStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.publish(datetime.now(UTC) - timedelta(hours=3))
    store.write(tmp_path / "store")
    assert fetch() == 3
    assert "freeze refused: the store's timestamp expired 2:00:0" in capsys.readouterr().err
    assert fetch("--accept-stale", "1h") == 3
    capsys.readouterr()
    assert fetch("--accept-stale", "3h") == 0
    assert "stale: the store's timestamp expired 2:00:0" in capsys.readouterr().err


def test_a_pinned_key(store: TufStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "west.pub").write_bytes(store.domains["west.test"].publication_key.spki)
    (tmp_path / "other.pub").write_bytes(Domain("west.test").publication_key.spki)
    assert fetch("--domain", "west.test", "--publication-key", "west.pub") == 0
    assert fetch("--domain", "west.test", "--publication-key", "other.pub") == 3
    assert "stolen delegation refused" in capsys.readouterr().err
    assert fetch("--publication-key", "west.pub") == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--domain", "north.test"), 4, "the store has nothing of trust domain north.test"),
        (("--domain", "No/Domain"), 2, "trust domain"),
        (("--write", "nowhere"), 4, "nowhere is not a folder"),
        (("--accept-stale", "soon"), 2, "is not a duration"),
        (("--timeout", "0s"), 2, "limits are"),
        (("--s3-endpoint", "https://s3.example"), 2, "endpoint is the address of an S3 server"),
        (("--s3-addressing", "odd"), 2, "auto, path or virtual"),
        (("https://x.example/y",), 2, "--from needs --root"),
    ],
)
def test_one_clear_error(
    store: TufStore, words: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(*words) == code
    assert said in capsys.readouterr().err


def test_an_endpoint_still_needs_its_url_and_domain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "fetch", "https://x.example/y"]) == 2
    assert "--trust-domain are needed, or --from and --root" in capsys.readouterr().err
