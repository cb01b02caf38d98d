"""JSON as a verifier must read it: one meaning or a refusal (RFC 8259, RFC 7493 "I-JSON").

Python's reader lets the last of two equal members win, takes NaN and integers of any length, and recurses as deep as
the input says. Each lets two readers of one document see two documents, so each is refused here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from trustfed.errors import Invalid
from trustfed.spiffe.ids import shown

MAX_DEPTH = 16  # nested arrays and objects
MAX_DIGITS = 20  # of one integer: 64 bits
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_object(data: bytes, *, what: str, limit: int) -> dict[str, object]:
    """Read one JSON object of at most `limit` bytes; `what` names it in errors. Raises Invalid."""
    if len(data) > limit:
        raise Invalid(f"{what}: {len(data)} bytes, more than the {limit} allowed")
    try:
        value = json.loads(
            bytes(data).decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_constant,
        )
    except _Fault as fault:
        raise Invalid(f"{what}: {fault}") from None
    except UnicodeDecodeError:
        raise Invalid(f"{what}: not UTF-8") from None
    except RecursionError:
        raise Invalid(f"{what}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise Invalid(f"{what}: not JSON ({shown(str(error))})") from None
    if not isinstance(value, dict):
        raise Invalid(f"{what}: not a JSON object")
    _inspect(value, what, MAX_DEPTH)
    return value


def write(value: Mapping[str, object]) -> bytes:
    """Write JSON deterministically: sorted members, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class _Fault(Exception):
    """What the reader's hooks found; never leaves this module."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Fault(f"the member {shown(twice)} occurs twice")
    return members


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise _Fault(f"an integer of more than {MAX_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Fault(f"the number {shown(text)} is not finite")
    return number


def _constant(text: str) -> object:
    raise _Fault(f"{text} is not JSON")


def _inspect(value: object, what: str, depth: int) -> None:
    """Refuse what the reader accepts but others choke on: deep nesting, and text that is not Unicode."""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise Invalid(f"{what}: text with a lone surrogate")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise Invalid(f"{what}: nested deeper than {MAX_DEPTH} levels")
        for item in value:
            _inspect(item, what, depth - 1)
        if isinstance(value, dict):
            for item in value.values():
                _inspect(item, what, depth - 1)
