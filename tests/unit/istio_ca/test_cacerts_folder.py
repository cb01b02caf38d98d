"""The four files of a plugged-in CA: what istiod would refuse is never written, and a reader never sees half a change."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority import new_authority_id
from ca.external import make_external
from trustfed.cli.cacertsfolder import NAMES, Folder, Plugin, blocks, check, next_roots
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.x509svid import pem

NOW = datetime.now(UTC)
TD = TrustDomain("prod-us-west")


def authority(days: float = 90, now: datetime = NOW) -> tuple[bytes, bytes]:
    """(certificate, key) in PEM."""
    end = (now + timedelta(days=days)).replace(microsecond=0)
    key, twin = make_external(TD, new_authority_id(os.urandom), not_after=end, now=now, randomness=os.urandom)
    return pem([twin]), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def plugin(certificate: bytes, key: bytes, *more: bytes) -> Plugin:
    return Plugin(certificate, key, certificate, b"".join((certificate, *more)))


A, B, C = (authority() for _ in range(3))


def test_written_files_are_private_and_openssl_verifies_them(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "cacerts")
    os.umask(old := os.umask(0))
    try:
        os.umask(0)
        folder.write(plugin(*A, B[0]), NOW)
    finally:
        os.umask(old)
    assert folder.present() == plugin(*A, B[0])
    assert stat.S_IMODE((tmp_path / "cacerts").stat().st_mode) == 0o700
    for name in NAMES:
        assert stat.S_IMODE((tmp_path / "cacerts" / name).stat().st_mode) == 0o600
    said = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", "root-cert.pem", "ca-cert.pem"],
        cwd=folder.path,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "ca-cert.pem: OK\n", said
    keys = [
        subprocess.run(["openssl", *argv], cwd=folder.path, capture_output=True, check=True).stdout
        for argv in (["pkey", "-in", "ca-key.pem", "-pubout"], ["x509", "-in", "ca-cert.pem", "-noout", "-pubkey"])
    ]
    assert keys[0] == keys[1]


def test_a_change_is_seen_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path / "c")
    first, second = plugin(*A, B[0]), Plugin(B[0], B[1], B[0], A[0] + B[0])
    folder.write(first, NOW)

    def die(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    for where in ("pathlib.Path.rename", "os.rename", "pathlib.Path.symlink_to"):
        with monkeypatch.context() as broken:
            broken.setattr(where, die)
            with pytest.raises(KeyboardInterrupt):
                folder.write(second, NOW)
        assert folder.present() == first
    folder.write(second, NOW)
    assert folder.present() == second
    left = [path for path in folder.path.iterdir() if path.name.startswith("..") and path.is_dir()]
    assert len([path for path in left if not path.is_symlink()]) == 1, "no key of an earlier generation is left"


@pytest.mark.parametrize(
    ("files", "before", "said"),
    [
        (Plugin(A[0], B[1], A[0], A[0]), b"", "not the key"),
        (Plugin(A[0], A[1], A[0], B[0]), b"", "does not verify"),
        (Plugin(A[0], A[1], A[0], b""), b"", "does not verify"),
        (Plugin(b"x", A[1], A[0], A[0]), b"", "malformed"),
        (Plugin(A[0], b"x", A[0], A[0]), b"", "malformed"),
        (Plugin(A[0], A[1], A[0], A[0] + C[0]), A[0] + B[0], "would refuse"),
        (Plugin(A[0], A[1], A[0], A[0] + C[0]), A[0] + B[0] + C[0], "would refuse"),
        (Plugin(A[0], A[1], A[0], B[0] + A[0]), A[0] + B[0], "would refuse"),
        (plugin(*authority(1, NOW - timedelta(days=2))), b"", "valid until"),
    ],
)
def test_what_istiod_would_refuse(files: Plugin, before: bytes, said: str) -> None:
    with pytest.raises((Invalid, Conflict), match=said):
        check(files, before, NOW)


def test_roots_change_only_as_istiod_takes_them() -> None:
    """However anchors come and go, each content holds the one before it or is held by it, and the end is reached."""
    chance = random.Random(7)
    names = [bytes([letter]) for letter in b"ABCDEFGHIJ"]
    for _ in range(300):
        held = chance.sample(names, chance.randint(1, 5))
        wanted = chance.sample(names, chance.randint(1, 5))
        for _ in range(4):
            after = next_roots(held, wanted)
            assert b"".join(held) in b"".join(after) or b"".join(after) in b"".join(held), (held, after, wanted)
            held = after
        assert set(held) == set(wanted)
        assert len(held) == len(wanted)
        assert next_roots(held, wanted) == held
    assert next_roots([], names[:2]) == names[:2]


def test_a_turn_from_appending_to_cutting_and_back_is_told_apart(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "c")
    assert not folder.turns(A[0])
    folder.write(plugin(*A), NOW)
    assert not folder.turns(A[0] + B[0])
    folder.write(plugin(*A, B[0]), NOW)
    assert not folder.turns(A[0] + B[0] + C[0])
    assert folder.turns(A[0])
    folder.write(plugin(*A), NOW)
    assert folder.turns(A[0] + C[0])
    assert not folder.turns(A[0])
    folder.write(plugin(*A, C[0]), NOW)
    assert not folder.turns(A[0] + C[0] + B[0])


def test_foreign_folders_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    for path in (tmp_path / "link", open_to_all):
        with pytest.raises(Denied):
            Folder(path)
    half = Folder(tmp_path / "half")
    (half.path / "ca-cert.pem").write_bytes(A[0])
    with pytest.raises(Invalid, match="lacks one of"):
        half.present()


def test_the_key_that_is_to_follow_waits_beside_the_files(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "c")
    assert folder.following() is None
    folder.keep_following(*A)
    assert folder.following() == A
    assert stat.S_IMODE((folder.path / ".next" / "ca-key.pem").stat().st_mode) == 0o600
    (folder.path / ".next" / "ca-key.pem").chmod(0o644)
    with pytest.raises(TrustfedError, match="open to others"):
        folder.following()
    folder.forget_following()
    assert folder.following() is None
    assert blocks(A[0] + b"\n" + B[0]) == [A[0], B[0]]
    with pytest.raises(Invalid):
        blocks(b"no certificates")


def test_a_first_export_that_was_interrupted_anywhere_is_simply_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, wanted = Path.rename, plugin(*A, B[0])
    for after in range(len(NAMES) + 1):
        folder, left = Folder(tmp_path / f"c{after}"), after
        folder.keep_following(*A)

        def die(path: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return rename(path, target)

        with monkeypatch.context() as broken:
            broken.setattr(Path, "rename", die)
            with pytest.raises(KeyboardInterrupt):
                folder.write(wanted, NOW)
        assert folder.present() in (None, wanted)
        folder.write(wanted, NOW)
        assert folder.present() == wanted
