"""From a connected process to its identities: attested once per connection, matched again when entries change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agent.attestors.port import WorkloadAttestor
from agent.peer import Caller
from agent.store import Store
from trustfed.errors import Denied, Unavailable

_LOOK_UP_SECONDS = 5.0
_AT_ONCE = 16

Matched = Callable[[tuple[str, ...]], None]


class Identification:
    """Asks the attestors, and the store's entries; `matched` is told what a caller was newly found to have."""

    def __init__(self, store: Store, attestors: Sequence[WorkloadAttestor], matched: Matched = lambda _: None) -> None:
        self._store, self._attestors, self._matched = store, tuple(attestors), matched
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def now(self, caller: Caller) -> tuple[str, ...] | None:
        """The caller's entries, oldest first; None if something must be looked up first. Raises Denied."""
        store = self._store
        if caller.generation != store.generation:
            selectors = self._ready(caller, store.cheap_kinds)
            if selectors is not None and store.costly_counts(selectors):
                selectors = self._ready(caller, store.kinds)
            if selectors is None:
                return None
            caller.entries = store.match(selectors)
            caller.generation = store.generation
            if caller.entries:
                self._matched(caller.entries)
        return caller.entries

    async def wait(self, caller: Caller) -> tuple[str, ...]:
        """The same with what must be looked up. Raises Denied, Unavailable."""
        async with self._slots:
            for _ in range(4):  # cheap kinds, then the others; and entries may change meanwhile
                found = self.now(caller)
                if found is not None:
                    return found
                try:
                    async with asyncio.timeout(_LOOK_UP_SECONDS):
                        cheap = self._ready(caller, self._store.cheap_kinds) is None
                        kinds = self._store.cheap_kinds if cheap else self._store.kinds
                        for attestor in self._attestors:
                            await attestor.look_up(caller, kinds)
                except TimeoutError:
                    raise Unavailable("the caller could not be looked up in time") from None
                if not caller.alive():
                    raise Denied("the calling process has ended")
        raise Unavailable("the entries of this node keep changing")

    def _ready(self, caller: Caller, kinds: frozenset[str]) -> frozenset[str] | None:
        """All that the attestors can tell at once of these kinds; None if one must look something up. Raises Denied."""
        selectors: frozenset[str] = frozenset()
        for attestor in self._attestors:
            found = attestor.ready(caller, kinds)
            if found is None:
                return None
            selectors |= found
        return selectors
