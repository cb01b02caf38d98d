"""Keeps the journal's local knowledge at what Kubernetes shows of hosts: careful at once, bold after a while, at a pace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from uuid import uuid4

from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.kubernetes.collections import Collections
from trustfed.cluster.mesh.kubernetes.local import SETTLE_SECONDS, Local, Unknown, careful, look, too_large
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces

AT_ONCE, APART = 10, 30.0
"""So many decisions on one host, then one in so many seconds: however its objects flap."""
_TOGETHER = 50
"""Hosts of one decision, and between two turns of the loop."""


class Hosts:
    """What is known of hosts inside this cluster."""

    def __init__(self, fold: Fold[ClusterState], shown: Collections, clock: Clock) -> None:
        self._fold, self._shown, self._clock = fold, shown, clock
        self._paces = Paces(AT_ONCE, APART)
        self._settling: dict[str, tuple[Local, float]] = {}
        self._said: dict[str, Local] = {}
        self.unknown: dict[str, str] = {}
        """By host: why nothing is known, or recorded, of it."""

    @property
    def settling(self) -> int:
        """How many hosts look different, but not for long enough."""
        return len(self._settling)

    def settled(self) -> list[str]:
        """The hosts that have looked as they do for long enough."""
        now = self._clock.monotonic()
        return [host for host, (_, since) in self._settling.items() if now - since >= SETTLE_SECONDS]

    def wait(self) -> float | None:
        """Seconds until `settled` names one more."""
        ahead = [since + SETTLE_SECONDS - self._clock.monotonic() for _, since in self._settling.values()]
        return max(min(ahead), 0.0) if ahead else None

    def only(self, hosts: Iterable[str], beyond: dict[str, str]) -> None:
        """Forget what was noted of other hosts; of those `beyond` nothing is known, and why."""
        among = set(hosts)
        self._settling = {host: held for host, held in self._settling.items() if host in among}
        self._said = {host: said for host, said in self._said.items() if host in among}
        self.unknown = {host: why for host, why in self.unknown.items() if host in among} | beyond

    async def look(self, hosts: Iterable[str]) -> dict[str, Local | None]:
        """What may be said of each host now; None where nothing may, with the reason kept."""
        found: dict[str, Local | None] = {}
        for number, host in enumerate(hosts):
            if number % _TOGETHER == _TOGETHER - 1:
                await asyncio.sleep(0)
            found[host] = self._look(host)
        return found

    def certain(self, host: str) -> bool:
        """Whether nothing is known of a host because of what it is, and not because something was not read."""
        service = self._shown.service(host)
        return service is not None and (service.external or not service.selector)

    async def record(self, found: dict[str, Local | None]) -> list[str]:
        """Record what is new; returns the hosts that change too often, and have to wait. Raises as the journal."""
        moment, later, now = self._clock.monotonic(), list[str](), list[str]()
        for host, local in found.items():
            if local is not None and self._changes(host, local) and not self._paces.take(host, moment):
                later.append(host)
            else:
                now.append(host)
        for start in range(0, len(now), _TOGETHER):
            await self._record({host: found[host] for host in now[start : start + _TOGETHER]})
        return later

    async def forget(self, relevant: frozenset[str]) -> None:
        """Forget hosts that are neither exported nor imported any more. Raises as the journal."""
        now = self._clock.now()

        def decide(state: ClusterState) -> list[TypedEvent]:
            draft = own.Draft(state, own.KUBERNETES, now)
            for host, seen in state.mesh.local.items():
                if seen.source == own.KUBERNETES and host not in relevant:
                    draft.forget(host)
            return draft.done()

        if decide(self._fold.state):
            await self._execute(decide, "neither exported nor imported any more")

    def _look(self, host: str) -> Local | None:
        self.unknown.pop(host, None)
        state, service = self._fold.state, self._shown.service(host)
        pods = self._shown.pods(service.namespace) if service is not None else []
        if isinstance(pods, str):
            self.unknown[host] = pods
            return None
        seen = state.mesh.local.get(host)
        ours = seen is not None and seen.source == own.KUBERNETES
        policies = self._shown.policies
        if service is not None and isinstance(policies, str):
            self.unknown[host] = policies
        if why := too_large(host, self._shown.rules):
            self.unknown[host] = why
        rules = tuple(json.loads(seen.rules)) if why and seen is not None else ()
        held = (
            Local(seen.sidecars, seen.answers, rules, seen.ports) if seen is not None and ours else self._said.get(host)
        )
        found = look(host, service, pods, self._shown.rules, policies, state.trust_domain, held)
        if isinstance(found, Unknown):
            self._settling.pop(host, None)
            self.unknown[host] = found.why
            return None
        self._said[host] = self._settled(host, careful(held, found), found)
        return self._said[host]

    def _settled(self, host: str, said: Local, found: Local) -> Local:
        """`found` when it is no bolder than what may be `said`, or has stayed so for long enough."""
        before, now = self._settling.get(host), self._clock.monotonic()
        if said == found or (before is not None and before[0] == found and now - before[1] >= SETTLE_SECONDS):
            self._settling.pop(host, None)
            return found
        if before is None or before[0] != found:
            self._settling[host] = (found, now)
        return said

    def _changes(self, host: str, local: Local) -> bool:
        seen = self._fold.state.mesh.local.get(host)
        if seen is None or (seen.sidecars, seen.answers, seen.ports) != (
            local.sidecars,
            local.answers,
            local.ports,
        ):
            return True
        try:
            return own.rules_of(local.rules, host) != seen.rules
        except TrustfedError:  # refused where it is recorded, and said there
            return False

    async def _record(self, found: dict[str, Local | None]) -> None:
        now, faults = self._clock.now(), dict[str, str]()

        def decide(state: ClusterState) -> list[TypedEvent]:
            draft = own.Draft(state, own.KUBERNETES, now)
            faults.clear()
            for host, local in found.items():
                seen = state.mesh.local.get(host)
                try:
                    if local is not None:
                        draft.local(host, local.sidecars, local.answers, local.rules, local.ports)
                    elif seen is not None and seen.source == own.KUBERNETES and self.certain(host):
                        draft.forget(host)  # it is known that it cannot be known any more
                except TrustfedError as error:
                    faults[host] = error.message
            return draft.done()

        if decide(self._fold.state):
            await self._execute(decide, "seen in Kubernetes")
        else:
            await asyncio.sleep(0)
        self.unknown |= faults

    async def _execute(self, decide: Callable[[ClusterState], list[TypedEvent]], reason: str) -> None:
        await self._fold.execute(
            decide, command_id=uuid4().hex, actor="kubernetes", reason=reason, now=self._clock.now()
        )
