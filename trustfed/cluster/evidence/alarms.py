"""What somebody has to look at now: said in the log once, counted, and shown in the standing until it is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from trustfed.evidence.standing import Alarm
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

log = logs.get("cluster.evidence")

MAX_ALARMS = 200
PASSING = timedelta(hours=24)
"""How long an alarm about something that happened is shown after it happened last."""


@dataclass
class _Standing:
    alarm: Alarm
    last_ms: int
    passing: bool


class Alarms:
    """By code and subject; bounded: the oldest that only happened give way."""

    def __init__(self, clock: Clock, registry: Registry) -> None:
        self._clock = clock
        self._held: dict[tuple[str, str], _Standing] = {}
        self._raised = registry.counter("cluster_evidence_alarms_total", "alarms raised", labels=("code",))
        registry.gauge("cluster_evidence_alarms", "alarms that stand").read(lambda: float(len(self.standing())))
        self.version = 0

    def happened(self, code: str, subject: str, says: str, hint: str = "", severity: str = "page") -> None:
        """Something happened; it is shown for a day."""
        self._add(code, subject, says, hint, severity, passing=True)

    def begins(self, code: str, subject: str, says: str, hint: str = "", severity: str = "page") -> None:
        """Something is so, until `over`."""
        self._add(code, subject, says, hint, severity, passing=False)

    def over(self, code: str, subject: str) -> None:
        """It is so no more."""
        if self._held.pop((code, subject), None) is not None:
            self.version += 1
            log.info("alarm is over", code=code, subject=subject)

    def standing(self) -> tuple[Alarm, ...]:
        """Those that stand now, pages first, then the oldest."""
        now = to_ms(self._clock.now())
        ended = [
            at for at, one in self._held.items() if one.passing and now - one.last_ms > PASSING.total_seconds() * 1e3
        ]
        for at in ended:
            del self._held[at]
        found = [one.alarm for one in self._held.values()]
        return tuple(sorted(found, key=lambda alarm: (alarm.severity != "page", alarm.since_ms, alarm.code)))

    def _add(self, code: str, subject: str, says: str, hint: str, severity: str, *, passing: bool) -> None:
        now, at = to_ms(self._clock.now()), (code, subject[:256])
        held = self._held.get(at)
        if held is not None:
            held.last_ms = now
            return
        if len(self._held) >= MAX_ALARMS:
            first = next((key for key, one in self._held.items() if one.passing), next(iter(self._held)))
            del self._held[first]
        self._held[at] = _Standing(Alarm(code, severity, at[1], says[:500], now, hint[:200]), now, passing)
        self._raised.add(code=code)
        self.version += 1
        log.error("alarm", code=code, subject=at[1], says=says[:500], hint=hint)
