"""The key under which accounts of an OpenID provider are named in the journal: 32 random bytes in the data directory.

Trust sentence: who has it and the journal can try out whose an account is, and nothing else. Without it every account is
another one to the journal, so it belongs into a backup.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trustfed.errors import Invalid, NotFound
from trustfed.runtime.files import read_private, write_atomic

SIZE = 32


def open_key(path: Path, randomness: Callable[[int], bytes]) -> tuple[bytes, bool]:
    """(the key, whether it was made just now). Blocks. Raises Invalid (size, open to others), Denied, Unavailable."""
    try:
        key = read_private(path, SIZE)
    except NotFound:
        key = randomness(SIZE)
        write_atomic(path, key)
        return key, True
    if len(key) != SIZE:
        raise Invalid(f"{path} has {len(key)} bytes, not {SIZE}", hint="restore it from a backup, or remove it")
    return key, False
