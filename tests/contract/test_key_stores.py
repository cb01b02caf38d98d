"""Every key store driver keeps the one contract of `ca.keys.port`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ca.keys.file import FileKeys
from ca.keys.memory import MemoryKeys
from ca.keys.open import KeysConfig, VaultConfig, close_keys, open_keys
from ca.keys.pool import SigningPool
from ca.keys.port import EC_P256, ED25519, MAX_MESSAGE_BYTES, MAX_MESSAGES, MAX_NOTE_BYTES, KeyStore
from ca.keys.wrapping import MachineKeyFile, PassphraseFile
from tests.fakes.openbao import openbao
from trustfed.errors import Conflict, Invalid, NotFound

_prefixes = (f"contract{number}-" for number in itertools.count())


def _memory(_: Path) -> KeyStore:
    return MemoryKeys()


def _machine_key_file(directory: Path) -> KeyStore:
    return FileKeys(directory / "keys", MachineKeyFile(directory / "machine" / "key"))


def _passphrase(directory: Path) -> KeyStore:
    secret = directory / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("correct horse battery staple\n")
    return FileKeys(directory / "keys", PassphraseFile(secret, memory_kib=19 * 1024, passes=2, lanes=1))


def _pool(directory: Path) -> KeyStore:
    return SigningPool(FileKeys(directory / "keys", MachineKeyFile(directory / "machine" / "key")), workers=2, inline=1)


def _transit(directory: Path) -> KeyStore:
    server = openbao()
    secret = directory / "token"
    secret.touch(mode=0o600)
    secret.write_text(server.token_for("transit-keys"))
    vault = VaultConfig(url=server.url, token_file=secret, prefix=next(_prefixes))
    return open_keys(KeysConfig(store="transit", vault=vault))


@pytest.fixture(params=[_memory, _machine_key_file, _passphrase, _pool, _transit])
async def keys(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyStore]:
    opened: Callable[[Path], KeyStore] = request.param
    store = opened(tmp_path)
    yield store
    await close_keys(store)


def _verify(key: EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    key.verify(signature, message, ECDSA(hashes.SHA256()))


async def test_a_new_key_is_p256_and_its_public_half_is_stable(keys: KeyStore) -> None:
    made = await keys.create("authority-1")
    assert isinstance(made.curve, SECP256R1)
    assert (await keys.public_key("authority-1")) == made


async def test_signatures_verify_in_the_order_of_their_messages(keys: KeyStore) -> None:
    key = await keys.create("authority-1")
    messages = [b"message %d" % number for number in range(100)]
    signatures = await keys.sign("authority-1", messages)
    assert len(signatures) == 100
    for message, signature in zip(messages, signatures, strict=True):
        _verify(key, signature, message)
    with pytest.raises(InvalidSignature):
        _verify(key, signatures[0], messages[1])


async def test_the_largest_batch_the_largest_message_and_the_empty_ones(keys: KeyStore) -> None:
    key = await keys.create("a")
    assert await keys.sign("a", []) == []
    _verify(key, (await keys.sign("a", [b""]))[0], b"")
    large = b"\xff" * MAX_MESSAGE_BYTES
    _verify(key, (await keys.sign("a", [large] * 5))[4], large)
    signatures = await keys.sign("a", [b"%d" % number for number in range(MAX_MESSAGES)])
    assert len(signatures) == MAX_MESSAGES
    _verify(key, signatures[-1], b"%d" % (MAX_MESSAGES - 1))


async def test_batches_and_messages_over_the_bounds_are_refused(keys: KeyStore) -> None:
    await keys.create("a")
    with pytest.raises(Invalid, match="1001 messages"):
        await keys.sign("a", [b"x"] * (MAX_MESSAGES + 1))
    with pytest.raises(Invalid, match=f"message 20 of the batch has {MAX_MESSAGE_BYTES + 1} bytes"):
        await keys.sign("a", [b"x"] * 20 + [b"x" * (MAX_MESSAGE_BYTES + 1)])
    with pytest.raises(Invalid, match=f"a batch of {17 * MAX_MESSAGE_BYTES} bytes"):
        await keys.sign("a", [b"x" * MAX_MESSAGE_BYTES] * 17)


async def test_a_name_is_used_once(keys: KeyStore) -> None:
    made = await keys.create("a")
    with pytest.raises(Conflict, match="key a exists already"):
        await keys.create("a")
    assert await keys.public_key("a") == made


async def test_of_callers_who_create_one_name_at_once_exactly_one_gets_it(keys: KeyStore) -> None:
    if type(keys).__name__ == "TransitKeys":
        pytest.skip("OpenBao cannot create conditionally: see the docstring of TransitKeys")
    results = await asyncio.gather(*(keys.create("a") for _ in range(5)), return_exceptions=True)
    assert sorted(isinstance(result, Conflict) for result in results) == [False, True, True, True, True]


async def test_two_names_are_two_keys(keys: KeyStore) -> None:
    assert await keys.create("a") != await keys.create("b")
    [signature] = await keys.sign("b", [b"x"])
    _verify(await keys.public_key("b"), signature, b"x")


async def test_a_name_that_is_not_there_is_not_found(keys: KeyStore) -> None:
    for count in (1, 50):
        with pytest.raises(NotFound, match="key nobody does not exist"):
            await keys.sign("nobody", [b"x"] * count)
    with pytest.raises(NotFound, match="key nobody does not exist"):
        await keys.public_key("nobody")


async def test_a_destroyed_key_signs_nothing_more_and_its_name_is_free(keys: KeyStore) -> None:
    first = await keys.create("a")
    await keys.sign("a", [b"x"] * 100)
    await keys.destroy("a")
    await keys.destroy("a")
    for count in (1, 100):
        with pytest.raises(NotFound):
            await keys.sign("a", [b"x"] * count)
    with pytest.raises(NotFound):
        await keys.public_key("a")
    second = await keys.create("a")
    assert second != first
    for signature in await keys.sign("a", [b"x"] * 100):
        _verify(second, signature, b"x")


async def test_destroying_what_never_was_is_no_error(keys: KeyStore) -> None:
    await keys.destroy("nobody")


@pytest.mark.parametrize(
    "name", ["", "-a", "A", "a" * 65, "a/b", "../a", "a.b", "a\n", "é", "a b", "a%2fb", "."], ids=ascii
)
async def test_malformed_names_are_refused_by_every_method(keys: KeyStore, name: str) -> None:
    for call in (keys.create(name), keys.public_key(name), keys.sign(name, [b"x"] * 50), keys.destroy(name)):
        with pytest.raises(Invalid, match=r"key name .* is malformed"):
            await call


async def test_an_unknown_kind_is_refused(keys: KeyStore) -> None:
    with pytest.raises(Invalid, match="key kind 'rsa-1024' is unknown"):
        await keys.create("a", "rsa-1024")
    with pytest.raises(NotFound):
        await keys.public_key("a")


async def test_concurrent_batches_of_two_keys_do_not_mix(keys: KeyStore) -> None:
    public = {name: await keys.create(name) for name in ("a", "b")}

    async def batch(number: int) -> None:
        name, message = "ab"[number % 2], b"batch %d" % number
        for signature in await keys.sign(name, [message] * 30):
            _verify(public[name], signature, message)

    await asyncio.gather(*(batch(number) for number in range(12)))


async def test_nothing_that_python_shows_of_a_store_is_key_material(keys: KeyStore) -> None:
    await keys.create("a")
    shown = f"{keys!r} {vars(keys)!r}"
    assert "PRIVATE" not in shown
    assert "private_value" not in shown


async def test_an_ed25519_key_signs_the_messages_themselves(keys: KeyStore) -> None:
    key = await keys.create("log", ED25519)
    assert isinstance(key, Ed25519PublicKey)
    assert await keys.public_key("log", ED25519) == key
    assert await keys.sign("log", []) == []
    messages = [b"", b"x" * MAX_NOTE_BYTES, *(b"note %d" % number for number in range(40))]
    signatures = await keys.sign("log", messages)
    assert {len(signature) for signature in signatures} == {64}
    for message, signature in zip(messages, signatures, strict=True):
        key.verify(signature, message)
    assert await keys.sign("log", [b"note 1"]) == await keys.sign("log", [b"note 1"])  # RFC 8032 is deterministic


async def test_an_ed25519_key_signs_nothing_longer_than_a_note(keys: KeyStore) -> None:
    await keys.create("log", ED25519)
    for count in (0, 40):
        with pytest.raises(Invalid, match=f"message {count} of the batch has {MAX_NOTE_BYTES + 1} bytes"):
            await keys.sign("log", [b"x"] * count + [b"x" * (MAX_NOTE_BYTES + 1)])


async def test_a_key_of_another_kind_than_asked_for_is_refused(keys: KeyStore) -> None:
    await keys.create("log", ED25519)
    await keys.create("authority")
    with pytest.raises(Invalid, match="key log is of another kind than ec-p256"):
        await keys.public_key("log")
    with pytest.raises(Invalid, match="key authority is of another kind than ed25519"):
        await keys.public_key("authority", ED25519)
    with pytest.raises(Conflict, match="key log exists already"):
        await keys.create("log", EC_P256)
    with pytest.raises(NotFound):
        await keys.public_key("nobody", ED25519)


async def test_a_destroyed_ed25519_key_signs_nothing_more_and_its_name_is_free(keys: KeyStore) -> None:
    first = await keys.create("log", ED25519)
    await keys.destroy("log")
    for count in (1, 40):
        with pytest.raises(NotFound):
            await keys.sign("log", [b"x"] * count)
    assert await keys.create("log", ED25519) != first
