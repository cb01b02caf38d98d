"""`trustfed route` against the cluster's own paths on a real socket."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bundle_publisher.istio import owners
from tests.unit.cluster_mesh.routes_house import EAST, HOST, OWN, House, export, rule
from trustfed.cli.main import main
from trustfed.cluster.mesh.admin_routes import route_paths
from trustfed.runtime import web
from trustfed.runtime.paths import Paths
from trustfed.runtime.problems import map_errors
from trustfed.runtime.sockets import listen_unix

STOCK = "stock.shop.svc.cluster.local"


class Door:
    """The paths on a socket, served by a loop of their own."""

    def __init__(self, path: Path) -> None:
        self.path, self.house = path, House()
        self.house.usual()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._door = self._run(self._open())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _open(self) -> web.HttpDoor:
        app = Paths()
        map_errors(app)
        route_paths(app, self.house.explain)
        return await web.serve(app, listen_unix(self.path))

    def close(self) -> None:
        self._run(self._door.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with tempfile.TemporaryDirectory() as directory:
        opened = Door(Path(directory) / "admin.sock")
        monkeypatch.setenv("TRUSTFED_CLUSTER_SOCKET", str(opened.path))
        yield opened
        opened.close()


def test_list_shows_hosts_their_state_and_their_age(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.house.put(export(OWN, STOCK, ()))
    assert main(["route", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["HOST", "FROM", "STATE", "WHY"]
    assert [line.split()[0] for line in lines[1:]] == [HOST, STOCK]
    assert EAST in lines[1] and "rendered" in lines[1] and "closed" in lines[2]
    assert main(["route", "list", "--output", "json"]) == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["rendered", "not imported"]


def test_explain_answers_in_words(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "explain", "payments.shop"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"{HOST} from {OWN}: rendered\n- calls from {OWN} reach {HOST} in {EAST} through east-1 (rendered)\n"
    )
    assert "  ServiceEntry/shop/trustfed-payments\n" in out
    door.house.local("none")
    assert main(["route", "explain", HOST, "--from", OWN]) == 0
    out = capsys.readouterr().out
    assert "waiting" in out and "(local-without-sidecars)" in out and "trustfed mesh local" in out
    assert main(["route", "explain", HOST, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["reasons"][0]["code"] == "local-without-sidecars"


def test_explain_says_whom_to_ask_and_what_is_spelled_alike(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "explain", HOST, "--from", EAST]) == 5
    assert f"ask {EAST}" in capsys.readouterr().err
    assert main(["route", "explain", "paymnts.shop"]) == 4
    assert f"did you mean {HOST}?" in capsys.readouterr().err
    assert main(["route", "explain", HOST, "--from", "Not A Domain"]) == 2
    assert main(["route", "patch", HOST]) == 4
    assert door.house.codes() == ["rendered"]


def test_a_patch_is_yaml_that_its_owner_applies(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.house.local(rules=[rule(loadBalancer={"simple": "RANDOM"}), rule("client", "*", "wild")])
    assert main(["route", "patch", "payments.shop"]) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [one["metadata"]["namespace"] for one in documents] == ["client", "shop"]
    read = owners.read(json.dumps(documents).encode(), HOST)
    door.house.local(rules=[dict(one) for one in read])
    assert door.house.codes() == ["rendered-beside-rule"]
