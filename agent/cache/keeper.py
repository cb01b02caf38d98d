"""The sealed cache as the agent sees it: what was said last is written in a thread, one save at a time, paced.

A disk that cannot be written stops nothing: the agent serves from memory, alarms, and tries again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

from agent.cache.port import Kept
from agent.cache.refusal import Refused
from agent.cache.vault import Vault
from trustfed.errors import TrustfedError
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry

log = logs.get("agent.cache")

PACE_SECONDS = 0.2
"""Between the end of a save and the next."""
SOFT_SECONDS = 30.0
"""The same for what nobody is given or denied anything by: positions, confirmations, last uses, the floor."""
RETRY_SECONDS = (1.0, 60.0)


class SealedCache:
    """Implements agent.cache.Cache over a Vault. All but `load` is called in the loop's thread."""

    def __init__(self, vault: Vault, clock: Clock, registry: Registry) -> None:
        self._vault, self._clock = vault, clock
        self._newest: Kept | None = None
        self._said = self._saved = self._tries = 0
        self._task: asyncio.Task[None] | None = None
        self._news, self._hurry = asyncio.Event(), asyncio.Event()
        self._flushes: list[_Flush] = []
        self._last = self._next = float("-inf")
        self._retry = RETRY_SECONDS[0]
        self._written_at: datetime | None = None
        self._error = self._hint = self._refused = ""
        self._unsaved = registry.gauge(
            "agent_cache_unsaved", "1 while what the agent holds could not be written to disk"
        )
        self._saves = registry.counter("agent_cache_saves_total", "Saves of the sealed cache", labels=("outcome",))
        self._refusals = registry.counter(
            "agent_cache_refused_total", "Sealed caches that were found and not used", labels=("reason",)
        )
        registry.gauge("agent_cache_bytes", "Bytes of the sealed cache on disk").read(lambda: float(vault.size))
        registry.gauge("agent_cache_generation", "Generation of the sealed cache").read(lambda: float(vault.generation))

    def load(self, now: datetime) -> Kept | None:
        """What was kept and has not expired. A refusal is logged, counted, and in `status`."""
        try:
            kept = self._vault.open()
        except Refused as refused:
            self._refused = str(refused)
            self._refusals.add(reason=refused.reason)
            log.error(
                "the sealed cache is not used, the agent waits for its cluster",
                reason=refused.reason,
                error=refused.message,
                hint=refused.hint,
            )
            return None
        if kept is None:
            log.info("no cache was kept yet")
            return None
        live = _live(kept, max(now, kept.floor))
        log.info(
            "sealed cache loaded",
            generation=self._vault.generation,
            entries=len(live.entries),
            svids=len(live.svids),
            expired=len(kept.svids) - len(live.svids),
            bundles=len(live.bundles),
        )
        return live

    def changed(self, kept: Kept) -> None:
        """Keep this soon; the newest wins."""
        self._newest = kept
        self._said += 1
        self._start()

    async def flush(self) -> None:
        """All that was said by now is durable, or one try that began after now has failed."""
        if self._saved >= self._said:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(_Flush(self._said, self._tries, done))
        self._hurry.set()
        self._start()
        await done

    def status(self) -> dict[str, object]:
        """For `agent status`."""
        return {
            "enabled": True,
            "generation": self._vault.generation,
            "written_at": self._written_at and self._written_at.isoformat(),
            "behind": self._saved < self._said,
            "records": self._vault.records,
            "bytes": self._vault.size,
            "error": self._error,
            "refused": self._refused,
        }

    def _start(self) -> None:
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Until nothing is left to be saved."""
        try:
            while self._saved < self._said and self._newest is not None:
                await self._pause(self._next, self._hurry)
                self._news.clear()
                kept, said = self._newest, self._said
                hurry = await asyncio.to_thread(self._vault.hurry, kept)
                soft = self._last + SOFT_SECONDS
                if hurry is None:
                    self._done(said)
                elif hurry or self._flushes or self._clock.monotonic() >= soft:
                    await self._save(kept, said)
                else:
                    self._next = self._clock.monotonic() + PACE_SECONDS
                    await self._pause(soft, self._news)
        finally:
            # Only when the loop ends is somebody left: nobody may wait for ever.
            self._release(self._said, self._tries + 1)

    async def _pause(self, until: float, wake: asyncio.Event) -> None:
        seconds = until - self._clock.monotonic()
        if seconds <= 0 or wake.is_set():
            return
        waits = {asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(wake.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _save(self, kept: Kept, said: int) -> None:
        self._tries += 1
        try:
            await asyncio.to_thread(self._vault.save, kept)
        except (TrustfedError, Refused) as error:
            self._failed(error.message, error.hint)
        except Exception as error:
            # Our own fault. Its words could hold what is kept, so only its kind is told.
            self._failed(f"internal error {type(error).__name__}", "report it")
        else:
            if self._error:
                log.info("the sealed cache is written again")
            self._error, self._retry = "", RETRY_SECONDS[0]
            self._unsaved.set(0)
            self._saves.add(outcome="written")
            self._written_at, self._last = self._clock.now(), self._clock.monotonic()
            self._next = self._last + PACE_SECONDS
            self._done(said)

    def _done(self, said: int) -> None:
        self._saved = said
        self._release(said, -1)

    def _failed(self, error: str, hint: str) -> None:
        # Once when it begins, and when another kind of fault follows: the words name a new file at each try.
        if not self._error or hint != self._hint:
            log.error(
                "the sealed cache is not written; what it lacks is lost if this process ends", error=error, hint=hint
            )
        self._hint = hint
        self._error = f"{error} ({hint})" if hint else error
        self._unsaved.set(1)
        self._saves.add(outcome="failed")
        self._next = self._clock.monotonic() + self._retry
        self._retry = min(self._retry * 2, RETRY_SECONDS[1])
        self._release(-1, self._tries)

    def _release(self, said: int, tries: int) -> None:
        """End the flushes whose content is saved by now, and those that began before a try that failed."""
        left = []
        for flush in self._flushes:
            if flush.said <= said or flush.tries < tries:
                if not flush.done.done():
                    flush.done.set_result(None)
            else:
                left.append(flush)
        self._flushes = left
        if not left:
            self._hurry.clear()


@dataclass(frozen=True)
class _Flush:
    """Who waits: until `said` is saved, or a try after `tries` has failed."""

    said: int
    tries: int
    done: asyncio.Future[None]


def _live(kept: Kept, now: datetime) -> Kept:
    """Without what has expired at `now`."""
    return replace(
        kept,
        entries=tuple(entry for entry in kept.entries if entry.expires_at is None or entry.expires_at > now),
        svids={id_: svid for id_, svid in kept.svids.items() if svid.not_after > now},
        reserves={id_: svid for id_, svid in kept.reserves.items() if svid.not_after > now},
        tokens=tuple(token for token in kept.tokens if token.token.expires_at > now),
    )
