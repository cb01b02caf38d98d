"""Notes, keys, checkpoints and cosignatures: the published examples verify, and every other form is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.journal.merkle.checkpoint import (
    Checkpoint,
    Cosignature,
    assemble,
    cosignature_line,
    cosignature_to_sign,
    cosigned,
    open_checkpoint,
    origin_of,
    parse_checkpoint,
    payload_to_sign,
    peek_checkpoint,
)
from trustfed.journal.merkle.hashing import EMPTY_ROOT
from trustfed.journal.merkle.note import MAX_BYTES, Note, Signature, open_note, parse_note, parse_signatures
from trustfed.journal.merkle.vkey import COSIGNATURE, ED25519, Vkey, parse_vkey, vkey_of

# The example of the Go module golang.org/x/mod/sumdb/note, which the format comes from.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
# The example of C2SP tlog-checkpoint and tlog-cosignature: its form only, as the standard does not print the keys.
C2SP_NOTE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()
AT = 1_679_315_147
ORIGIN = origin_of("prod.example", "journal")
LOG, WITNESS, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))
LOG_KEY = vkey_of(ORIGIN, LOG.public_key())
WITNESS_KEY = vkey_of("trustfed/hub", WITNESS.public_key(), COSIGNATURE)
CHECKPOINT = Checkpoint(ORIGIN, 1234, bytes(range(32)))


def signed(checkpoint: Checkpoint = CHECKPOINT) -> bytes:
    return assemble(checkpoint, LOG_KEY, LOG.sign(payload_to_sign(checkpoint))).data


def witnessed(at: int = AT) -> bytes:
    line = cosignature_line(CHECKPOINT, WITNESS_KEY, at, WITNESS.sign(cosignature_to_sign(CHECKPOINT, at)))
    return cosigned(signed(), line)


def test_the_published_key_and_note_verify() -> None:
    key = parse_vkey(GO_KEY)
    assert (key.name, key.kind, key.text) == ("PeterNeumann", ED25519, GO_KEY)
    note, verified = open_note(GO_NOTE, [key])
    assert note.data == GO_NOTE
    assert [each.name for each, _ in verified] == ["PeterNeumann"]


def test_the_published_checkpoint_has_our_form() -> None:
    note = parse_note(C2SP_NOTE)
    assert note.data == C2SP_NOTE
    assert peek_checkpoint(C2SP_NOTE).size == 20_852_163
    assert parse_checkpoint(note.text).text == note.text
    assert int.from_bytes(note.signatures[1].value[:8], "big") == AT


def test_a_checkpoint_is_signed_cosigned_and_opened() -> None:
    opened = open_checkpoint(witnessed(), [LOG_KEY], origin=ORIGIN, cosigners=[WITNESS_KEY])
    assert opened.checkpoint == CHECKPOINT
    assert opened.cosignatures == (Cosignature("trustfed/hub", AT),)
    assert open_checkpoint(witnessed(), [LOG_KEY], origin=ORIGIN).cosignatures == ()


def test_the_same_key_signs_and_cosigns_under_two_ids() -> None:
    both = [vkey_of(ORIGIN, LOG.public_key(), kind) for kind in (ED25519, COSIGNATURE)]
    assert both[0].key_id != both[1].key_id
    line = Signature(ORIGIN, both[1].key_id, bytes(8) + LOG.sign(payload_to_sign(CHECKPOINT)))
    with pytest.raises(Denied, match="does not verify"):
        open_checkpoint(cosigned(signed(), line), both[:1], origin=ORIGIN, cosigners=both[1:])


def test_a_newer_cosignature_by_the_same_key_takes_the_place_of_the_old() -> None:
    line = cosignature_line(CHECKPOINT, WITNESS_KEY, AT + 9, WITNESS.sign(cosignature_to_sign(CHECKPOINT, AT + 9)))
    data = cosigned(witnessed(), line)
    assert open_checkpoint(data, [LOG_KEY], origin=ORIGIN, cosigners=[WITNESS_KEY]).cosignatures == (
        Cosignature("trustfed/hub", AT + 9),
    )
    assert len(parse_note(data).signatures) == 2


def test_signatures_of_strangers_are_passed_over_and_never_count() -> None:
    stranger = vkey_of(ORIGIN, STRANGER.public_key())
    foreign = assemble(CHECKPOINT, stranger, STRANGER.sign(payload_to_sign(CHECKPOINT))).data
    assert open_checkpoint(foreign + signed().split(b"\n\n")[1], [LOG_KEY], origin=ORIGIN).checkpoint == CHECKPOINT
    with pytest.raises(Denied, match="no signature is by a key that is trusted here"):
        open_checkpoint(foreign, [LOG_KEY], origin=ORIGIN)
    with pytest.raises(Denied, match="no signature is by a key that is trusted here: nobody"):
        open_note(foreign, [])


def test_a_cosigner_cannot_stand_for_the_log() -> None:
    only = Note(CHECKPOINT.text, parse_note(witnessed()).signatures[1:]).data
    with pytest.raises(Denied, match="is not signed by the log"):
        open_checkpoint(only, [LOG_KEY], origin=ORIGIN, cosigners=[WITNESS_KEY])


def test_a_checkpoint_of_another_log_is_refused_though_its_signature_is_right() -> None:
    other = Checkpoint(origin_of("prod.example", "ledger"), 1, bytes(range(32)))
    line = Signature(LOG_KEY.name, LOG_KEY.key_id, LOG.sign(payload_to_sign(other)))
    data = Note(other.text, (line,)).data
    with pytest.raises(Denied, match=r"is of the log 'trustfed/prod\.example/ledger'"):
        open_checkpoint(data, [LOG_KEY], origin=ORIGIN)


def test_a_signature_that_a_key_store_got_wrong_leaves_nothing() -> None:
    with pytest.raises(Denied):
        assemble(CHECKPOINT, LOG_KEY, STRANGER.sign(payload_to_sign(CHECKPOINT)))
    with pytest.raises(Denied):
        cosignature_line(CHECKPOINT, WITNESS_KEY, AT, WITNESS.sign(cosignature_to_sign(CHECKPOINT, AT + 1)))
    with pytest.raises(Invalid):
        assemble(CHECKPOINT, WITNESS_KEY, bytes(64))
    with pytest.raises(Invalid):
        cosignature_line(CHECKPOINT, LOG_KEY, AT, bytes(64))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_of_a_note_is_never_the_note(data: Any) -> None:
    whole = witnessed()
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed = bytearray(whole)
    changed[place // 8] ^= 1 << place % 8
    try:
        opened = open_checkpoint(bytes(changed), [LOG_KEY], origin=ORIGIN, cosigners=[WITNESS_KEY])
    except TrustfedError:
        return
    # What is left is a line whose name or id changed: then it is a stranger's, and does not count.
    assert opened.checkpoint == CHECKPOINT
    assert opened.cosignatures == ()


NOTE_FAULTS = {
    "empty": b"",
    "no-signatures": b"text\n\n",
    "no-empty-line": signed().replace(b"\n\n", b"\n"),
    "no-text": b"\n\n" + signed().split(b"\n\n")[1],
    "no-last-newline": signed()[:-1],
    "control-character": signed().replace(b"1234", b"12\r34"),
    "not-utf-8": signed().replace(b"1234", b"12\xff4"),
    "hyphen-for-dash": signed().replace("\u2014".encode(), b"-"),
    "no-base64": signed()[:-3] + b"*=\n",
    "base64-not-canonical": GO_NOTE.replace(b"AM=\n", b"AN=\n"),
    "no-signature-bytes": CHECKPOINT.text.encode() + "\n\u2014 a AAAAAA==\n".encode(),
    "name-with-plus": signed().replace("\u2014 trustfed/".encode(), "\u2014 trust+fed/".encode()),
    "33-signatures": CHECKPOINT.text.encode() + b"\n" + signed().split(b"\n\n")[1] * 33,
    "too-large": b"x" * MAX_BYTES + signed(),
    "two-spaces": signed().replace(b"journal ", b"journal  "),
}


@pytest.mark.parametrize("fault", NOTE_FAULTS)
def test_another_form_of_a_note_is_refused(fault: str) -> None:
    with pytest.raises(Invalid):
        parse_note(NOTE_FAULTS[fault])


def test_sixteen_signatures_and_more_are_read() -> None:
    lines = (signed().split(b"\n\n")[1] * 32).decode()
    assert len(parse_signatures(lines)) == 32


ROOT = base64.b64encode(bytes(range(32))).decode()
CHECKPOINT_FAULTS = {
    "leading-zero": f"o\n01\n{ROOT}\n",
    "negative": f"o\n-1\n{ROOT}\n",
    "no-digits": f"o\n\u0661\n{ROOT}\n",
    "too-large": f"o\n{1 << 63}\n{ROOT}\n",
    "extension": f"o\n1\n{ROOT}\nmore\n",
    "two-lines": "o\n1\n",
    "no-origin": f"\n1\n{ROOT}\n",
    "origin-with-space": f"o o\n1\n{ROOT}\n",
    "short-root": "o\n1\nAAAA\n",
    "root-not-base64": f"o\n1\n{ROOT[:-1]}*\n",
    "a-root-of-nothing": f"o\n0\n{ROOT}\n",
    "the-empty-root-at-one": f"o\n1\n{base64.b64encode(EMPTY_ROOT).decode()}\n",
}


@pytest.mark.parametrize("fault", CHECKPOINT_FAULTS)
def test_another_form_of_a_checkpoint_is_refused(fault: str) -> None:
    with pytest.raises(Invalid):
        parse_checkpoint(CHECKPOINT_FAULTS[fault])


KEY_FAULTS = {
    "empty": "",
    "no-parts": "name",
    "id-not-hex": GO_KEY.replace("c74f20a3", "C74F20A3"),
    "another-id": GO_KEY.replace("c74f20a3", "c74f20a4"),
    "another-name": GO_KEY.replace("Peter", "Pater"),
    "no-material": "PeterNeumann+c74f20a3+",
    "unknown-type": "x+00000000+" + base64.b64encode(b"\x06" + bytes(32)).decode(),
    "short-key": "x+00000000+" + base64.b64encode(b"\x01" + bytes(31)).decode(),
    "not-base64": GO_KEY[:-1] + "*",
    "name-with-space": GO_KEY.replace("Peter", "Peter "),
    "too-long": "x" * 9999 + GO_KEY,
    "end-of-line": GO_KEY + "\n",
}


@pytest.mark.parametrize("fault", KEY_FAULTS)
def test_another_form_of_a_key_is_refused(fault: str) -> None:
    with pytest.raises(Invalid):
        parse_vkey(KEY_FAULTS[fault])


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "\ud800", "x" * 513, "a\u202eb"])
def test_what_cannot_name_a_key_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        Vkey(name, ED25519, bytes(32))
