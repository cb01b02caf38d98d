"""What every publication target keeps: one suite, run over every driver."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bundle_publisher.targets.address import Address
from bundle_publisher.targets.directory import DirectoryTarget
from bundle_publisher.targets.http import HttpAccess, HttpTarget
from bundle_publisher.targets.port import MAX_DOCUMENT, Document, Target
from bundle_publisher.targets.s3 import S3Target
from bundle_publisher.targets.s3_access import S3Access, S3Credentials
from tests.fakes.http_store import HttpStore
from tests.fakes.seaweed import PUBLISHER, seaweed
from tests.fakes.targets import MemoryTarget
from trustfed.errors import Conflict, Invalid, Unavailable
from trustfed.runtime.secret_file import SecretFile

DRIVERS = ["memory", "directory", "http", "s3", "s3 with versions"]


def _open(driver: str, folder: Path, closing: ExitStack) -> Target:
    match driver:
        case "memory":
            return MemoryTarget()
        case "directory":
            return DirectoryTarget(folder / "made" / "on demand")
        case "http":
            store = closing.enter_context(HttpStore())
            return HttpTarget(HttpAccess(Address.parse(store.url, "url", loopback_http=True)))
    secret = folder / "secret"
    secret.touch(0o600)
    secret.write_text(PUBLISHER.secret)
    server = seaweed()
    bucket = server.bucket(versioned=driver == "s3 with versions")
    credentials = S3Credentials(PUBLISHER.key, SecretFile(secret))
    return S3Target(
        S3Access(bucket, "trust/", endpoint=server.endpoint, addressing="path", credentials=credentials, seconds=30)
    )


@pytest.fixture(params=DRIVERS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    with ExitStack() as closing:
        yield _open(request.param, tmp_path, closing)


async def test_nobody_else_can_hold_the_lock_of_a_folder_and_who_does_holds_up_no_thread(tmp_path: Path) -> None:
    pauses: list[float] = []
    target = DirectoryTarget(tmp_path, pauses.append)
    lock = tmp_path / ".publisher.lock"
    lock.touch(0o644)
    tag = await target.write(Document("bundle-map", b"one"), None)
    assert lock.stat().st_mode & 0o777 == 0o600  # a user who may only read cannot take it
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for _ in range(9):  # more than it has threads
            with pytest.raises(Unavailable, match="somebody else holds"):
                await target.write(Document("bundle-map", b"two"), tag)
        assert 1 < sum(pauses) / 9 < 10
        assert await target.read("bundle-map") is not None
    assert await target.write(Document("bundle-map", b"two"), tag)


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


async def test_what_somebody_else_wrote_meanwhile_is_seen(target: Target) -> None:
    """Two publishers, one place: neither overwrites what it has not read."""
    first = await target.write(Document("bundles/west", b"one"), None)
    second = await target.write(Document("bundles/west", b"two"), first)
    third = await target.write(Document("bundles/west", b"one"), second)  # the same bytes as at first
    held = await target.read("bundles/west")
    assert held is not None and (held.data, held.tag) == (b"one", third)
    with pytest.raises(Conflict):
        await target.write(Document("bundles/west", b"three"), second)


async def test_many_names_at_once_are_all_kept(target: Target) -> None:
    names = [f"envelopes/{n}.west" for n in range(24)]
    await asyncio.gather(*(target.write(Document(name, name.encode()), None) for name in names))
    held = await asyncio.gather(*(target.read(name) for name in names))
    assert [one.data.decode() for one in held if one] == names
