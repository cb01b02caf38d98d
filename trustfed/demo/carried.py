"""What became of the calls that go through the Envoys while the story does something else."""

from __future__ import annotations

import time

from trustfed.demo.envoy.app import Count, Load
from trustfed.demo.screen import Step


class Carried:
    """Counts nothing until there is a load."""

    def __init__(self) -> None:
        self.load: Load | None = None

    def count(self) -> dict[str, Count]:
        """So far, by kind of call; nothing where there are no Envoys."""
        return self.load.count() if self.load is not None else {}

    def tally(self, step: Step, before: dict[str, Count], *, may_fail: bool = False) -> None:
        """Say what became of those since `before`; unless they may fail, none must have."""
        made = {kind: count.since(before[kind]) for kind, count in self.count().items() if kind in before}
        if not made:
            return
        told = ", ".join(f"{one.calls} over {kind} {one.failed} failed" for kind, one in made.items())
        step.say(f"calls through the Envoys: {told}")
        worst = next((str(dict(one.failures)) for one in made.values() if one.failed), "")
        step.require(may_fail or not worst, f"calls through the Envoys failed: {worst}")

    def refused(self, step: Step, began: float) -> None:
        """Wait until the Envoys refuse calls of each kind, and say how long after `began` (time.time()) that was."""
        if self.load is None:
            return
        before = self.count()

        def refused() -> bool | None:
            return True if all(one.since(before[kind]).failed for kind, one in self.count().items()) else None

        step.wait("a refusal by the Envoys", refused)
        step.say(f"the Envoys refuse the next calls, within {(time.time() - began) * 1000:.0f} ms")
