"""One meaning or a refusal; the refusals that documents meet are in tests/vectors/bundle and jwtsvid."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustfed.errors import Invalid
from trustfed.spiffe import strict_json

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3)
)
OBJECTS = st.dictionaries(st.text("abc"), VALUES, max_size=4)


@given(OBJECTS)
def test_what_is_written_reads_back(value: dict[str, object]) -> None:
    data = strict_json.write(value)
    try:
        read = strict_json.parse_object(data, what="document", limit=100_000)
    except Invalid as invalid:
        assert "nested deeper" in invalid.message
    else:
        assert read == value
        assert strict_json.write(read) == data


@given(st.one_of(st.binary(), st.text('{}[]":,\\ud80cnul1eE+-', max_size=60).map(str.encode)))
def test_any_bytes_are_an_object_or_invalid(data: bytes) -> None:
    try:
        value = strict_json.parse_object(data, what="document", limit=50)
    except Invalid as invalid:
        assert invalid.message.startswith("document: ")
        assert invalid.message.isprintable()
    else:
        assert json.loads(data) == value


def test_the_limit_is_checked_before_anything_is_read() -> None:
    with pytest.raises(Invalid, match="101 bytes, more than the 100 allowed"):
        strict_json.parse_object(b"x" * 101, what="document", limit=100)


def test_depth_is_counted_exactly() -> None:
    fits = b'{"a":' + b"[" * (strict_json.MAX_DEPTH - 1) + b"]" * (strict_json.MAX_DEPTH - 1) + b"}"
    assert strict_json.parse_object(fits, what="document", limit=1000)
    with pytest.raises(Invalid, match="nested deeper"):
        strict_json.parse_object(b'{"a":[' + fits[5:-1] + b"]}", what="document", limit=1000)


@pytest.mark.parametrize("text", ['{"a":{"b":1,"b":1}}', '{"a":1,"\\u0061":2}', '[{"b":1,"b":2}]'])
def test_repeated_members_are_refused_at_any_depth_and_however_written(text: str) -> None:
    with pytest.raises(Invalid, match="occurs twice"):
        strict_json.parse_object(text.encode(), what="document", limit=1000)
