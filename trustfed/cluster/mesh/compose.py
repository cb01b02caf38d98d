"""Puts the parts of this room together, and gives the cluster's own composition one thing to hold."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI

from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.parts import Parts
from trustfed.cluster.uplink import Uplink
from trustfed.federation.envelope import Envelope
from trustfed.journal.events import TypedEvent

MAX_BODY = 8 * 1024 * 1024
"""Bytes of one request at the admin socket: a whole directory of desired state."""


class MeshParts:
    """The mesh of this cluster: own items, routes of others, what is rendered, and who is given it."""

    def __init__(self, parts: Parts, uplink: Uplink, news: HubNews, own_envelope: Callable[[], Envelope]) -> None:
        self._parts, self._config = parts, parts.config.mesh
        self._uplink, self._news, self._own_envelope = uplink, news, own_envelope

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return []

    def on_event(self, event: TypedEvent) -> None:
        """One event of the cluster's journal, after it was folded."""

    def handlers(self) -> list[Any]:
        """gRPC services beside the agents', for `Server.add_generic_rpc_handlers`."""
        return []

    def admin(self, app: FastAPI, parts: AdminParts) -> FastAPI:
        """The admin application with the paths of this room."""
        return app

    def status(self) -> dict[str, object]:
        """For `trustfed mesh status`."""
        return {}

    async def close(self) -> None:
        """Close what it opened itself."""
