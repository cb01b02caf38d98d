"""The format of key files: each fault has one clear error, and no error shows key bytes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ca.keys.folder import KeyFolder
from ca.keys.sealed import MAX_FILE_BYTES, seal, unseal
from ca.keys.wrapping import MachineKeyFile, PassphraseFile, Wrapping
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable


@pytest.fixture
def machine(tmp_path: Path) -> MachineKeyFile:
    return MachineKeyFile(tmp_path / "machine" / "key")


def _passphrase(tmp_path: Path, text: str) -> PassphraseFile:
    path = tmp_path / f"passphrase-{len(list(tmp_path.iterdir()))}"
    path.touch(mode=0o600)
    path.write_text(text)
    return PassphraseFile(path, memory_kib=19 * 1024, passes=2, lanes=1)


@pytest.fixture
def key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def _scalar(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_numbers().private_value.to_bytes(32, "big")


def test_what_was_sealed_is_unsealed_and_not_readable(machine: Wrapping, key: EllipticCurvePrivateKey) -> None:
    content = seal("a", key, machine, os.urandom)
    assert unseal("a", content, machine).private_numbers() == key.private_numbers()
    assert _scalar(key) not in content
    assert len(content) < MAX_FILE_BYTES


def test_an_ed25519_key_is_sealed_and_unsealed_and_its_kind_cannot_be_changed(machine: Wrapping) -> None:
    key = Ed25519PrivateKey.generate()
    content = seal("log", key, machine, os.urandom)
    opened = unseal("log", content, machine)
    assert isinstance(opened, Ed25519PrivateKey)
    assert opened.sign(b"x") == key.sign(b"x")
    assert key.private_bytes_raw() not in content
    with pytest.raises(Invalid, match="is damaged: it does not decrypt"):
        unseal("log", content.replace(b'"kind":"ed25519"', b'"kind":"ec-p256"'), machine)


def test_every_flipped_bit_and_every_truncation_is_refused(machine: Wrapping, key: EllipticCurvePrivateKey) -> None:
    content = seal("a", key, machine, os.urandom)
    damaged = [content[:length] for length in range(len(content))]
    for position in range(len(content)):
        for bit in (0, 1, 5, 7):
            damaged.append(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
    for each in [*damaged, content + b"\0", b""]:
        with pytest.raises(Invalid) as refused:
            unseal("a", each, machine)
        assert refused.value.hint
        assert _scalar(key).hex() not in str(refused.value)


def test_another_keys_file_under_our_name_is_named(machine: Wrapping, key: EllipticCurvePrivateKey) -> None:
    with pytest.raises(Invalid, match="the file of key b holds another key, 'a'"):
        unseal("b", seal("a", key, machine, os.urandom), machine)


def test_a_renamed_header_does_not_pass_either(machine: Wrapping, key: EllipticCurvePrivateKey) -> None:
    content = seal("a", key, machine, os.urandom).replace(b'"name":"a"', b'"name":"b"')
    with pytest.raises(Invalid, match="is damaged: it does not decrypt"):
        unseal("b", content, machine)


def test_the_wrong_passphrase_is_told_from_damage(tmp_path: Path, key: EllipticCurvePrivateKey) -> None:
    right, wrong = _passphrase(tmp_path, "correct horse battery"), _passphrase(tmp_path, "incorrect horse battery")
    content = seal("a", key, right, os.urandom)
    with pytest.raises(Invalid, match="wrapped with another passphrase secret") as refused:
        unseal("a", content, wrong)
    assert "horse" not in str(refused.value) + refused.value.hint
    with pytest.raises(Invalid, match="is damaged: it does not decrypt"):
        unseal("a", content[:-1], right)


def test_another_machines_key_is_told_from_damage(
    tmp_path: Path, machine: Wrapping, key: EllipticCurvePrivateKey
) -> None:
    other = MachineKeyFile(tmp_path / "other" / "key")
    seal("b", key, other, os.urandom)
    with pytest.raises(Invalid, match="wrapped with another machine secret"):
        unseal("a", seal("a", key, machine, os.urandom), other)


def test_the_other_source_is_named(tmp_path: Path, machine: Wrapping, key: EllipticCurvePrivateKey) -> None:
    with pytest.raises(Invalid, match="is wrapped by 'machine', the configuration says 'passphrase'"):
        unseal("a", seal("a", key, machine, os.urandom), _passphrase(tmp_path, "correct horse battery"))


def test_a_newer_version_and_a_foreign_file_are_told_apart(machine: Wrapping, key: EllipticCurvePrivateKey) -> None:
    content = seal("a", key, machine, os.urandom)
    with pytest.raises(Invalid, match="has a version we do not know"):
        unseal("a", content.replace(b"trustfed-key 1\n", b"trustfed-key 2\n"), machine)
    with pytest.raises(Invalid, match="is not a key file"):
        unseal("a", b"-----BEGIN PRIVATE KEY-----", machine)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("memory_kib", 2**31),
        ("memory_kib", 8),
        ("memory_kib", True),
        ("memory_kib", 1e5),
        ("passes", 2**31),
        ("passes", 0),
        ("lanes", 1000),
        ("lanes", "4"),
    ],
)
def test_argon2id_figures_out_of_bounds_are_refused_before_any_work(
    tmp_path: Path, key: EllipticCurvePrivateKey, member: str, value: object
) -> None:
    wrapping = _passphrase(tmp_path, "correct horse battery")
    magic, line, rest = seal("a", key, wrapping, os.urandom).split(b"\n", 2)
    header = json.loads(line)
    header["wrapping"][member] = value
    forged = b"\n".join([magic, json.dumps(header, sort_keys=True, separators=(",", ":")).encode(), rest])
    with pytest.raises(Invalid, match=rf"argon2id {member} = .* is outside \d+ to \d+"):
        unseal("a", forged, wrapping)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"null",
        b"[" * 4000,
        b'{"check":"00","kind":"ec-p256","name":"a","nonce":1,"source":"machine","wrapping":{}}',
        b'{"check":"\xc3\xa9","kind":"ec-p256","name":"a","nonce":"00","source":"machine","wrapping":{}}',
        b'{"check":"00","kind":"ec-p256","name":"a","name":"b","nonce":"00","source":"machine","wrapping":{}}',
        b'{"check":"00","kind":"ec-p256","name":"a","nonce":"000000000000000000000000","source":"machine","wrapping":[]}',
    ],
    ids=["empty", "list", "null", "deep", "number", "not ASCII", "twice", "wrapping list"],
)
def test_malformed_headers_are_refused(machine: Wrapping, line: bytes) -> None:
    with pytest.raises(Invalid, match="its header cannot be read"):
        unseal("a", b"trustfed-key 1\n" + line + b"\nxxxx", machine)


def test_two_files_of_one_key_have_nothing_in_common(machine: Wrapping, key: EllipticCurvePrivateKey) -> None:
    first, second = (seal("a", key, machine, os.urandom).split(b"\n", 2) for _ in range(2))
    assert first[2] != second[2]
    assert {json.loads(each[1])["wrapping"]["salt"] for each in (first, second)} != {""}
    assert json.loads(first[1])["nonce"] != json.loads(second[1])["nonce"]


def test_a_missing_or_damaged_machine_key_is_never_made_anew_for_old_keys(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys", MachineKeyFile(tmp_path / "machine" / "key"))
    folder.create("a")
    (tmp_path / "machine" / "key").unlink()
    with pytest.raises(Unavailable, match=r"the machine key file .* is missing"):
        folder.load("a")
    assert not (tmp_path / "machine" / "key").exists()
    for damage in (b"", b"trustfed-machine-key 1 00\n", b"trustfed-machine-key 1 " + b"zz" * 32 + b"\n", b"\xff" * 90):
        (tmp_path / "machine" / "key").touch(mode=0o600)
        (tmp_path / "machine" / "key").write_bytes(damage)
        with pytest.raises(Invalid, match=r"the machine key file .* is damaged"):
            folder.load("a")
    (tmp_path / "machine" / "key").chmod(0o644)
    with pytest.raises(Denied, match="can be touched by its group or by others"):
        folder.load("a")


@pytest.mark.parametrize("text", ["tiny", "eleven char"])
def test_a_short_passphrase_is_refused(tmp_path: Path, key: EllipticCurvePrivateKey, text: str) -> None:
    with pytest.raises(Invalid, match="is too short") as refused:
        seal("a", key, _passphrase(tmp_path, text), os.urandom)
    assert text not in str(refused.value) + refused.value.hint


def test_an_oversize_key_file_is_refused(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys", MachineKeyFile(tmp_path / "machine" / "key"))
    folder.create("a")
    with (tmp_path / "keys" / "a.key").open("ab") as file:
        file.write(b"\0" * MAX_FILE_BYTES)
    with pytest.raises(Invalid, match="is larger than 4096 bytes"):
        folder.load("a")
    folder.destroy("a")
    with pytest.raises(NotFound):
        folder.load("a")


def test_no_error_chain_holds_key_bytes(tmp_path: Path) -> None:
    """What a logger prints of a failure, with causes and contexts, has neither the key nor the machine key in it."""
    folder = KeyFolder(tmp_path / "keys", MachineKeyFile(tmp_path / "machine" / "key"))
    scalar = _scalar(folder.create("a"))
    path = tmp_path / "keys" / "a.key"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    machine = re.findall("[0-9a-f]{64}", (tmp_path / "machine" / "key").read_text())[0]
    with pytest.raises(TrustfedError) as refused:
        folder.load("a")
    error: BaseException | None = refused.value
    shown = repr(folder)
    while error is not None:
        shown += f"{error} {error!r} {vars(error)}"
        error = error.__context__
    for secret in (scalar.hex(), repr(scalar)[2:-1], str(int.from_bytes(scalar, "big")), machine):
        assert secret not in shown
