"""Canonical JSON against the standard's own rules and an independent encoder."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustfed.errors import Invalid
from trustfed.journal.jcs import MAX_DEPTH, MAX_INTEGER, encode

_KEYS = st.text(st.characters(codec="ascii"), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
# The first character table takes seconds on a busy machine, and the verdict must not depend on that.
_UNTIMED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def jcs(value: Any) -> bytes:
    return encode(value, value, "value")


@_UNTIMED
@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_encoding_agrees_with_an_independent_encoder(value: dict[str, Any]) -> None:
    # For these types json.dumps follows the same ECMAScript escapes; its sort by code point is UTF-16 order for ASCII.
    expected = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    assert jcs(value) == expected
    assert json.loads(expected) == value


@_UNTIMED
@given(st.dictionaries(_KEYS, _VALUES, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_encoding_does_not_depend_on_insertion_order(value: dict[str, Any], random: Any) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert jcs(dict(shuffled)) == jcs(value)


def test_strings_are_escaped_as_rfc_8785_section_3_2_2_2_says() -> None:
    text = '\u20ac$\u000f\nA\'B"\\\\"/\x7f\u2028\b\t\f\r'
    expected = '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/\x7f\u2028\\b\\t\\f\\r"'
    assert jcs({"s": text}) == b'{"s":' + expected.encode() + b"}"


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1.0}, r"body\.a is of type float"),
        ({"a": [{"b": float("nan")}]}, r"body\.a\[0\]\.b is of type float"),
        ({"a": b"x"}, r"body\.a is of type bytes"),
        ({"a": (1,)}, r"body\.a is of type tuple"),
        ({"a": {1, 2}}, r"body\.a is of type set"),
        ({"a": Colour.RED}, r"body\.a is of type Colour"),
        ({"a": MAX_INTEGER + 1}, r"body\.a is an integer beyond 53 bits"),
        ({"a": [0, -MAX_INTEGER - 1]}, r"body\.a\[1\] is an integer beyond 53 bits"),
        ({1: "a"}, "body has the key 1"),
        ({"a": {"\u00e9": 1}}, r"body\.a has the key '\u00e9'; keys are ASCII"),
        ({"a": "\ud800"}, "lone surrogate"),
        ({"a": ["\udfff"]}, "lone surrogate"),
    ],
    ids=str,
)
def test_what_has_two_encodings_is_refused_by_path(value: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        jcs(value)


def test_nesting_is_bounded() -> None:
    deep: Any = {}
    for _ in range(MAX_DEPTH - 1):
        deep = {"d": deep}
    jcs(deep)
    with pytest.raises(Invalid, match=f"nested deeper than {MAX_DEPTH} levels"):
        jcs({"d": deep})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(Invalid, match="nested deeper"):
        jcs({"d": endless})
