"""What the feed serves now: loaded before anything is handed over, kept before it is handed over, never emptied by a failure.

A disk that fails holds no route back from istiod, nor its withdrawal. But what is kept must not bring back, after a restart while
the cluster is away, what was withdrawn or replaced since: then it is removed (which needs no room on a full disk), and that feed
would know nothing until its cluster has told it. An addition alone leaves it as it is. Saving is tried again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from trustfed.errors import TrustfedError
from trustfed.federation.mesh_digest import digest
from trustfed.feed.follow import MAX_REJECTED
from trustfed.feed.intake import State
from trustfed.feed.state_file import StateFile
from trustfed.proto import mesh_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

log = logs.get("feed")

KEEP_SECONDS = 30.0


class Output(Protocol):
    """One way to hand routes to an istiod."""

    @property
    def name(self) -> str: ...

    @property
    def readers(self) -> int:
        """How many are connected."""
        ...

    async def publish(self, state: State, changed: frozenset[str] | None) -> Mapping[str, str]:
        """Hand `state` over, where only `changed` differs from the last (None: all may); what could not be, and why."""
        ...


class Served:
    """One state at a time; `take` replaces it on disk, then in every output."""

    def __init__(self, file: StateFile, outputs: Sequence[Output], clock: Clock, registry: Registry) -> None:
        self._file, self._outputs, self._clock = file, tuple(outputs), clock
        self.state: State | None = None
        """None: nothing is known yet, and nothing is handed over."""
        self.trouble: dict[str, str] = {}
        """What fails now: `state`, or the name of an output."""
        self._left_out: dict[str, Mapping[str, str]] = {}
        self._confirmed_ms = self._kept_ms = 0
        self._kept: State | None = None
        """What is on disk, as far as that is known."""
        self._changed: Callable[[], None] = lambda: None
        self._turn = asyncio.Lock()
        self._taking: asyncio.Task[None] | None = None
        registry.gauge("feed_resources", "Resources that are handed to istiod").read(
            lambda: float(len(self.state.resources)) if self.state else 0.0
        )
        registry.gauge("feed_rejected", "Resources that were left out").read(lambda: float(len(self.rejected)))
        registry.gauge("feed_confirmed_age_seconds", "Since the hub last confirmed the routes; -1: never").read(
            self._age
        )
        registry.gauge("feed_troubled", "Parts that fail: the state on disk, outputs").read(
            lambda: float(len(self.trouble))
        )
        registry.gauge("feed_routes_saved", "1 while what is handed over is on disk; 0 before anything is known").read(
            lambda: float(self.saved)
        )

    @property
    def saved(self) -> bool:
        """Whether a restart would find what is handed over now."""
        return self.state is not None and "state" not in self.trouble

    @property
    def confirmed_ms(self) -> int:
        """When the hub last confirmed what is served (Unix ms); 0: never."""
        return max(self._confirmed_ms, self.state.confirmed_ms if self.state else 0)

    @property
    def rejected(self) -> dict[str, str]:
        """What was left out, and why."""
        found = dict(self.state.rejected) if self.state else {}
        for left_out in self._left_out.values():
            found.update(left_out)
        return found

    @property
    def applied(self) -> pb.Applied:
        """How far the outputs are, for the cluster."""
        rejected = sorted(self.rejected.items())[:MAX_REJECTED]
        return pb.Applied(
            digest=digest(self.state.versions) if self.state else b"",
            output="+".join(output.name for output in self._outputs),
            readers=sum(output.readers for output in self._outputs),
            rejected=[pb.Rejected(key=key[:400], why=why[:300]) for key, why in rejected],
        )

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after something else was handed over, or left out."""
        self._changed = listener

    async def load(self) -> None:
        """What was kept becomes what is served. A damaged file is said once; then only the cluster can tell."""
        try:
            state = await asyncio.to_thread(self._file.load)
        except TrustfedError as error:
            log.error("the kept routes cannot be used", error=error.message, hint=error.hint)
            self.trouble["state"] = error.message
            return
        if state is not None:
            log.info("routes loaded", resources=len(state.resources))
            self.state = self._kept = state = self._past(state)
            await self._publish(state, None)

    async def take(self, state: State) -> None:
        """Serve `state` from now on. Once begun it is finished, also when the caller is cancelled."""
        self._taking = asyncio.create_task(self._take(self._past(state)))
        await asyncio.shield(self._taking)

    def confirmed(self, confirmed_ms: int) -> None:
        """The hub stands by what is served."""
        self._confirmed_ms = max(self._confirmed_ms, min(confirmed_ms, to_ms(self._clock.now())))

    async def run(self) -> None:
        """Mend, now and then, what others did to the outputs or what failed; ends only when cancelled."""
        while True:
            await self._clock.sleep(KEEP_SECONDS)
            await self.mend()

    async def mend(self) -> None:
        """Make the disk and the outputs what they should be."""
        async with self._turn:
            state = self.state
            if state is None:
                return
            if "state" in self.trouble:
                await self._save(state)
            elif self.confirmed_ms > self._kept_ms:
                await self._keep("confirmed", self.confirmed_ms)
            await self._publish(state, None)

    def _past(self, state: State) -> State:
        """Whoever's clock is ahead: routes are not confirmed in the future, or they would look fresh until then."""
        return replace(state, confirmed_ms=min(state.confirmed_ms, to_ms(self._clock.now())))

    async def _take(self, state: State) -> None:
        async with self._turn:
            changed = state.changed(self.state) if self.state is not None else None
            if changed is None or changed or "state" in self.trouble:
                await self._save(state)
            self.state = state
            if changed is None or changed:
                await self._publish(state, changed)
            for key, why in state.rejected.items():
                log.warning("a resource was left out", resource=key[:300], error=why)
            if changed:
                log.info("routes changed", changed=len(changed), resources=len(state.resources))
            self._changed()

    async def _save(self, state: State) -> None:
        try:
            await asyncio.to_thread(self._file.save, state)
            self._kept_ms, self._kept = state.confirmed_ms, state
            self.trouble.pop("state", None)
        except TrustfedError as error:
            self._failed("state", error)  # handed over all the same: istiod should not wait for our disk
            await self._withdraw(state)

    async def _withdraw(self, state: State) -> None:
        """What is kept may lack what is new, and may not hold what has gone."""
        if self._kept is None or not state.changed(self._kept) & self._kept.resources.keys():
            return
        try:
            await asyncio.to_thread(self._file.remove)
        except TrustfedError as error:
            log.error("a restart would bring back routes that were withdrawn", error=error.message, hint=error.hint)
            return
        self._kept = None
        log.error("the kept routes were removed, for some were withdrawn and the newer ones cannot be kept")

    async def _keep(self, what: str, confirmed_ms: int) -> None:
        try:
            await asyncio.to_thread(self._file.confirm, confirmed_ms)
            self._kept_ms = confirmed_ms
        except TrustfedError as error:
            log.warning("not kept", what=what, error=error.message)

    async def _publish(self, state: State, changed: frozenset[str] | None) -> None:
        for output in self._outputs:
            try:
                only = None if output.name in self.trouble else changed
                left_out = dict(await output.publish(state, only))
                if only is not None:
                    earlier = self._left_out.get(output.name, {})
                    left_out |= {key: why for key, why in earlier.items() if key not in only}
                self._left_out[output.name] = left_out
                self.trouble.pop(output.name, None)
            except Exception as error:
                self._failed(output.name, error)

    def _failed(self, what: str, error: Exception) -> None:
        told = errors.answer(error)
        if self.trouble.get(what) != told.message:
            log.error("not handed over" if what != "state" else "routes not kept", what=what, error=told.line())
        self.trouble[what] = told.message

    def _age(self) -> float:
        return (to_ms(self._clock.now()) - self.confirmed_ms) / 1000 if self.confirmed_ms else -1.0
