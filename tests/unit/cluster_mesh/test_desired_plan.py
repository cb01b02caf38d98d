"""Desired state against state: what differs, one decision, and a directory that a cluster applies by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cluster_mesh.desired_house import HEAD, HOST, REACH, House, gateway, local, wanted
from trustfed.cluster.mesh import events as m
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.mesh.desired import apply as applying
from trustfed.cluster.mesh.desired.apply import By, apply
from trustfed.cluster.mesh.desired.plan import Difference, Terms, decide, differences
from trustfed.cluster.mesh.desired.watch import DesiredDirectory
from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.runtime.metrics import Registry


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    await made.start()
    yield made
    await made.fold.close()


async def test_the_first_time_all_is_put_and_then_nothing_differs(house: House) -> None:
    assert house.differ(gateway(), local()) == [("put", "west-1"), ("put", HOST)]
    assert await house.apply(gateway(), local()) == 2
    assert house.differ(gateway(), local()) == []
    assert await house.apply(gateway(), local()) == 0
    assert house.names == {"west-1": "directory"}


async def test_changes_are_named_by_their_members(house: House) -> None:
    await house.apply(gateway(), local())
    mesh = house.fold.state.mesh
    found = differences(mesh, wanted(gateway(address="203.0.113.21", weight=2), local("none", "[8080:web]")))
    assert found == [
        Difference("change", "gateway", "west-1", "mesh.yaml:1", ("address", "weight")),
        Difference("change", "local", HOST, "mesh.yaml:6", ("ports", "sidecars")),
    ]


async def test_what_no_document_names_is_dropped_only_when_pruning(house: House) -> None:
    await house.say("by-hand")
    await house.apply(gateway(), gateway("west-2"), local())
    assert house.differ(gateway("west-3")) == [
        ("put", "west-3"), ("drop", "west-1"), ("drop", "west-2"), ("drop", HOST),
    ]  # fmt: skip
    await house.apply(gateway("west-3"))
    assert set(house.names) == {"by-hand", "west-1", "west-2", "west-3"}
    await house.apply(gateway("west-3"), prune=True)
    assert house.names == {"by-hand": "command", "west-3": "directory"}
    assert not house.fold.state.mesh.local
    kinds = [record.event.kind for record in await house.journal.read(0, 100)]
    assert kinds[-3:] == ["mesh.dropped", "mesh.dropped", "local.forgotten"]


async def test_the_new_ones_are_there_before_the_old_ones_leave(house: House) -> None:
    await house.apply(gateway())
    events = decide(house.fold.state, wanted(gateway("west-2")), Terms(prune=True), house.clock.now(), REACH)
    assert [type(event) for event in events] == [m.MeshPut, m.MeshDropped]


async def test_what_another_source_put_is_a_conflict_unless_taken_over_or_left(house: House) -> None:
    await house.say("west-1", weight=7)
    assert house.differ(gateway(), gateway("west-2")) == [("held", "west-1"), ("put", "west-2")]
    with pytest.raises(Conflict, match=r"mesh\.yaml:1: gateway west-1 was put by command"):
        await house.apply(gateway(), gateway("west-2"))
    assert set(house.names) == {"west-1"}
    await house.apply(gateway(), gateway("west-2"), leave=True)
    assert house.names == {"west-1": "command", "west-2": "directory"}
    await house.apply(gateway(), gateway("west-2"), take=True)
    assert house.names == {"west-1": "directory", "west-2": "directory"}


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (gateway("west-9", "127.0.0.1"), Denied, "gateway west-9: the address 127.0.0.1 is a loopback"),
        (local("all"), Invalid, "does not name who answers"),
        (local(ports="['8080']"), Invalid, "has the port '8080'"),
        (f"{HEAD}Local\nmetadata: {{name: stock}}\nspec: {{sidecars: absent}}\n", Invalid, "has the host 'stock'"),
        (f"{HEAD}Import\nmetadata: {{name: i}}\nspec: {{exporter: prod-us-west, group: g}}\n", Denied, "from itself"),
    ],
)
async def test_a_fault_in_the_last_document_keeps_all_as_it_was(
    house: House, bad: str, kind: type[Exception], words: str
) -> None:
    before = house.fold.position
    with pytest.raises(kind, match=words) as raised:
        await house.apply(gateway(), gateway("west-2"), bad)
    assert str(raised.value).startswith("mesh.yaml:11: ")
    assert house.fold.position == before


async def test_one_append_up_to_the_journal_s_bound(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    appends: list[int] = []
    append = house.journal.append

    async def counted(expected: int, events: Any) -> int:
        appends.append(len(events))
        return await append(expected, events)

    monkeypatch.setattr(house.journal, "append", counted)
    await house.apply(*(gateway(f"g{n}") for n in range(9)))
    monkeypatch.setattr(applying, "MAX_EVENTS", 4)
    assert await house.apply(*(gateway(f"g{n}", weight=2) for n in range(9))) == 9
    assert appends == [9, 4, 4, 1]
    assert house.differ(*(gateway(f"g{n}", weight=2) for n in range(9))) == []


async def test_a_repeated_command_is_applied_once(house: House) -> None:
    by = By("same", "uid:7", "")
    for _ in range(2):
        assert await apply(house.fold, wanted(gateway()), Terms(), by, house.clock, REACH) == 1
    assert house.fold.state.mesh.sequence == 1


def watching(house: House, folder: Path, registry: Registry | None = None) -> DesiredDirectory:
    reach = MeshConfig(allow_networks=("127.0.0.0/8",)).reach()
    return DesiredDirectory(house.fold, folder, timedelta(seconds=5), reach, house.clock, registry or Registry())


async def test_a_watched_directory_is_applied_when_it_changes(house: House, tmp_path: Path) -> None:
    watch = watching(house, tmp_path)
    (tmp_path / "a.yaml").write_text(gateway() + "---\n" + gateway("west-2", "127.0.0.9"))
    await watch.look()
    assert set(house.names) == {"west-1", "west-2"}
    before = house.fold.position
    await watch.look()
    assert house.fold.position == before
    (tmp_path / "a.yaml").write_text(gateway(weight=5))
    await watch.look()
    assert house.fold.position == before + 1
    await watch.look()
    assert house.names == {"west-1": "directory"}
    last = (await house.journal.read(house.fold.position - 1, 1))[0].event
    assert (last.actor, last.reason[:13]) == ("directory", "desired state")


async def test_a_watched_directory_with_a_fault_keeps_the_good_state(house: House, tmp_path: Path) -> None:
    registry = Registry()
    watch = watching(house, tmp_path, registry)
    (tmp_path / "a.yaml").write_text(gateway())
    await watch.look()
    before = house.fold.position
    faults = {
        "kind: [": "a.yaml:2: not YAML",
        gateway().replace("15443", "0"): "a.yaml:4: spec.port",
        gateway("west-2") + "---\n" + gateway("west-3", "169.254.169.254"): "a.yaml:6: gateway west-3",
    }
    since = []
    for text, words in faults.items():
        (tmp_path / "a.yaml").write_text(text)
        house.clock.move(5)
        for _ in range(2):
            await watch.look()
            status = watch.status()
            assert words in str(status["error"])
        since.append(status["error_since"])
        assert b"trustfed_cluster_mesh_directory_faulty 1" in registry.exposition()
    assert len(set(since)) == 3
    (tmp_path / "a.yaml").unlink()
    await watch.look()
    assert "no .yaml file" in str(watch.status()["error"])
    tmp_path.rename(tmp_path.with_name("gone"))
    await watch.look()
    assert "there is no directory" in str(watch.status()["error"])
    assert (house.fold.position, house.names) == (before, {"west-1": "directory"})
    tmp_path.with_name("gone").rename(tmp_path)
    (tmp_path / "b.yaml").write_text(gateway(weight=9))
    await watch.look()
    assert watch.status()["error"] is None and house.fold.position == before + 1
    assert b"trustfed_cluster_mesh_directory_faulty 0" in registry.exposition()


async def test_what_a_person_took_over_is_drift_and_is_left(house: House, tmp_path: Path) -> None:
    registry = Registry()
    watch = watching(house, tmp_path, registry)
    (tmp_path / "a.yaml").write_text(gateway() + "---\n" + gateway("west-2"))
    await watch.look()
    await house.say("west-1", take=True, address="203.0.113.99")
    await watch.look()
    assert house.names == {"west-1": "command", "west-2": "directory"}
    status: dict[str, Any] = watch.status()
    assert (status["error"], status["drift_count"]) == (None, 1)
    assert status["drift"][0] | {"where": ""} == {
        "action": "held", "kind": "gateway", "name": "west-1", "where": "", "members": ("address",), "held_by": "command",
    }  # fmt: skip
    assert b"trustfed_cluster_mesh_directory_drift 1" in registry.exposition()
    (tmp_path / "a.yaml").write_text(gateway() + "---\n" + gateway("west-2", weight=2))
    await watch.look()  # what is not held goes on
    assert house.fold.state.mesh.sequence == 4
    await house.do(lambda s: own.drop(s, "gateway", "west-1", "command", house.clock.now()))
    await watch.look()
    assert house.names["west-1"] == "directory" and watch.status()["drift_count"] == 0


async def test_an_empty_document_is_how_to_want_nothing(house: House, tmp_path: Path) -> None:
    watch = watching(house, tmp_path)
    (tmp_path / "a.yaml").write_text(gateway())
    await watch.look()
    (tmp_path / "a.yaml").write_text("# nothing\n")
    await watch.look()
    await watch.look()
    assert house.names == {}


async def test_what_moves_from_one_file_to_another_is_never_dropped_in_between(house: House, tmp_path: Path) -> None:
    watch = watching(house, tmp_path)
    (tmp_path / "a.yaml").write_text("# nothing\n")
    (tmp_path / "b.yaml").write_text(gateway())
    await watch.look()
    await watch.look()
    before = house.fold.position
    (tmp_path / "b.yaml").write_text("# nothing\n")
    await watch.look()  # whoever writes files one by one is not done yet
    (tmp_path / "a.yaml").write_text(gateway())
    await watch.look()
    await watch.look()
    assert (house.fold.position, house.names) == (before, {"west-1": "directory"})


async def test_the_watch_goes_on_by_the_clock_and_through_a_store_that_fails(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watching(house, tmp_path)
    append = house.journal.append

    async def full(expected: int, events: Any) -> int:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(house.journal, "append", full)
    (tmp_path / "a.yaml").write_text(gateway())
    running = asyncio.create_task(watch.run())
    await _until(lambda: house.clock.sleeping == 1)
    assert watch.status()["error"] == "the disk is full"
    monkeypatch.setattr(house.journal, "append", append)
    await house.clock.advance(5)
    await _until(lambda: house.names == {"west-1": "directory"} and watch.status()["error"] is None)
    running.cancel()


async def _until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)
