"""What the pages about one thing share: its cluster is asked, and of what it answers only what can be read is shown.

A cluster that is away, or knows nothing of it, is no error of the page: the page says so beside what the hub knows by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from trustfed.errors import TrustfedError, Unavailable
from trustfed.hub.dashboard.figures import LAST_MS
from trustfed.hub.dashboard.frame import visit_of
from trustfed.hub.evidence.questions import Answered

MOST_ROWS = 2_000
T = TypeVar("T")


async def ask(request: Request, domain: str, kind: str, body: Mapping[str, Any]) -> Answered | TrustfedError:
    """What the cluster of `domain` says to a question of trustfed.evidence.queries, or why it says nothing."""
    questions = visit_of(request).parts.questions
    try:
        if questions is None:
            raise Unavailable("this hub asks clusters nothing", hint="look on the cluster: trustfed evidence report")
        return await questions.ask(domain, kind, body)
    except TrustfedError as error:
        return error


def each(given: Any, kind: type[T]) -> list[T]:
    """The rows of a list that are of this kind; what does not read is left out."""
    made: list[T] = []
    for raw in (given if isinstance(given, list) else [])[:MOST_ROWS]:
        if not isinstance(raw, dict) or _endless(raw):
            continue
        try:
            made.append(msgspec.convert(raw, kind))
        except msgspec.ValidationError:
            continue
    return made


def _endless(raw: dict[str, Any]) -> bool:
    """Whether a row has a number that no moment and no count is: a cluster may say what it likes."""
    said = [part for value in raw.values() for part in (value.values() if isinstance(value, dict) else (value,))]
    return any(isinstance(part, int) and abs(part) > LAST_MS for part in said)
