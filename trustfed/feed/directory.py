"""Routes as files for istiod's `fs://` source: one file per resource, whole at every moment, nothing of others touched.

istiod reads `.yaml` files, recursively; one that it cannot read rejects all of them, and every change makes it read all anew
(istio/istio pilot/pkg/config/kube/file). So a file appears under its name only when it is complete, by a rename; temporary names
begin with a dot and end in `.tmp`; what is equal is not written; additions come before removals, so that the folder is never
empty on the way. JSON is YAML.

A file is ours when its name says so and its content carries our label, or when this process wrote it. Others stay as they are,
also under a name that a resource of ours would have: that resource is left out, and reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.feed.intake import State
from trustfed.feed.resources import LABEL, MAX_MANIFEST, PREFIX, Resource
from trustfed.runtime.files import read_bounded, replace_in
from trustfed.spiffe import strict_json

SUFFIX = ".yaml"
MODE = 0o644
"""istiod runs as another user than the feed."""
MAX_NAME = 200
MAX_FILE = MAX_MANIFEST + 1_024
ANNOUNCED = "trustfed.dev/announced"
"""An annotation that means nothing: see trustfed.feed.announcing."""
_LABELLED = f'"{LABEL[0]}":"{LABEL[1]}"'.encode()


class Directory:
    """One folder, of one feed at a time."""

    name = "directory"
    readers = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = -1
        self._announced = 0
        self._wrote: set[str] = set()

    def open(self) -> None:
        """Make the folder if it is missing, and be the only feed of it. Blocks. Conflict, Denied, Invalid, Unavailable."""
        try:
            if not self._folder.exists():
                self._folder.mkdir()
                self._folder.chmod(0o755)
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another feed writes to {self._folder}", hint="give each feed a folder of its own"
            ) from None
        except FileNotFoundError:
            raise Invalid(
                f"{self._folder}: the folder above it does not exist", hint="mount or make it first"
            ) from None
        except NotADirectoryError:
            raise Invalid(f"{self._folder} is not a folder") from None
        except PermissionError as error:
            raise Denied(f"{self._folder}: {error.strerror}", hint="check its owner and permissions") from None
        except OSError as error:
            raise Unavailable(f"{self._folder}: {error.strerror}") from error
        for left in self._folder.glob(f".{PREFIX}*.tmp"):  # of a process that was killed while it wrote
            with contextlib.suppress(OSError):
                left.unlink()
        self._announced = max(map(_announced, self._folder.glob(f"{PREFIX}*.serviceentry{SUFFIX}")), default=0)

    def announce(self) -> None:
        """The next `publish` of everything changes each ServiceEntry's file, without changing what it says."""
        self._announced += 1

    def close(self) -> None:
        """Let another feed have it; the files stay."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def publish(self, state: State, changed: frozenset[str] | None) -> Mapping[str, str]:
        """Make the folder hold exactly `state` of ours. Raises Unavailable when the folder cannot be listed."""
        return await asyncio.to_thread(self._write, state.resources, changed)

    def _write(self, resources: Mapping[str, Resource], changed: frozenset[str] | None) -> dict[str, str]:
        left_out: dict[str, str] = {}
        wanted = resources if changed is None else {key: resources[key] for key in changed & resources.keys()}
        wrote, unwritable = False, 0
        for key, resource in wanted.items():
            try:
                wrote = self._put(file_name(key), self._content(resource)) or wrote
            except Conflict as error:
                left_out[key] = error.message[:300]
            except (OSError, TrustfedError) as error:
                unwritable += 1
                left_out[key] = f"its file cannot be written: {getattr(error, 'strerror', None) or error}"[:300]
        gone = self._strange(resources) if changed is None else [file_name(key) for key in changed - resources.keys()]
        for name in gone:
            wrote = self._drop(name) or wrote
        if wrote:
            os.fsync(self._lock)
        if unwritable and len(left_out) == len(wanted):
            raise Unavailable(f"no file can be written to {self._folder}: {next(iter(left_out.values()))}")
        return left_out

    def _content(self, resource: Resource) -> bytes:
        """The manifest; with the number of the announcement once there was one."""
        if not self._announced or resource.kind != "ServiceEntry":
            return resource.manifest + b"\n"
        document = json.loads(resource.manifest)
        document["metadata"].setdefault("annotations", {})[ANNOUNCED] = str(self._announced)
        return strict_json.write(document) + b"\n"

    def _put(self, name: str, data: bytes) -> bool:
        """Whether a file had to be written. Raises Conflict where somebody else's stands."""
        with contextlib.suppress(TrustfedError):
            if read_bounded(self._folder / name, MAX_FILE) == data and self._mode(name) == MODE:
                self._wrote.add(name)
                return False
        if name not in self._wrote and os.path.lexists(self._folder / name) and not self._ours(name):
            raise Conflict(f"the file {name} is there and is not ours", hint="move it away, or put our label into it")
        replace_in(self._lock, name, data, MODE)
        self._wrote.add(name)
        return True

    def _drop(self, name: str) -> bool:
        """Whether a file of ours was there."""
        self._wrote.discard(name)
        if not self._ours(name):
            return False
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._lock)
            return True
        return False

    def _strange(self, resources: Iterable[str]) -> list[str]:
        """Names of files that may be ours, of resources that are no more."""
        known = {file_name(key) for key in resources}
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be listed: {error.strerror}") from error
        return [name for name in names if name.startswith(PREFIX) and name.endswith(SUFFIX) and name not in known]

    def _ours(self, name: str) -> bool:
        try:
            return self._mode(name) >= 0 and _LABELLED in read_bounded(self._folder / name, MAX_FILE)
        except TrustfedError:
            return False

    def _mode(self, name: str) -> int:
        """The permission bits of a regular file; -1 for anything else, a symlink too."""
        try:
            found = os.stat(name, dir_fd=self._lock, follow_symlinks=False)
        except OSError:
            return -1
        return stat.S_IMODE(found.st_mode) if stat.S_ISREG(found.st_mode) else -1


def file_name(key: str) -> str:
    """The file of a resource: NAME.NAMESPACE.KIND.yaml; a hash where that is too long for a file system."""
    kind, namespace, name = key.split("/")
    plain = f"{name}.{namespace}.{kind.lower()}{SUFFIX}"
    if len(plain) <= MAX_NAME:
        return plain
    return f"{PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:40]}.{kind.lower()}{SUFFIX}"


def _announced(path: Path) -> int:
    """The number in one file of an earlier life; 0 without one: so that a restart changes no file."""
    try:
        return min(int(json.loads(read_bounded(path, MAX_FILE))["metadata"]["annotations"][ANNOUNCED]), 2**31)
    except (TrustfedError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0
