"""The DER writer, read back by pyca and by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca import der


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (65536, "0483010000")],
)
def test_lengths_are_minimal(size: int, head: str) -> None:
    assert der.tlv(der.OCTET_STRING, bytes(size)) == bytes.fromhex(head) + bytes(size)


@given(st.integers(min_value=0, max_value=(1 << 160) - 1))
def test_integers_are_minimal_and_positive(value: int) -> None:
    content = der.integer(value)[2:]
    assert int.from_bytes(content, "big", signed=True) == value
    assert len(content) == 1 or content[0] != 0 or content[1] >= 0x80


def test_times_change_form_in_2050() -> None:
    assert der.time(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)) == b"\x17\x0d491231235959Z"
    assert der.time(datetime(2050, 1, 1, tzinfo=UTC)) == b"\x18\x0f20500101000000Z"
