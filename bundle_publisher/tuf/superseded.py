"""Files of a target that no published edition needs any more, and when they may go: `tuf/superseded.json`.

    {"files": {name: Unix seconds since when it is not needed}}

A name is written here before its file is written, and before an edition stops needing it; so whatever a crash leaves is
listed. Readers never look at it. Whoever can change it can delete in the target anyway: what it lists is removed only if
it has the name of a file of ours, and no file that is needed goes. Pure; `repository` reads and writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trustfed.errors import Invalid
from trustfed.spiffe import strict_json

NAME = "tuf/superseded.json"
MAX_FILES = 10_000
MAX_BYTES = 4_000_000

_OURS = re.compile(r"tuf/[0-9]{1,16}\.[a-z0-9._-]{1,190}\.json|(?:envelopes|clusters)/[0-9a-f]{64}\.[a-z0-9._-]{1,190}")
_ROOT = re.compile(r"tuf/[0-9]+\.root\.json")


def read(data: bytes | None) -> dict[str, int]:
    """The files listed; what is not ours to remove, or makes no sense, is left out."""
    if data is None:
        return {}
    try:
        found = strict_json.parse_object(data, what=NAME, limit=MAX_BYTES).get("files")
    except Invalid:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: since for name, since in found.items() if type(since) is int and removable(name)}


def write(files: Mapping[str, int]) -> bytes:
    """The list, in one spelling."""
    return strict_json.write({"files": dict(files)})


def removable(name: str) -> bool:
    """Whether this is the name of a file that this publication may remove: never a root's, which readers walk."""
    return bool(_OURS.fullmatch(name)) and not _ROOT.fullmatch(name)


def noted(files: Mapping[str, int], names: Iterable[str], now: int) -> dict[str, int]:
    """The list with `names` in it too, since now where they are new."""
    return {**{name: now for name in names if removable(name)}, **files}


def settled(files: Mapping[str, int], needed: Iterable[str]) -> dict[str, int]:
    """The list without what is needed (again)."""
    kept = set(needed)
    return {name: since for name, since in files.items() if name not in kept}


def due(files: Mapping[str, int], now: int, grace: int) -> list[str]:
    """What may be removed: listed longer than `grace` seconds, and the oldest beyond MAX_FILES."""
    oldest = sorted(files, key=lambda name: (files[name], name))
    excess = max(len(oldest) - MAX_FILES, 0)
    return [name for at, name in enumerate(oldest) if at < excess or files[name] + grace <= now]
