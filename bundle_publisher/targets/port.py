"""The target port: a place that keeps named public documents and replaces them conditionally.

Trust: a target is not believed. Plain readers get what it holds, so whoever can write to it can withhold, or put back,
what plain readers see; envelopes are verified by their readers instead. Nothing secret is ever given to a target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from trustfed.errors import Invalid
from trustfed.spiffe.ids import shown

MAX_DOCUMENT = 32 * 1024 * 1024

_SEGMENT = re.compile(r"[a-z0-9_][a-z0-9._-]{0,254}")


@dataclass(frozen=True)
class Stored:
    """What a target holds under a name; `tag` changes with every content."""

    data: bytes
    tag: str


@dataclass(frozen=True)
class Document:
    """What is to be published: exact bytes, and how a web server should present them."""

    name: str
    data: bytes
    content_type: str = "application/json"
    cache_control: str = ""


class Target(Protocol):
    """A place for public documents. Raises Unavailable when it cannot be used now, Denied when it refuses us."""

    async def read(self, name: str) -> Stored | None:
        """Return what is held under `name`, or None. What is larger than MAX_DOCUMENT is Invalid."""
        ...

    async def write(self, document: Document, if_tag: str | None) -> str:
        """Replace what has the tag `if_tag` (None: nothing is there yet), whole or not at all; return the new tag.

        Raises Conflict when something else is there by now.
        """
        ...

    async def remove(self, name: str, if_tag: str) -> None:
        """Remove what has the tag `if_tag`. Raises Conflict when something else is there; nothing there is no error."""
        ...


def check_name(name: str) -> None:
    """Raise Invalid unless `name` is one or two plain segments: it becomes a path and a URL as it stands."""
    segments = name.split("/")
    if len(segments) > 2 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise Invalid(f"document name {shown(name)} is malformed")


def check_document(document: Document) -> None:
    """Raise Invalid for a malformed name or a document beyond MAX_DOCUMENT."""
    check_name(document.name)
    if len(document.data) > MAX_DOCUMENT:
        raise Invalid(f"document {document.name} has {len(document.data)} bytes; at most {MAX_DOCUMENT} are published")
