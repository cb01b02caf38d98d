"""Canonical JSON: one value has one encoding (RFC 8785), for the types that have no second opinion.

RFC 8785 leaves three places where implementations disagree, and each is closed by refusal: floats (their shortest
decimal form), integers beyond ±(2^53 - 1) (I-JSON, RFC 7493 §2.2), and keys outside ASCII (sorted by UTF-16 code unit
there, by code point here). What is left msgspec encodes with sorted keys, byte for byte as RFC 8785 does.
"""

from __future__ import annotations

import msgspec

from trustfed.errors import Invalid

MAX_INTEGER = (1 << 53) - 1
MAX_DEPTH = 16

_STRINGS = {str}
_KNOWN: set[object] = set()
"""Keys that were seen to be good: nearly all are members of some kind of event or fact, and are looked at in C here."""
_MOST_KNOWN, _LONGEST_KNOWN = 1_000, 24
_ENCODER = msgspec.json.Encoder(order="sorted")


class _Refused(Exception):
    """Carries the reason up while each level adds its step to the path."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []


def encode(whole: object, part: object, what: str) -> bytes:
    """Encode `whole`, whose only free-form part is `part`; Invalid names `what` and the path that has no such form."""
    try:
        _check(part, MAX_DEPTH)
        return _ENCODER.encode(whole)
    except _Refused as refused:
        path = "body" + "".join(reversed(refused.path))
        raise Invalid(f"{what}: {path} {refused.reason}") from None
    except UnicodeEncodeError:
        raise Invalid(f"{what}: a string holds a lone surrogate, which has no UTF-8 form") from None


def _check(value: object, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]
            raise _Refused("is an integer beyond 53 bits; write it as a string")
        return
    if depth == 0:
        raise _Refused(f"is nested deeper than {MAX_DEPTH} levels")
    if kind is dict:
        _check_members(value, depth)  # type: ignore[arg-type]
    elif kind is list:
        for index, item in enumerate(value):  # type: ignore[arg-type, var-annotated]
            try:
                _check(item, depth - 1)
            except _Refused as refused:
                refused.path.append(f"[{index}]")
                raise
    else:
        raise _Refused(f"is of type {kind.__name__}; only str, int, bool, None, list and dict are recorded")


def _check_members(value: dict[object, object], depth: int) -> None:
    if not _KNOWN.issuperset(value):
        _check_keys(value)
    for key, item in value.items():
        # Most members are short scalars: a look at the type spares them a call each.
        kind = type(item)
        if kind is str or (kind is int and -MAX_INTEGER <= item <= MAX_INTEGER):  # type: ignore[operator]
            continue
        try:
            _check(item, depth - 1)
        except _Refused as refused:
            refused.path.append(f".{key}")
            raise


def _check_keys(value: dict[object, object]) -> None:
    if set(map(type, value)) != _STRINGS or not "".join(value).isascii():  # type: ignore[arg-type]
        key = next(key for key in value if type(key) is not str or not key.isascii())
        raise _Refused(f"has the key {key!r:.80}; keys are ASCII strings")
    if len(_KNOWN) < _MOST_KNOWN:
        _KNOWN.update(key for key in value if len(key) <= _LONGEST_KNOWN)  # type: ignore[arg-type]
