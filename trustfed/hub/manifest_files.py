"""The manifests that clusters had rendered for GitOps, on the hub's disk: large, and no decision, so not in its journal.

A file is named after the SHA-256 of its content, which the domain's role lists, and the role is in the journal: what lies
here is believed by its hash alone. It is written before the role is recorded. One that is missing, after a restore say,
comes back with the next stream of its cluster; until then the targets keep what they have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from bundle_publisher import manifests
from trustfed.errors import TrustfedError
from trustfed.runtime.files import private_directory, read_bounded, write_atomic


class ManifestFiles:
    """One folder of files named by their hashes. Every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, data: bytes) -> str:
        """Write the file, durably; its SHA-256."""
        name = hashlib.sha256(data).hexdigest()
        path = private_directory(self._folder) / name
        if self.read(name) is None:
            write_atomic(path, data, 0o600)
        return name

    def read(self, name: str) -> bytes | None:
        """The file with this SHA-256; None when it is not there, or is not what its name says."""
        try:
            data = read_bounded(self._folder / name, manifests.MAX_BYTES)
        except TrustfedError:
            return None
        if hashlib.sha256(data).hexdigest() == name:
            return data
        self.drop(name)  # damaged: so that `has` says so, and its cluster's next stream brings it again
        return None

    def has(self, name: str, length: int) -> bool:
        """Whether a file of this length is there; `read` looks into it."""
        try:
            return (self._folder / name).stat().st_size == length
        except OSError:
            return False

    def drop(self, name: str) -> None:
        """Remove one that no role lists any more: every file names its domain, so no other role lists it either."""
        (self._folder / name).unlink(missing_ok=True)

    def prune(self, listed: Iterable[str]) -> None:
        """Remove what no role lists any more."""
        if not self._folder.is_dir():
            return
        kept = set(listed)
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
