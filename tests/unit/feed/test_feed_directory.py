"""Routes as files: whole at every moment, and nothing of others touched."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bundle_publisher.istio.resource import Resource
from tests.fakes.istiod import Directory as Reader
from tests.fakes.routes import destination_rule, service_entry
from trustfed.errors import Conflict, Invalid, Unavailable
from trustfed.feed.directory import Directory, file_name
from trustfed.feed.intake import State
from trustfed.feed.resources import accept


def state(*resources: Resource) -> State:
    return State({r.key: accept(r.key, r.version, 1, r.manifest) for r in resources})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_one_file_per_resource_and_only_what_differs_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "istio"
    output = Directory(folder)
    output.open()
    a, b = service_entry("a"), destination_rule("a")
    assert await output.publish(state(a, b), None) == {}
    assert names(folder) == {"trustfed-a.ns.serviceentry.yaml", "trustfed-a.ns.destinationrule.yaml"}
    assert json.loads((folder / file_name(a.key)).read_bytes()) == json.loads(a.manifest)
    assert (folder / file_name(a.key)).stat().st_mode & 0o777 == 0o644
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    await output.publish(state(a, b), None)
    newer = service_entry("a", weight=9)
    await output.publish(state(newer, b), frozenset({a.key}))
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert before[file_name(b.key)] == after[file_name(b.key)] and before[file_name(a.key)] != after[file_name(a.key)]
    await output.publish(state(b), frozenset({a.key}))
    assert names(folder) == {file_name(b.key)}
    with pytest.raises(Conflict, match="another feed"):
        Directory(folder).open()
    output.close()
    Directory(folder).open()


async def test_nothing_of_others_is_touched_and_what_a_crash_left_is_cleaned(tmp_path: Path) -> None:
    a, b = service_entry("a"), service_entry("b")
    theirs = {
        "owner.yaml": b"kind: ServiceEntry\n",
        "trustfed-looks-like-ours.yaml": b'{"metadata":{"labels":{}}}',
        "trustfed-notes.txt": b"x",
        ".hidden.tmp": b"x",
    }
    for name, data in theirs.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "outside").write_bytes(b.manifest)
    (tmp_path / "trustfed-link.ns.serviceentry.yaml").symlink_to(tmp_path / "outside")
    (tmp_path / ".trustfed-0011.tmp").write_bytes(b"half")
    (tmp_path / file_name(b.key)).write_bytes(b.manifest)  # of an earlier life
    output = Directory(tmp_path)
    output.open()
    await output.publish(state(a), None)
    left = {"outside", "trustfed-link.ns.serviceentry.yaml"}
    assert names(tmp_path) == {*theirs, *left, file_name(a.key)}
    assert all((tmp_path / name).read_bytes() == data for name, data in theirs.items())


async def test_a_file_of_the_mesh_owner_under_our_very_name_stays_and_that_resource_is_left_out(tmp_path: Path) -> None:
    a, b = service_entry("a"), service_entry("b")
    theirs = b"kind: ServiceEntry\nmetadata: {name: trustfed-a}\n"
    (tmp_path / file_name(a.key)).write_bytes(theirs)
    output = Directory(tmp_path)
    output.open()
    for changed in (None, frozenset({a.key}), None):
        left_out = await output.publish(state(a, b), changed)
        assert list(left_out) == [a.key] and "is not ours" in left_out[a.key]
    assert (tmp_path / file_name(a.key)).read_bytes() == theirs and (tmp_path / file_name(b.key)).exists()
    await output.publish(state(b), frozenset({a.key}))
    assert (tmp_path / file_name(a.key)).read_bytes() == theirs
    (tmp_path / file_name(a.key)).unlink()
    assert not await output.publish(state(a, b), None)
    output.close()
    again = Directory(tmp_path)  # what an earlier life wrote is ours by its label
    again.open()
    newer = service_entry("a", weight=3)
    assert not await again.publish(state(newer, b), None)
    assert (tmp_path / file_name(a.key)).read_bytes() == newer.manifest + b"\n"


async def test_one_file_that_cannot_be_written_takes_no_other_down(tmp_path: Path) -> None:
    a, b = service_entry("a"), service_entry("b")
    output = Directory(tmp_path)
    output.open()
    (tmp_path / file_name(a.key)).mkdir()
    left_out = await output.publish(state(a, b), None)
    assert set(left_out) == {a.key} and (tmp_path / file_name(b.key)).exists()
    (tmp_path / file_name(b.key)).unlink()
    (tmp_path / file_name(b.key)).mkdir()
    with pytest.raises(Unavailable, match="no file can be written"):
        await output.publish(state(a, b), None)


async def test_what_others_did_to_our_files_is_mended(tmp_path: Path) -> None:
    a, b = service_entry("a"), service_entry("b")
    output = Directory(tmp_path)
    output.open()
    await output.publish(state(a, b), None)
    (tmp_path / file_name(a.key)).write_text("garbage")
    (tmp_path / file_name(b.key)).unlink()
    await output.publish(state(a, b), None)
    assert (tmp_path / file_name(a.key)).read_bytes() == a.manifest + b"\n"
    assert (tmp_path / file_name(b.key)).exists()


async def test_a_reader_never_sees_half_a_file_nor_an_empty_folder(tmp_path: Path) -> None:
    output = Directory(tmp_path)
    output.open()
    await output.publish(state(*(service_entry(f"a{n}") for n in range(5))), None)
    reader = Reader(tmp_path)
    try:
        held = state(*(service_entry(f"a{n}") for n in range(5)))
        await asyncio.to_thread(reader.until, lambda r: len(r.resources) == 5, "the first state")
        for turn in range(20):
            newer = state(*(service_entry(f"{'ab'[turn % 2]}{n}", weight=turn + 1) for n in range(5)))
            await output.publish(newer, newer.changed(held))
            held = newer
        wanted = set(held.resources)
        await asyncio.to_thread(reader.until, lambda r: set(r.resources) == wanted, "the last state")
        assert not reader.rejected and not reader.emptied
    finally:
        reader.stop()


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="not a folder"):
        Directory(tmp_path / "file").open()
    with pytest.raises(Invalid, match="does not exist"):
        Directory(tmp_path / "none" / "istio").open()


def test_names_fit_a_file_system() -> None:
    long = f"ServiceEntry/{'n' * 63}/trustfed-{'a' * 240}"
    assert len(file_name(long)) < 200 and file_name(long).startswith("trustfed-")
    assert file_name(long) != file_name(long[:-1])
