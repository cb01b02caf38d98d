"""One hash over what a reader of deltas holds, so that both ends know at once whether it is all of it.

SHA-256 over the lines `KEY SP VERSION LF` in the order of their keys (as UTF-8). The empty state has the hash of nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def digest(versions: Mapping[str, str]) -> bytes:
    """The hash of a state, given the version of each key; neither holds a blank or a line end."""
    hashed = hashlib.sha256()
    for key in sorted(versions):
        hashed.update(f"{key} {versions[key]}\n".encode())
    return hashed.digest()
