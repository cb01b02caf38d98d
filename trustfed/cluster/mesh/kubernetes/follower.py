"""Keeps one collection: a whole list, then a watch that continues it, and again from wherever either breaks.

Nothing is ever forgotten because of an error: what is held stays until a whole list, or the server's own word in a watch,
says otherwise. Failures are tried again with back-off and jitter.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import aclosing
from typing import Generic

from trustfed.cluster.mesh.kubernetes.port import MAX_OBJECTS, ApiServer, Collection, Gone, Kept, Name, Object, name_of
from trustfed.errors import TrustfedError, Unavailable
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock

log = logs.get("cluster.mesh.kubernetes")

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
ABSENT_WAIT = 60.0
"""How soon a group that the server does not have is looked for again."""


class Follower(Generic[Kept]):
    """`items` is what there is, reduced to what `keep` keeps (None: nothing); `changed` is told the namespaces."""

    def __init__(
        self,
        api: ApiServer,
        of: Collection,
        keep: Callable[[Object], Kept | None],
        changed: Callable[[set[str]], None],
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._api, self.of, self._keep, self._changed = api, of, keep, changed
        self._clock, self._uniform = clock, uniform
        self.items: dict[Name, Kept] = {}
        self.complete = False
        """Whether a whole list has come once: before, absence says nothing."""
        self.error = ""
        self.current_at: float | None = None
        """When the server spoke last, by the monotonic clock."""

    async def run(self) -> None:
        """Follow until cancelled."""
        version, failures = "", 0
        while True:
            began, heard = self._clock.monotonic(), False
            try:
                if not version:
                    listed = await self._api.list(self.of, self._keep)
                    self._replace(dict(listed.items))
                    version = listed.version
                    self._well()
                    if not version:
                        await self._clock.sleep(ABSENT_WAIT * self._uniform(0.8, 1.2))
                        continue
                async with aclosing(self._api.watch(self.of, version)) as watch:
                    async for changes in watch:
                        for change in changes:
                            if change.item is not None:
                                self._one(change.item, gone=change.gone)
                            version = change.version
                        heard = heard or bool(changes)
                        failures = 0 if heard else failures
                        self._well()
                failures = 0
                self._well()
                if self._clock.monotonic() - began < FIRST_WAIT:
                    await self._clock.sleep(FIRST_WAIT * self._uniform(0.5, 1.5))
            except Gone:
                version, failures = "", failures + (not heard)
                await self._wait(failures)
            except TrustfedError as error:
                if error.message != self.error:
                    log.warning("Kubernetes is not followed", collection=str(self.of), error=error.message)
                self.error, failures = error.message, failures + 1
                version = version if failures == 1 else ""  # nothing up to it was missed; twice, begin anew
                await self._wait(failures)
            except Exception as error:  # one broken object must not end the process
                log.exception("Kubernetes is not followed", error=error, collection=str(self.of))
                self.error, version, failures = f"reading broke: {type(error).__name__}", "", failures + 1
                await self._wait(failures)

    def status(self) -> dict[str, object]:
        """For the status: whether it is whole, how old it is, and what is wrong."""
        age = None if self.current_at is None else round(self._clock.monotonic() - self.current_at, 1)
        return {
            "collection": str(self.of),
            "complete": self.complete,
            "objects": len(self.items),
            "age_seconds": age,
            "error": self.error,
        }

    def _well(self) -> None:
        if self.error:
            log.info("Kubernetes is followed again", collection=str(self.of))
        self.error, self.current_at = "", self._clock.monotonic()

    async def _wait(self, failures: int) -> None:
        longest = min(FIRST_WAIT * 2.0 ** min(max(failures - 1, 0), 10), LONGEST_WAIT)
        await self._clock.sleep(self._uniform(longest / 2, longest))

    def _replace(self, found: dict[Name, Kept]) -> None:
        before, self.items = self.items, found
        differing = {n[0] for n in before.keys() ^ found.keys()}
        differing |= {n[0] for n, kept in found.items() if n in before and before[n] != kept}
        if differing or not self.complete:
            self.complete = True
            self._changed(differing)

    def _one(self, item: Object, *, gone: bool) -> None:
        if (name := name_of(item)) is None:
            raise Unavailable(f"the watch of {self.of} has an object without a name")
        before, kept = self.items.get(name), None if gone else self._keep(item)
        if before == kept:
            return
        if kept is None:
            del self.items[name]
        elif before is None and len(self.items) >= MAX_OBJECTS:
            raise Unavailable(f"there are more than {MAX_OBJECTS} {self.of}", hint="this process reads no more")
        else:
            self.items[name] = kept
        self._changed({name[0]})
