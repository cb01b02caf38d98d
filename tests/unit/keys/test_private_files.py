"""Nobody else reads, replaces or redirects what we write: modes, links, owners."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ca.keys.private_files import PrivateDirectory, read_secret
from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def directory(tmp_path: Path) -> PrivateDirectory:
    return PrivateDirectory(tmp_path / "private")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_modes_do_not_depend_on_the_umask(directory: PrivateDirectory, umask: int) -> None:
    before = os.umask(umask)
    try:
        directory.create("a", b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory.path / "a").stat().st_mode) == 0o600
    assert directory.read("a", limit=10) == b"secret"


def test_a_symlink_at_the_temporary_name_is_dropped_and_its_target_untouched(
    directory: PrivateDirectory, tmp_path: Path
) -> None:
    directory.create("other", b"")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (directory.path / ".a.new").symlink_to(victim)
    directory.create("a", b"secret")
    assert victim.read_bytes() == b"precious"
    assert not (directory.path / "a").is_symlink()


def test_a_symlink_at_the_name_itself_is_neither_followed_nor_replaced(
    directory: PrivateDirectory, tmp_path: Path
) -> None:
    directory.create("other", b"")
    victim = tmp_path / "victim"
    (directory.path / "a").symlink_to(victim)
    with pytest.raises(Conflict, match="exists already"):
        directory.create("a", b"secret")
    assert not victim.exists()
    victim.write_bytes(b"planted")
    victim.chmod(0o600)
    with pytest.raises(Denied, match="is a symbolic link"):
        directory.read("a", limit=10)
    directory.remove("a")
    assert victim.exists()


def test_a_directory_that_is_a_symlink_is_refused(directory: PrivateDirectory, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    directory.path.symlink_to(tmp_path / "real")
    with pytest.raises(Denied, match="not a directory of its own"):
        directory.create("a", b"secret")
    assert not list((tmp_path / "real").iterdir())


def test_a_file_in_the_place_of_the_directory_is_refused(directory: PrivateDirectory) -> None:
    directory.path.write_bytes(b"")
    with pytest.raises(Denied, match="not a directory of its own"):
        directory.read("a", limit=10)


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777], ids=oct)
def test_a_directory_open_to_others_is_refused(directory: PrivateDirectory, mode: int) -> None:
    directory.path.mkdir()
    directory.path.chmod(mode)
    with pytest.raises(Denied, match="is open to other users") as refused:
        directory.create("a", b"secret")
    assert refused.value.hint == f"chmod 700 {directory.path}"


@needs_root
def test_a_directory_of_another_uid_is_refused(directory: PrivateDirectory) -> None:
    directory.create("a", b"secret")
    os.chown(directory.path, 12345, -1)
    with pytest.raises(Denied, match="belongs to uid 12345, not to us"):
        directory.read("a", limit=10)
    with pytest.raises(Denied):
        directory.create("b", b"secret")


@needs_root
def test_a_file_of_another_uid_is_refused(directory: PrivateDirectory) -> None:
    directory.create("a", b"secret")
    os.chown(directory.path / "a", 12345, -1)
    with pytest.raises(Denied, match="belongs to uid 12345, not to us"):
        directory.read("a", limit=10)


def test_a_file_open_to_others_is_refused(directory: PrivateDirectory) -> None:
    directory.create("a", b"secret")
    (directory.path / "a").chmod(0o640)
    with pytest.raises(Denied, match="can be touched by its group or by others"):
        directory.read("a", limit=10)


def test_a_file_with_a_second_name_is_refused(directory: PrivateDirectory, tmp_path: Path) -> None:
    directory.create("a", b"secret")
    (tmp_path / "second").hardlink_to(directory.path / "a")
    with pytest.raises(Denied, match="has another name"):
        directory.read("a", limit=10)


def test_a_fifo_in_the_place_of_a_file_is_refused_without_waiting(directory: PrivateDirectory) -> None:
    directory.create("other", b"")
    os.mkfifo(directory.path / "a", 0o600)
    with pytest.raises(Denied, match="is not a regular file"):
        directory.read("a", limit=10)


def test_a_file_larger_than_its_limit_is_refused(directory: PrivateDirectory) -> None:
    directory.create("a", b"x" * 11)
    with pytest.raises(Invalid, match="is larger than 10 bytes"):
        directory.read("a", limit=10)


def test_what_is_not_there(directory: PrivateDirectory, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        directory.read("a", limit=10)
    directory.remove("a")
    with pytest.raises(Unavailable, match="cannot open the directory") as refused:
        PrivateDirectory(tmp_path / "no" / "parent").read("a", limit=10)
    assert refused.value.hint


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("open sesame 1\n")
    return path


def test_a_secret_is_read_without_its_line_end_also_through_a_link(secret: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert read_secret(link, "passphrase file") == "open sesame 1"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666], ids=oct)
def test_a_secret_that_others_can_touch_is_refused_with_a_hint(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(Denied, match=r"passphrase file .* can be touched by its group or by others") as refused:
        read_secret(secret, "passphrase file")
    assert f"chmod 600 {secret}" in refused.value.hint


@needs_root
def test_a_secret_of_another_uid_is_refused(secret: Path) -> None:
    os.chown(secret, 12345, -1)
    with pytest.raises(Denied, match="belongs to uid 12345"):
        read_secret(secret, "passphrase file")


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"nul\0"], ids=ascii)
def test_a_secret_that_is_not_one_line_of_text_is_refused_without_showing_it(secret: Path, content: bytes) -> None:
    secret.write_bytes(content)
    with pytest.raises(Invalid, match="is empty or not one line of text") as refused:
        read_secret(secret, "passphrase file")
    assert "two" not in str(refused.value)


def test_a_secret_that_is_missing_a_directory_or_a_fifo(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot read the passphrase file"):
        read_secret(tmp_path / "missing", "passphrase file")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(Denied, match="is not a regular file"):
            read_secret(path, "passphrase file")
