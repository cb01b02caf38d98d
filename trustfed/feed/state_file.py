"""The last routes on disk: the old state or the new one after a crash at any moment, and never half of one.

`routes.jsonl`: a head, then one resource a line. Each line is proved by its own hash, all of them together by the digest in the
head. `confirmed.json`: when the hub last confirmed them, written far more often than routes change. All functions block.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from trustfed.errors import Invalid, NotFound, TrustfedError, Unavailable
from trustfed.federation.mesh_digest import digest
from trustfed.feed.intake import State
from trustfed.feed.resources import MAX_RESOURCES, Resource, whole
from trustfed.runtime.files import read_bounded, write_atomic

FORMAT = 1
MAX_FILE = 256 * 1024 * 1024


class StateFile:
    """The state of one feed of one trust domain in a private folder."""

    def __init__(self, folder: Path, trust_domain: str) -> None:
        self._routes, self._confirmed = folder / "routes.jsonl", folder / "confirmed.json"
        self._folder, self._domain = folder, trust_domain

    def clean(self) -> None:
        """Remove what a process left that was killed while it wrote; for the one process that has the folder."""
        for left in self._folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                left.unlink()

    def load(self) -> State | None:
        """What was saved last; None before the first time. Raises Invalid when it is damaged, or another domain's."""
        try:
            data = read_bounded(self._routes, MAX_FILE)
        except NotFound:
            return None
        try:
            head, *lines = [json.loads(line) for line in data.splitlines()]
            if (head["format"], head["trust_domain"]) != (FORMAT, self._domain):
                raise Invalid(f"{self._routes} is not of a feed of {self._domain} in format {FORMAT}")
            if len(lines) > MAX_RESOURCES:
                raise Invalid(f"{self._routes} has more than {MAX_RESOURCES} resources")
            found = [_resource(line) for line in lines]
            resources = {resource.key: resource for resource in found}
            state = State(resources, {}, max(int(head["confirmed_ms"]), self._confirmed_ms()))
            if digest(state.versions).hex() != head["digest"]:
                raise Invalid(f"{self._routes}: its resources are not those that its digest names")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise Invalid(f"{self._routes} is damaged", hint="the cluster will be asked for everything") from None
        return state

    def save(self, state: State) -> None:
        """Keep `state`, durably. Raises Unavailable (the disk), Denied."""
        head = {
            "format": FORMAT,
            "trust_domain": self._domain,
            "digest": digest(state.versions).hex(),
            "confirmed_ms": state.confirmed_ms,
        }
        data = io.BytesIO()  # a list of lines, joined and encoded, would take three times the memory
        data.write(json.dumps(head).encode() + b"\n")
        for _, r in sorted(state.resources.items()):
            line = [r.key, r.version, r.created_ms, r.manifest.decode()]
            data.write(json.dumps(line).encode() + b"\n")
        write_atomic(self._routes, data.getvalue())

    def remove(self) -> None:
        """No routes are kept any more, durably. Raises Unavailable."""
        try:
            self._routes.unlink(missing_ok=True)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise Unavailable(f"{self._routes} cannot be removed: {error.strerror}", hint="check the disk") from error

    def confirm(self, confirmed_ms: int) -> None:
        """Keep only when the routes were confirmed. Raises Unavailable, Denied."""
        write_atomic(self._confirmed, json.dumps({"confirmed_ms": confirmed_ms}).encode())

    def _confirmed_ms(self) -> int:
        try:
            return int(json.loads(read_bounded(self._confirmed, 1_024))["confirmed_ms"])
        except (TrustfedError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return 0


def _resource(line: Any) -> Resource:
    key, version, created_ms, manifest = line
    return whole(key, version, int(created_ms), manifest.encode())
