"""The publisher in figures, for alerts: how far each target is behind, how often it failed, and when it last worked."""

from __future__ import annotations

from trustfed.hub.publication import Publication
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry


def measure_publication(registry: Registry, publication: Publication, clock: Clock) -> None:
    """Register the metrics; they are computed when they are asked for."""
    waiting = registry.gauge("hub_publication_waiting", "Documents of which a newer version waits, over all targets.")
    lag = registry.gauge(
        "hub_publication_lag_seconds",
        "Seconds since the oldest waiting change was wanted; 0: none.",
        labels=("target",),
    )
    errors = registry.counter("hub_publication_errors_total", "Attempts to publish that failed.", labels=("target",))
    success = registry.gauge(
        "hub_publication_last_success_seconds", "When something last got there, Unix seconds.", labels=("target",)
    )
    counted: dict[str, int] = {}

    def read() -> float:
        # The first of them to be asked sets the others, which come after it.
        now, held = clock.now(), publication.targets()
        for one in held:
            lag.set((now - one.wanted).total_seconds() if one.wanted else 0, target=one.target)
            errors.add(one.errors - counted.get(one.target, 0), target=one.target)
            counted[one.target] = one.errors
            if one.last_success:
                success.set(one.last_success.timestamp(), target=one.target)
        return sum(one.waiting for one in held)

    waiting.read(read)
