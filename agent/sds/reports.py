"""What Envoys said of the secrets they were given, on its way to the cluster: bounded, in batches, over reconnections.

How an Envoy is called is its own word, so an alarm is its stream's: it stands until that very stream says that the secret was
loaded, or ends (a next one is sent the secret anew, and refuses it anew). No other process can end it, or push it out.

Nothing confirms a report, so what was sent within RESEND_SECONDS before a stream broke is sent again on the next one: the
cluster may hear of a thing twice, and counts it once.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence

from trustfed.proto import node_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

log = logs.get("agent.sds")

MAX_WAITING = 1_000
"""Reports kept for a cluster that is away; the oldest are dropped first."""
MAX_SHOWN = 50
MAX_BATCH = 100
GATHER_SECONDS = 0.3
RESEND_SECONDS = 60.0

Speaker = tuple[int, int]
"""A process (its pid), and which of its streams."""
Said = tuple[str, str, str, str]
"""Entry ("" for a validation context), resource, serial, version."""
Report = pb.SecretLoaded | pb.SecretRefused
Noted = Callable[[Sequence[tuple[str, str]], str], None]
"""Takes (entry, serial) of each SVID, and the Envoy that uses it: agent.evidence.holders."""


class Reports:
    """Notes, and gives the stream to the cluster its next message (agent.sync.Outbox)."""

    def __init__(self, clock: Clock, registry: Registry, noted: Noted = lambda said, proxy: None) -> None:
        self._clock, self._noted = clock, noted
        self._waiting: deque[Report] = deque()
        self._sent: deque[tuple[float, Report]] = deque()
        self._news = asyncio.Event()
        self._refusing: OrderedDict[tuple[Speaker, str, str], pb.SecretRefused] = OrderedDict()
        """By who said it, entry and resource."""
        self.loaded_total = self.refused_total = self.dropped_total = 0
        registry.gauge("agent_sds_refusing", "secrets that an Envoy refused and has not loaded since").read(
            lambda: len(self._refusing)
        )
        registry.gauge("agent_sds_reports_waiting", "reports for a cluster that is away").read(
            lambda: len(self._waiting)
        )
        self._loaded = registry.counter("agent_sds_loaded_total", "secrets that Envoys said they use")
        self._refused = registry.counter("agent_sds_refused_total", "secrets that Envoys refused (NACK)")
        self._dropped = registry.counter(
            "agent_sds_reports_dropped_total",
            "reports that no cluster heard, or of one process too many",
        )

    def loaded(self, speaker: Speaker, proxy: str, said: Sequence[Said]) -> None:
        """An Envoy uses these from now on."""
        self._noted([(entry_id, serial) for entry_id, _, serial, _ in said if entry_id], proxy)
        for entry_id, resource, serial, version in said:
            self.loaded_total += 1
            self._loaded.add()
            self._refusing.pop((speaker, entry_id, resource), None)
            self._put(
                pb.SecretLoaded(
                    entry_id=entry_id, resource=resource, serial=serial, version=version, proxy=proxy, at_ms=self._now()
                )
            )

    def refused(self, speaker: Speaker, proxy: str, said: Sequence[Said], error: str) -> None:
        """An Envoy refused these, and goes on with what it had. `error` are its own words, bounded and printable."""
        for entry_id, resource, serial, version in said:
            self.refused_total += 1
            self._refused.add()
            log.warning(
                "Envoy refuses what it was sent and goes on with what it had",
                resource=resource,
                proxy=proxy,
                version=version,
                error=error,
            )
            report = pb.SecretRefused(
                entry_id=entry_id,
                resource=resource,
                serial=serial,
                version=version,
                proxy=proxy,
                at_ms=self._now(),
                error=error,
            )
            at = speaker, entry_id, resource
            self._refusing[at] = report
            self._refusing.move_to_end(at)
            if len(self._refusing) > MAX_SHOWN:
                self._push_out()
            self._put(report)

    def ended(self, speaker: Speaker) -> None:
        """That stream is over, and so are its alarms."""
        for at in [at for at in self._refusing if at[0] == speaker]:
            del self._refusing[at]

    def _push_out(self) -> None:
        """The oldest of the process that has the most."""
        of = Counter(speaker[0] for speaker, _, _ in self._refusing)
        most = max(of.values())
        del self._refusing[next(at for at in self._refusing if of[at[0][0]] == most)]

    def left_out(self, count: int) -> None:
        """So many were not noted: their process said too much."""
        if count:
            self.dropped_total += count
            self._dropped.add(count)

    def begin(self) -> None:
        """A stream to the cluster is up: what the one before may have lost goes first."""
        self._let_go(RESEND_SECONDS)
        self._waiting.extendleft(report for _, report in reversed(self._sent))
        self._sent.clear()
        self._trim()
        if self._waiting:
            self._news.set()

    async def next(self) -> pb.FromAgent:
        """The next message, once there is something to say."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        await self._clock.sleep(GATHER_SECONDS)
        message, now = pb.FromAgent(), self._clock.monotonic()
        message.proxies.SetInParent()
        for _ in range(min(MAX_BATCH, len(self._waiting))):
            report = self._waiting.popleft()
            self._sent.append((now, report))
            if isinstance(report, pb.SecretRefused):
                message.proxies.refused.append(report)
            else:
                message.proxies.loaded.append(report)
        self._let_go(RESEND_SECONDS)
        while len(self._sent) > MAX_WAITING:
            self._sent.popleft()
        return message

    def status(self) -> dict[str, object]:
        """For `trustfed agent status`."""
        return {
            "loaded": self.loaded_total,
            "refused": self.refused_total,
            "waiting": len(self._waiting),
            "dropped": self.dropped_total,
            "refusing": [
                {"proxy": one.proxy, "resource": one.resource, "version": one.version, "error": one.error}
                for one in reversed(self._refusing.values())
            ],
        }

    def _put(self, report: Report) -> None:
        self._waiting.append(report)
        self._trim()
        self._news.set()

    def _trim(self) -> None:
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.dropped_total += 1
            self._dropped.add()

    def _let_go(self, seconds: float) -> None:
        now = self._clock.monotonic()
        while self._sent and self._sent[0][0] < now - seconds:
            self._sent.popleft()

    def _now(self) -> int:
        return to_ms(self._clock.now())
