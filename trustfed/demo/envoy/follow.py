"""Keeps proxies in step with the directory that a feed writes, as istiod's `fs://` source does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from trustfed.demo.envoy.manifests import Document, read_directory
from trustfed.demo.envoy.proxy import Proxy
from trustfed.demo.envoy.resources import Resources
from trustfed.errors import TrustfedError
from trustfed.runtime import logs

LOOK_SECONDS = 0.02
log = logs.get("demo.envoy")

Translation = Callable[[Sequence[Document]], Resources]


class Follower:
    """From construction to `close`, in a thread of its own; `error` is why the last change was not taken, if it was not.

    A change that cannot be translated leaves every proxy as it was.
    """

    def __init__(self, directory: Path, proxies: Sequence[tuple[Proxy, Translation]]) -> None:
        self.directory, self._proxies = directory, proxies
        self._seen: object = None
        self._ended = threading.Event()
        self.error = ""
        self._thread = threading.Thread(target=self._follow, name=f"follow {directory.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following; the proxies stay as they are."""
        self._ended.set()
        self._thread.join(5)

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            seen = snapshot(self.directory)
            if seen == self._seen:
                continue
            try:
                documents = read_directory(self.directory)
                made = [(proxy, translate(documents)) for proxy, translate in self._proxies]
                for proxy, resources in made:
                    proxy.apply(resources)
            except TrustfedError as error:
                self.error = error.message
                log.error("a change is not taken", directory=str(self.directory), error=error.message)
            except OSError:  # replaced while it was read
                continue
            else:
                self.error = ""
            self._seen = seen


def snapshot(directory: Path) -> list[tuple[str, int, int]]:
    """Names, times and inodes of all files: what differs when one was replaced."""
    found = []
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118  every 20 ms
            try:
                status = os.stat(path)  # noqa: PTH116
            except FileNotFoundError:
                continue
            found.append((path, status.st_mtime_ns, status.st_ino))
    return sorted(found)
