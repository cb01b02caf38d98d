"""What every publication target keeps: one suite, run over every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle_publisher.targets.directory import DirectoryTarget
from bundle_publisher.targets.port import MAX_DOCUMENT, Document, Target
from tests.fakes.targets import MemoryTarget
from trustfed.errors import Conflict, Invalid

DRIVERS: dict[str, Callable[[Path], Target]] = {
    "memory": lambda folder: MemoryTarget(),
    "directory": lambda folder: DirectoryTarget(folder / "made" / "on demand"),
}


@pytest.fixture(params=sorted(DRIVERS))
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return DRIVERS[request.param](tmp_path)


async def test_what_is_written_is_read_with_its_tag(target: Target) -> None:
    assert await target.read("bundles/west") is None
    tag = await target.write(Document("bundles/west", b"one"), None)
    held = await target.read("bundles/west")
    assert held is not None and (held.data, held.tag) == (b"one", tag)
    assert await target.read("bundles/east") is None
    assert await target.read("bundle-map") is None


async def test_a_write_replaces_only_what_its_writer_saw(target: Target) -> None:
    first = await target.write(Document("bundle-map", b"one"), None)
    with pytest.raises(Conflict):
        await target.write(Document("bundle-map", b"two"), None)
    second = await target.write(Document("bundle-map", b"two"), first)
    assert second != first
    with pytest.raises(Conflict):
        await target.write(Document("bundle-map", b"three"), first)
    with pytest.raises(Conflict):
        await target.write(Document("bundles/west", b"new"), second)
    held = await target.read("bundle-map")
    assert held is not None and held.data == b"two"


async def test_of_many_writers_at_once_one_wins(target: Target) -> None:
    tag = await target.write(Document("bundle-map", b"begin"), None)
    results = await asyncio.gather(
        *(target.write(Document("bundle-map", b"writer %d" % n), tag) for n in range(16)), return_exceptions=True
    )
    won = [n for n, result in enumerate(results) if isinstance(result, str)]
    assert len(won) == 1
    assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n not in won)
    held = await target.read("bundle-map")
    assert held is not None and held.data == b"writer %d" % won[0]


async def test_a_removal_removes_only_what_its_writer_saw(target: Target) -> None:
    first = await target.write(Document("bundles/west", b"one"), None)
    second = await target.write(Document("bundles/west", b"two"), first)
    with pytest.raises(Conflict):
        await target.remove("bundles/west", first)
    await target.remove("bundles/west", second)
    assert await target.read("bundles/west") is None
    await target.remove("bundles/west", second)
    await target.write(Document("bundles/west", b"anew"), None)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "a/../b", "a/b/c", ".hidden", "A", "a b", "a\n", "a/", "é"]
)
async def test_names_that_lead_elsewhere_are_refused(target: Target, name: str) -> None:
    with pytest.raises(Invalid):
        await target.read(name)
    with pytest.raises(Invalid):
        await target.write(Document(name, b"x"), None)
    with pytest.raises(Invalid):
        await target.remove(name, "tag")


async def test_a_document_that_is_too_large_is_refused(target: Target) -> None:
    with pytest.raises(Invalid, match="at most"):
        await target.write(Document("bundle-map", bytes(MAX_DOCUMENT + 1)), None)
    assert await target.read("bundle-map") is None


async def test_empty_and_binary_documents_are_kept_as_they_are(target: Target) -> None:
    for name, data in (("bundles/empty", b""), ("bundles/all", bytes(range(256)))):
        await target.write(Document(name, data), None)
        held = await target.read(name)
        assert held is not None and held.data == data
