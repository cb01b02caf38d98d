"""The real disk: modes whatever the umask, links nowhere followed, faults in words; and the cache put together on it."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cache.config import CacheConfig
from agent.cache.disk import MAX_NAMES, FolderDisk
from agent.cache.keeper import SealedCache
from agent.cache.open import open_cache
from agent.cache.port import Kept, NoCache
from agent.cache.refusal import Refused
from tests.unit.agent_cache.cached import NODE, NOW, large, same, small, svid, token
from trustfed.errors import Conflict, Invalid, NotFound, TrustfedError
from trustfed.runtime.metrics import Registry
from trustfed.runtime.secret_file import SecretFile


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(params=[0o000, 0o077, 0o777], ids=["umask 0", "umask 077", "umask 777"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def opened(data: Path, config: CacheConfig | None = None) -> SealedCache:
    cache = open_cache(config or CacheConfig(), NODE, data, Registry())
    assert isinstance(cache, SealedCache)
    return cache


async def keep(data: Path, kept: Kept) -> SealedCache:
    cache = opened(data)
    cache.load(NOW)
    cache.changed(kept)
    await cache.flush()
    return cache


def modes(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def test_files_0600_in_a_folder_0700_whatever_the_umask(data: Path, umask: int) -> None:
    for number in range(2):
        await keep(data, replace(large(3), position=number))
    files = [path for path in data.rglob("*") if path.is_file()]
    assert {"cache.key", "cache.counter", "manifest"} <= {path.name for path in files} and len(files) >= 4
    assert {modes(path) for path in files} == {0o600} and modes(data / "cache") == 0o700
    assert same(opened(data).load(NOW), replace(large(3), position=1))


TEMPORARY = ("cache/manifest.new", "cache/segment-1", "cache.key.new", "cache.counter.new")


@pytest.mark.parametrize("name", TEMPORARY)
async def test_a_link_where_we_write_is_not_followed(data: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (data / "cache").mkdir(mode=0o700)
    (data / name).symlink_to(victim)
    cache = await keep(data, small())
    assert victim.read_text() == "untouched" and cache.status()["error"] == ""
    assert same(opened(data).load(NOW), small())
    (data / name).unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["cache/manifest", "cache/segment-1", "cache.key", "cache.counter", "cache"])
async def test_a_link_where_we_read_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    await keep(data, small())
    real = tmp_path / "elsewhere"
    (data / name).rename(real)
    (data / name).symlink_to(real)
    cache = opened(data)
    assert cache.load(NOW) is None
    assert str(cache.status()["refused"]).startswith("symlink: ") and name.rpartition("/")[2] in str(cache.status())
    cache.changed(large(2))
    await cache.flush()
    if name == "cache":
        # A folder that is a link is for a person to decide about; nothing is written through it.
        assert "symbolic link" in str(cache.status()["error"])
        assert (real / "manifest").exists() and opened(data).load(NOW) is None
    else:
        assert cache.status()["error"] == "" and same(opened(data).load(NOW), large(2))
        assert not (data / name).is_symlink() and real.exists()


@pytest.mark.parametrize("name", ["cache/manifest", "cache/segment-1", "cache.key", "cache.counter", "cache"])
async def test_open_modes_are_refused(data: Path, name: str) -> None:
    await keep(data, small())
    (data / name).chmod(0o750 if name == "cache" else 0o640)
    cache = opened(data)
    assert cache.load(NOW) is None
    assert str(cache.status()["refused"]).startswith("open_modes: ")
    cache.changed(large(2))
    await cache.flush()
    if name == "cache":
        assert "open to others" in str(cache.status()["error"])
        (data / name).chmod(0o700)
        cache.changed(large(3))
        await cache.flush()
        assert same(opened(data).load(NOW), large(3))
    else:
        assert same(opened(data).load(NOW), large(2)) and modes(data / name) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["cache/manifest", "cache.counter", "cache"])
async def test_what_belongs_to_another_is_refused(data: Path, name: str) -> None:
    await keep(data, small())
    os.chown(data / name, 12345, 12345)
    cache = opened(data)
    assert cache.load(NOW) is None and str(cache.status()["refused"]).startswith("other_owner: ")


@pytest.mark.parametrize("name", ["cache/manifest", "cache/segment-1"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "huge"])
async def test_what_is_no_file_of_ours_neither_hangs_nor_stays(data: Path, name: str, kind: str) -> None:
    await keep(data, small())
    path = data / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir(mode=0o700)
        (path / "inside").touch()
    else:
        with path.open("wb") as file:
            path.chmod(0o600)
            file.truncate(2**40)
    for number in (2, 3):
        cache = opened(data)
        assert cache.load(NOW) is None
        assert str(cache.status()["refused"]).startswith("too_large: " if kind == "huge" else "not_a_file: ")
        cache.changed(large(number))
        await cache.flush()
        assert same(opened(data).load(NOW), large(number))
        # And the like again: what was set aside before makes room.
        target = data / "cache" / f"refused-{path.name}"
        assert target.exists()
        if number == 2:
            path.unlink(missing_ok=True)
            target.rename(path)


async def test_no_secret_on_the_disk_in_logs_status_or_metrics(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    registry = Registry()
    kept = replace(large(5), tokens=(token(1), token(2)))
    cache = open_cache(CacheConfig(), NODE, data, registry)
    cache.load(NOW)
    cache.changed(kept)
    await cache.flush()
    (data / "cache" / "manifest").chmod(0o644)
    again = opened(data)
    again.load(NOW)
    key = (data / "cache.key").read_text().split()[3]
    written = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "cache.key")
    told = caplog.text + str(cache.status()) + str(again.status()) + registry.exposition().decode() + repr(cache)
    assert len(key) == 64 and key not in told and bytes.fromhex(key) not in written
    for secret in [each.key for each in kept.svids.values()] + [each.token.text.encode() for each in kept.tokens]:
        assert secret not in written and secret.hex() not in told and secret[:20].decode("latin-1") not in told
    assert b"spiffe://" not in written and b"unix:uid" not in written and "open_modes" in told


def test_disk_errors_have_their_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    disk = FolderDisk(tmp_path)
    with pytest.raises(NotFound):
        disk.read("none", 10)
    disk.write_new("a", b"12345")
    with pytest.raises(Conflict):
        disk.write_new("a", b"")
    with pytest.raises(Refused, match="more than 4 bytes"):
        disk.read("a", 4)
    assert disk.read("a", 5) == b"12345"
    disk.remove("none")
    with pytest.raises(NotFound):
        disk.rename("none", "b")
    with pytest.raises(NotFound):
        FolderDisk(tmp_path / "none").write_new("a", b"")
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(Refused, match="not a folder"):
        FolderDisk(tmp_path / "file").make()
    for number in range(MAX_NAMES + 1):
        (tmp_path / f"x{number}").touch()
    with pytest.raises(Refused, match=f"more than {MAX_NAMES}"):
        disk.names()


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC in the middle: Linux' /dev/full cannot be a new file, so the system call fails in its place."""
    tmp_path.chmod(0o700)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for call in ("write", "fsync"):
        monkeypatch.setattr(os, call, full)
        with pytest.raises(TrustfedError, match="no space left") as error:
            FolderDisk(tmp_path).write_new("a", b"data")
        monkeypatch.undo()
        assert not list(tmp_path.iterdir()) and error.value.hint == "the disk is full: make room"


async def test_passphrase_and_directory_of_the_configuration(data: Path, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("correct horse battery\n")
    folder = tmp_path / "kept"
    config = CacheConfig(sealing="passphrase", passphrase_file=SecretFile(secret), directory=folder)
    cache = opened(data, config)
    assert cache.load(NOW) is None and cache.status()["refused"] == ""
    cache.changed(small())
    await cache.flush()
    assert {path.name for path in folder.iterdir()} == {"manifest", "segment-1"}
    assert {path.name for path in data.iterdir()} == {"cache.key", "cache.counter"}
    assert same(opened(data, config).load(NOW), small())
    assert opened(data).load(NOW) is None
    secret.write_text("short")
    with pytest.raises(Invalid, match="too short"):
        open_cache(config, NODE, data, Registry())


def test_configuration_that_contradicts_itself(tmp_path: Path) -> None:
    (tmp_path / "p").touch(mode=0o600)
    (tmp_path / "p").write_text("correct horse battery")
    with pytest.raises(Invalid, match="missing"):
        CacheConfig(sealing="passphrase")
    with pytest.raises(Invalid, match="not used"):
        CacheConfig(passphrase_file=SecretFile(tmp_path / "p"))
    with pytest.raises(Invalid, match="data_dir itself"):
        open_cache(CacheConfig(directory=tmp_path / "x" / ".."), NODE, tmp_path, Registry())


async def test_a_cache_that_is_off_keeps_nothing(data: Path) -> None:
    cache = open_cache(CacheConfig(enabled=False), NODE, data, Registry())
    cache.changed(small())
    await cache.flush()
    assert isinstance(cache, NoCache) and cache.load(NOW) is None and not list(data.iterdir())
    assert cache.status().keys() == opened(data).status().keys() and cache.status()["enabled"] is False


async def test_expired_is_not_given(data: Path) -> None:
    kept = replace(
        small(),
        svids={"e0": svid(1, hours=1), "e1": svid(2, hours=3)},
        reserves={"e0": svid(3, hours=2)},
        tokens=(token(0, "a", hours=1), token(0, "b", hours=3)),
        entries=(small().entries[0], replace(small().entries[1], expires_at=NOW.replace(hour=9))),
    )
    await keep(data, kept)
    at = [opened(data).load(NOW.replace(hour=hour)) for hour in (7, 8, 9, 10)]
    assert [each and (len(each.svids), len(each.reserves), len(each.tokens), len(each.entries)) for each in at] == [
        (2, 1, 2, 2),
        (1, 1, 1, 2),
        (1, 0, 1, 1),
        (0, 0, 0, 1),
    ]
    # A clock that was set back revives nothing.
    await keep(data, replace(kept, floor=NOW.replace(hour=12)))
    back = opened(data).load(NOW)
    assert back is not None and not back.svids and not back.reserves and not back.tokens
