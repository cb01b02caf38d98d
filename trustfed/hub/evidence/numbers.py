"""Whether numbers that somebody else says can be stored, divided and shown: JSON itself bounds none (RFC 8259 §6)."""

from __future__ import annotations

from typing import Any

MAX_NUMBER = 1 << 53


def bounded(said: Any) -> bool:
    """Whether each number in this JSON value lies within 53 bits."""
    if isinstance(said, dict):
        return all(bounded(one) for one in said.values())
    if isinstance(said, list | tuple):
        return all(bounded(one) for one in said)
    return not isinstance(said, int | float) or abs(said) < MAX_NUMBER
