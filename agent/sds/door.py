"""The three methods of SDS among the routes of the workload socket; what answers them is loaded when the first one calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING

from agent.evidence.holders import Holders
from agent.identification import Identification
from agent.sds.config import SdsConfig
from agent.sds.reports import Reports
from agent.store import Store
from agent.trusted_time import TrustedTime
from trustfed.h2grpc.service import Bidi, Call, Routes, Unary
from trustfed.runtime.metrics import Registry

if TYPE_CHECKING:
    from agent.sds.conversations import Conversations

SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService/"


class SdsDoor:
    """`routes()` for trustfed.h2grpc. Envoy sends no workload.spiffe.io header, and none is asked for."""

    def __init__(
        self,
        store: Store,
        identification: Identification,
        config: SdsConfig,
        clock: TrustedTime,
        reports: Reports,
        registry: Registry,
        holders: Holders | None = None,
    ) -> None:
        self._parts = (store, identification, config, clock, reports)
        self._holders = holders
        self._pushed = registry.counter("agent_sds_responses_total", "responses sent to Envoys")
        registry.gauge("agent_sds_streams", "open SDS streams").read(lambda: self.streams)
        self._reports = reports
        self._made: Conversations | None = None

    @property
    def streams(self) -> int:
        """How many SDS streams are open."""
        return len(self._made) if self._made is not None else 0

    def routes(self) -> Routes:
        """The route table."""
        return {
            SERVICE + "StreamSecrets": Bidi(self._stream),
            SERVICE + "DeltaSecrets": Bidi(self._delta),
            SERVICE + "FetchSecrets": Unary(self._fetch),
        }

    def status(self) -> dict[str, object]:
        """For `trustfed agent status`."""
        return {"streams": self.streams, **self._reports.status()}

    def _stream(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return self._load().state_of_the_world(call, requests)

    def _delta(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return self._load().incremental(call, requests)

    def _fetch(self, call: Call, request: bytes) -> Awaitable[bytes]:
        return self._load().fetch(call, request)

    def _load(self) -> Conversations:
        if self._made is None:
            from agent.sds.conversations import Conversations  # noqa: PLC0415 - a node without an Envoy never needs it

            self._made = Conversations(*self._parts, self._pushed.add, self._holders)
        return self._made
