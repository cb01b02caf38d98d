"""A directory of desired state: read within its bounds, and never out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trustfed.cluster.mesh.desired import files
from trustfed.cluster.mesh.desired.files import digest, read_directory
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable


def names(root: Path) -> list[str]:
    return [file.path for file in read_directory(root)]


def test_yaml_files_in_order_and_no_others(tmp_path: Path) -> None:
    for path in (
        "b.yaml",
        "a.yml",
        "sub/c.yaml",
        "sub/deep/d.yaml",
        "README.md",
        ".hidden.yaml",
        ".git/config.yaml",
        "x.yaml~",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"# {path}\n")
    assert names(tmp_path) == ["a.yml", "b.yaml", "sub/c.yaml", "sub/deep/d.yaml"]
    assert read_directory(tmp_path)[0].text == "# a.yml\n"


def test_a_mounted_config_map(tmp_path: Path) -> None:
    """Kubernetes mounts links to ..data/NAME, and swaps ..data: that is a change, and no way out."""
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "mesh.yaml").write_text(f"v: {version}\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "mesh.yaml").symlink_to("..data/mesh.yaml")
    assert [(file.path, file.text) for file in read_directory(tmp_path)] == [("mesh.yaml", "v: 1\n")]
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert read_directory(tmp_path)[0].text == "v: 2\n"


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    root, secret = tmp_path / "mesh", tmp_path / "secret.yaml"
    (root / "sub").mkdir(parents=True)
    secret.write_text("secret")
    for place, target, kind, words in (
        ("a.yaml", secret, Denied, "out of the directory"),
        ("a.yaml", Path("../secret.yaml"), Denied, "out of the directory"),
        ("a.yaml", Path("/etc/hostname"), Denied, "out of the directory"),
        ("more", tmp_path, Denied, "out of the directory"),
        ("more", root / "sub", Denied, "link to a folder"),
        ("a.yaml", root / "gone.yaml", Unavailable, "leads nowhere"),
        ("a.yaml", root / "a.yaml", Unavailable, "leads nowhere"),
    ):
        (root / place).symlink_to(target)
        with pytest.raises(kind, match=words):
            read_directory(root)
        (root / place).unlink()
    (tmp_path / "link").symlink_to(root)
    (root / "b.yaml").write_text("")
    assert names(tmp_path / "link") == ["b.yaml"]  # what was named may be a link itself


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(TrustfedError):
        read_directory(tmp_path)


def test_nothing_there_is_no_wish_for_nothing(tmp_path: Path) -> None:
    """A volume that is not mounted looks so; one empty document says it."""
    with pytest.raises(Invalid, match=r"no \.yaml file"):
        read_directory(tmp_path)
    with pytest.raises(NotFound):
        read_directory(tmp_path / "gone")
    (tmp_path / "none.yaml").write_text("")
    assert names(tmp_path) == ["none.yaml"]
    with pytest.raises(Invalid, match="is not a directory"):
        read_directory(tmp_path / "none.yaml")


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"{number}.yaml").write_text("x" * 100)
    for name, least, words in (
        ("MAX_FILES", 3, "4 YAML files"),
        ("MAX_FILE_BYTES", 99, "99"),
        ("MAX_BYTES", 399, "larger than"),
        ("MAX_ENTRIES", 3, "more than 3 names"),
    ):
        with monkeypatch.context() as patch, pytest.raises(Invalid, match=words):
            patch.setattr(files, name, least)
            read_directory(tmp_path)
    assert len(names(tmp_path)) == 4
    (tmp_path.joinpath(*"abcdefghi")).mkdir(parents=True)
    with pytest.raises(Invalid, match="nested deeper"):
        read_directory(tmp_path)


def test_text_is_utf_8_and_names_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"ok: 1\nname: \xff\n")
    with pytest.raises(Invalid, match=r"a\.yaml:2: not UTF-8"):
        read_directory(tmp_path)
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a\x1b[2J.yaml").write_text("")
    with pytest.raises(Invalid, match="no name for a file") as raised:
        read_directory(tmp_path)
    assert "\x1b" not in raised.value.message


def test_a_digest_is_of_what_is_there(tmp_path: Path) -> None:
    """Also of what changes within one tick of the file system's clock, and of which file says it."""
    found = set()
    for name, text in (("a", "x"), ("a", "y"), ("b", "y"), ("b", "x"), ("a", "z")):
        (tmp_path / f"{name}.yaml").write_text(text)
        os.utime(tmp_path / f"{name}.yaml", ns=(1, 1))
        found.add(digest(read_directory(tmp_path)))
    assert len(found) == 5
