"""A secret is configured as the path of a file: so it is in no configuration, argument or environment."""

from __future__ import annotations

from pathlib import Path

from trustfed.errors import Invalid
from trustfed.runtime.files import read_private

MAX_BYTES = 65_536


class SecretFile:
    """The path of a file that holds a secret; nobody but its owner may read it. Shows only its path.

    Raises NotFound when it does not exist, Invalid when it is empty, no regular file, or open to group or world (hint:
    chmod 600), Denied when it cannot be read.
    """

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read()

    def read(self) -> bytes:
        """The secret as it is now, without one trailing line end; at most 64 KiB. The permissions are checked again."""
        secret = read_private(self.path, MAX_BYTES).removesuffix(b"\n").removesuffix(b"\r")
        if not secret:
            raise Invalid(f"{self.path} is empty; it must hold a secret")
        return secret

    def __repr__(self) -> str:
        return f"SecretFile({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretFile) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)
