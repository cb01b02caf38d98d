"""`trustfed gateway|export|import|mesh` against the cluster's own paths on a real socket, over a journal in memory."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cluster_mesh.desired_house import HOST, House, gateway, local
from trustfed.cli.main import main
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.mesh.admin_mesh import mesh_paths
from trustfed.cluster.mesh.admin_mesh_desired import desired_paths
from trustfed.cluster.mesh.compose import MAX_BODY
from trustfed.runtime import web
from trustfed.runtime.paths import Paths
from trustfed.runtime.problems import map_errors
from trustfed.runtime.reach import Reach
from trustfed.runtime.sockets import listen_unix

PAYMENTS = "payments.shop.svc.cluster.local"
GATEWAY = ("gateway", "add", "west-1", "--address", "203.0.113.20", "--network", "prod-us-west")
EXPORT = (
    "export", "add", PAYMENTS, "--port", "8080:http:http", "--answer", "spiffe://prod-us-west/ns/shop/sa/payments",
    "--caller", "spiffe://prod-eu-central", "--workload", "app=payments", "--group", "shop",
)  # fmt: skip
IMPORT = ("import", "add", "stock", "--from", "prod-eu-central", "--host", HOST)


class Door:
    """A cluster's mesh paths on a socket, served by a loop of their own."""

    def __init__(self, path: Path) -> None:
        self.path, self.house, self.watched = path, House(), ""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._door = self.on_loop(self._open)

    def on_loop(self, work: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(20)

    async def _open(self) -> web.HttpDoor:
        await self.house.start()
        app = Paths()
        map_errors(app)
        none: dict[str, Any] = dict.fromkeys(field.name for field in fields(AdminParts))
        house = self.house
        parts = AdminParts(**none | {"fold": house.fold, "journal": house.journal, "clock": house.clock})
        mesh_paths(app, parts, Reach())
        desired_paths(app, parts, Reach(), self.watched, lambda: {"directory": None})
        return await web.serve(app, listen_unix(self.path), larger={"/mesh/": MAX_BODY})

    def again(self, watched: str) -> None:
        """The same with a directory that the cluster applies by itself."""
        self.on_loop(self._door.close)
        self.path.unlink(missing_ok=True)
        self.watched, self.house = watched, House()
        self._door = self.on_loop(self._open)

    def close(self) -> None:
        self.on_loop(self._door.close)
        self.on_loop(self.house.fold.close)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def events(self) -> list[Any]:
        return [record.event for record in self.on_loop(lambda: self.house.journal.read(1, 100))]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = Door(Path(folder) / "s")
        monkeypatch.setenv("TRUSTFED_CLUSTER_SOCKET", str(made.path))
        yield made
        made.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], door: Door) -> Callable[..., tuple[int, str, str]]:
    def ran(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def test_gateways(door: Door, run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("gateway", "list") == (0, "none\n", "")
    code, out, _ = run(*GATEWAY, "--weight", "3", "--owner", "team-net", "--reason", "first")
    assert code == 0 and out.splitlines()[1].split() == [
        "west-1", "203.0.113.20", "15443", "prod-us-west", "-", "3", "team-net", "command",
    ]  # fmt: skip
    (event,) = door.events()
    assert (event.kind, event.owner, event.reason) == ("mesh.put", "team-net", "first")
    assert event.actor.startswith("uid:")
    (row,) = json.loads(run("gateway", "list", "--output", "json")[1])
    assert (row["port"], row["sequence"], row["source"]) == (15443, 1, "command")
    assert run("gateway", "remove", "west-1", "--reason", "gone") == (0, "gateway west-1 is removed\n", "")
    code, _, err = run("gateway", "remove", "west-1")
    assert (code, err.splitlines()[0]) == (4, "error: there is no gateway 'west-1'")


WRONG = (
    ((*GATEWAY[:4], "127.0.0.1", *GATEWAY[5:]), 3, "gateway west-1: the address 127.0.0.1 is a loopback address"),
    ((*GATEWAY[:4], "gw.example", *GATEWAY[5:]), 2, "has the address 'gw.example'"),
    ((*GATEWAY[:2], "../x", *GATEWAY[3:]), 2, "'../x' is no name"),
    ((*GATEWAY, "--weight", "0"), 2, "the weight of gateway 'west-1' is 0"),
    ((*GATEWAY, "--port", "x"), 2, "port"),
    ((*EXPORT[:3], "--port", "8080", *EXPORT[5:]), 2, "the port '8080' is malformed"),
    ((*EXPORT, "--workload", "app=other"), 2, "given twice"),
    ((*EXPORT[:6], "spiffe://prod-eu-central/x", "--workload", "a=b"), 3, "answered by spiffe://prod-eu-central/x"),
    (("export", "add", "*.shop.svc.cluster.local", *EXPORT[3:]), 2, "has the host '*.shop"),
    ((*IMPORT, "--group", "shop"), 2, "exactly one of"),
    ((*IMPORT[:5], "--group", "shop", "--local", "absent"), 2, "names none"),
    ((*IMPORT, "--local-answers", "spiffe://prod-us-west/x"), 2, "--local, which is missing"),
    ((*IMPORT, "--local", "all"), 2, "does not name who answers"),
    ((*IMPORT, "--local-ports", "8080:http"), 2, "--local, which is missing"),
    ((*IMPORT, "--local", "absent", "--local-ports", "http"), 2, "has the port 'http'"),
    (("mesh", "local", "--ports", "8080:http"), 2, "no host is named"),
    (("mesh", "local", "--forget"), 2, "no host is named"),
    (("mesh", "local", HOST), 2, "nothing is said of"),
    (("mesh", "apply", "no-such-directory"), 4, "there is no directory no-such-directory"),
)  # fmt: skip


def test_one_clear_error_and_nothing_kept(door: Door, run: Callable[..., tuple[int, str, str]]) -> None:
    for words, code, message in WRONG:
        found, out, err = run(*words)
        assert (found, out) == (code, ""), (words, err)
        assert message in err.splitlines()[0] and len(err.splitlines()) <= 2, (words, err)
    assert door.events() == []


def test_exports(door: Door, run: Callable[..., tuple[int, str, str]]) -> None:
    assert run(*EXPORT)[0] == 0
    code, out, _ = run("export", "list")
    assert code == 0 and "8080:http:HTTP" in out and "spiffe://prod-eu-central" in out
    (row,) = json.loads(run("export", "list", "-o", "json")[1])
    assert row["ports"] == [{"number": 8080, "name": "http", "protocol": "HTTP"}]
    assert run("export", "remove", PAYMENTS)[0] == 0


def test_imports_and_what_is_known_of_their_hosts(
    door: Door, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Both in one command: one append, or neither."""
    rules = tmp_path / "rules.json"
    rule = {"kind": "DestinationRule", "metadata": {"name": "stock", "namespace": "shop"}, "spec": {"host": "stock"}}
    rules.write_text(json.dumps({"kind": "List", "items": [rule]}))
    answer = "spiffe://prod-us-west/ns/shop/sa/stock"
    local_ = ("--local", "all", "--local-answers", answer, "--local-rules", str(rules), "--local-ports", "8080:http")
    assert run(*IMPORT, *local_)[0] == 0
    assert [event.kind for event in door.events()] == ["mesh.put", "local.seen"]
    assert len({event.command_id for event in door.events()}) == 1
    (row,) = json.loads(run("mesh", "local", "-o", "json")[1])
    assert (row["host"], row["answers"], row["rules"][0]["metadata"]["name"]) == (HOST, [answer], "stock")
    assert row["ports"] == ["8080:http"]
    assert "shop/stock" in run("mesh", "local")[1] and "8080:http" in run("mesh", "local")[1]
    assert run("import", "list")[1].splitlines()[1].split()[:3] == ["stock", "prod-eu-central", HOST]
    code, out, _ = run("mesh", "local", HOST, "--sidecars", "none", "--ports", "8080:web", "--ports", "9090:grpc")
    assert code == 0 and "8080:web" in out and "9090:grpc" in out
    assert run("mesh", "local", HOST, "--forget") == (0, f"nothing is known of {HOST} any more\n", "")
    assert run("import", "remove", "stock")[0] == 0
    rules.write_text("not json")
    assert "is not JSON" in run(*IMPORT, *local_)[2]


def test_listings_come_in_pages(
    door: Door, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustfed.cli.meshitems.PAGE", 2)
    for number in range(5):
        assert run(*GATEWAY[:2], f"west-{number}", *GATEWAY[3:])[0] == 0
    rows = json.loads(run("gateway", "list", "-o", "json")[1])
    assert [row["name"] for row in rows] == [f"west-{number}" for number in range(5)]


def test_a_directory_is_shown_applied_and_compared(
    door: Door, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    folder = str(tmp_path)
    (tmp_path / "a.yaml").write_text(gateway() + "---\n" + gateway("west-2") + "---\n" + local())
    code, out, _ = run("mesh", "apply", folder, "--dry-run")
    assert code == 0 and out.splitlines()[-1] == "3 documents: 3 would differ, 0 unchanged"
    assert door.events() == []
    assert run("mesh", "diff", folder)[0] == 1
    code, out, _ = run("mesh", "apply", folder, "--reason", "change 4711")
    assert code == 0 and "put" in out and "a.yaml:6" in out
    assert {event.reason for event in door.events()} == {"change 4711"} and len(door.events()) == 3
    assert run("mesh", "diff", folder) == (0, "3 documents: 0 differ\n", "")

    (tmp_path / "a.yaml").write_text(gateway(weight=7))
    code, out, _ = run("mesh", "diff", folder, "-o", "json")
    found = json.loads(out)
    assert code == 1 and [(one["action"], one["name"], one["members"]) for one in found["differences"]] == [
        ("change", "west-1", ["weight"]), ("drop", "west-2", []), ("drop", HOST, []),
    ]  # fmt: skip
    code, out, _ = run("mesh", "apply", folder)
    assert out.splitlines()[-1].endswith("2 that no document names are left, --prune drops them")
    assert run("mesh", "apply", folder, "--prune")[0] == 0
    assert run("mesh", "diff", folder)[0] == 0
    status = json.loads(run("mesh", "status", "-o", "json")[1])
    assert (status["gateways"], status["local_hosts"]) == ({"limit": 64, "directory": 1}, 0)


def test_sources_keep_to_their_own(door: Door, run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A command does not change what the directory put, nor the other way, unless it is said."""
    (tmp_path / "a.yaml").write_text(gateway())
    run("mesh", "apply", str(tmp_path))
    for words in (GATEWAY, ("gateway", "remove", "west-1")):
        code, _, err = run(*words)
        assert code == 5 and "was put by the directory of desired state" in err and "--take-over" in err
    assert run(*GATEWAY, "--weight", "9", "--take-over")[0] == 0
    code, out, _ = run("mesh", "diff", str(tmp_path))
    assert code == 1 and out.splitlines()[1].split()[:5] == ["held", "gateway", "west-1", "weight", "command"]
    assert run("mesh", "apply", str(tmp_path))[0] == 5
    assert run("mesh", "apply", str(tmp_path), "--take-over")[0] == 0
    assert run("mesh", "diff", str(tmp_path))[0] == 0


def test_a_fault_in_a_directory(door: Door, run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(gateway())
    for text, words in (
        ("a: &a [*a]", "b.yaml:1: an anchor or an alias is not allowed"),
        (gateway("west-2", "169.254.169.254"), "b.yaml:1: gateway west-2: the address 169.254.169.254 is a cloud's"),
    ):
        (tmp_path / "b.yaml").write_text(text)
        for verb in ("apply", "diff"):
            code, out, err = run("mesh", verb, str(tmp_path))
            assert code in (2, 3) and out == "" and words in err
    assert door.events() == []


def test_a_watched_directory_is_not_applied_by_hand(
    door: Door, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Two desired states would take turns."""
    door.again("/etc/trustfed/mesh")
    (tmp_path / "a.yaml").write_text(gateway())
    code, _, err = run("mesh", "apply", str(tmp_path))
    assert code == 5 and "applies /etc/trustfed/mesh by itself" in err
    assert run("mesh", "apply", str(tmp_path), "--dry-run")[0] == 0
    assert run("mesh", "diff", str(tmp_path))[0] == 1
