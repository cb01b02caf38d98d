"""Serials are written in one way everywhere, and read as people have them from elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustfed.spiffe.certificate import MAX_SERIAL, serial_said, serial_text

SHORT = 0x00BD30466BF509A3F359BD04F4848234


@given(st.integers(1, MAX_SERIAL - 1))
def test_a_serial_is_read_as_it_was_written(serial: int) -> None:
    written = serial_text(serial)
    assert len(written) >= 32 and int(written, 16) == serial and serial_said(written) == written


@pytest.mark.parametrize(
    "said",
    [
        "BD30466BF509A3F359BD04F4848234",  # openssl x509 -serial
        "bd:30:46:6b:f5:09:a3:f3:59:bd:04:f4:84:82:34",  # openssl x509 -text
        " BD 30 46 6B F5 09 A3 F3 59 BD 04 F4 84 82 34\n",
        "0xbd30466bf509a3f359bd04f4848234",
        "00bd30466bf509a3f359bd04f4848234",
    ],
)
def test_a_serial_from_elsewhere_is_the_same_serial(said: str) -> None:
    assert serial_said(said) == serial_text(SHORT) == "00bd30466bf509a3f359bd04f4848234"
    assert serial_said("BD:30:46:6B", 0) == "bd30466b"


@pytest.mark.parametrize("said", ["", "bd30466", "bd30466g", "٣" * 8, "a" * 41, "0x", "bd-30-46-6b"])
def test_what_is_no_serial_is_none(said: str) -> None:
    assert serial_said(said) == ""
