"""Keeps this cluster's exports at what annotated Services ask for; one that cannot be is refused, and what it was stays."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import uuid4

from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.kubernetes import exports
from trustfed.cluster.mesh.kubernetes.collections import Collections
from trustfed.cluster.mesh.kubernetes.exports import Offer
from trustfed.cluster.mesh.kubernetes.local import Local
from trustfed.cluster.mesh.kubernetes.objects import Service
from trustfed.cluster.mesh.state import Own, key
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, TrustfedError, Unavailable
from trustfed.federation.mesh import write_item
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces

log = logs.get("cluster.mesh.kubernetes")

AT_ONCE, APART = 10, 30.0
"""So many changes of one export, then one in so many seconds."""
NAMESPACE_AT_ONCE, NAMESPACE_APART = 500, 5.0
"""The same for all of a namespace: whoever may write its Services must not fill the journal."""
MAX_OF_NAMESPACE = 1_000
"""Exports: one namespace shall not take the room of all."""
_TURN = 50
"""Services between two turns of the loop."""


class Exporting:
    """The exports that Kubernetes is the source of."""

    def __init__(self, fold: Fold[ClusterState], shown: Collections, clock: Clock) -> None:
        self._fold, self._shown, self._clock = fold, shown, clock
        self._paces, self._namespaces = Paces(AT_ONCE, APART), Paces(NAMESPACE_AT_ONCE, NAMESPACE_APART)
        self.refused: dict[str, str] = {}
        """By Service: why it is not exported as annotated."""

    async def record(self, found: Mapping[str, Local | None], dirty: set[str] | None) -> list[str]:
        """Record what is new in the namespaces that are `dirty` (None: all), with what was `found` of each host.

        Returns the hosts that change too often, and have to wait. Raises as the journal.
        """
        annotated, later, keep = self._shown.annotated(), list[str](), set[str]()
        places = {service.place for service in annotated.values()}
        self.refused = {place: why for place, why in self.refused.items() if place in places}
        for number, (host, service) in enumerate(annotated.items()):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            if dirty is not None and service.namespace not in dirty:
                keep.add(host)
                continue
            before = self.refused.pop(service.place, "")
            try:
                if not exports.wanted(service):
                    continue
                keep.add(host)
                local = found.get(host)
                if local is None and "answers" not in service.said and service.selector and not service.external:
                    continue  # its pods have not been read
                subsets = [name for rule in self._shown.rules.exact(host) for name in rule.subsets]
                offer = exports.offer_of(service, host, local.answers if local else (), subsets)
                if not await self._put(host, offer):
                    later.append(host)
            except Unavailable:  # the journal
                raise
            except TrustfedError as error:
                keep.add(host)
                self._refuse(service, error, before)
        for item in list(self._fold.state.mesh.of_kind("export")):
            looked_at = dirty is None or item.name.split(".")[1] in dirty
            if item.source == own.KUBERNETES and item.name not in keep and looked_at:
                await self._drop(item.name)
        return later

    async def _put(self, host: str, offer: Offer) -> bool:
        """False when it has to wait."""
        now, moment = self._clock.now(), self._clock.monotonic()

        def decide(state: ClusterState) -> list[TypedEvent]:
            return own.put(state, offer.export, own.KUBERNETES, now)

        held = self._fold.state.mesh.own.get(key("export", host))
        said = (write_item(offer.export), own.KUBERNETES)
        if held is not None and (held.item, held.source) == said:
            return True
        decide(self._fold.state)  # refused before anything is counted
        if held is None:
            self._check_room(offer.export.namespace)
        if self._paces.wait(host, moment) or not self._namespaces.take(offer.export.namespace, moment):
            return False
        self._paces.take(host, moment)
        await self._fold.execute(
            decide, command_id=uuid4().hex, actor="kubernetes", owner=offer.export.owner, reason=offer.reason, now=now
        )
        log.info("exported by annotation", host=host)
        return True

    def _check_room(self, namespace: str) -> None:
        if sum(_of(namespace, held) for held in self._fold.state.mesh.of_kind("export")) >= MAX_OF_NAMESPACE:
            raise Conflict(f"namespace {namespace} exports {MAX_OF_NAMESPACE} services already", hint="remove others")

    async def _drop(self, host: str) -> None:
        now = self._clock.now()

        def decide(state: ClusterState) -> list[TypedEvent]:
            held = state.mesh.own.get(key("export", host))
            ours = held is not None and held.source == own.KUBERNETES
            return own.drop(state, "export", host, own.KUBERNETES, now) if ours else []

        await self._fold.execute(
            decide, command_id=uuid4().hex, actor="kubernetes", reason="its Service is not annotated, or gone", now=now
        )
        log.info("exported no more", host=host)

    def _refuse(self, service: Service, error: TrustfedError, before: str) -> None:
        said = f"{error.message} ({error.hint})" if error.hint else error.message
        if said != before:
            log.warning("a Service cannot be exported as annotated", service=service.place, error=error.message)
        self.refused[service.place] = said


def _of(namespace: str, held: Own) -> bool:
    return held.source == own.KUBERNETES and held.name.split(".")[1] == namespace
