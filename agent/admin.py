"""The admin socket's answers, and the health address's: JSON for `trustfed agent`, text for Prometheus.

    GET /status   {"node", "node_id", "trust_domain", "software", "socket", "pid", "started_at", "ready", "banned",
                   "server": {"id", "grpc", "https"},
                   "own_svid": {"serial", "not_after", "renew_at", "tries", "error"},
                   "sync": {"connected", "since", "heard", "position", "error", "hint", "refused": {what: why}},
                   "counts": {"entries", "svids", "bundles", "jwt_svids", "connections", "streams"}}
    GET /entries  {"entries": [{"id", "spiffe_id", "selectors", "x509_ttl", "jwt_ttl", "dns_names", "federates_with",
                   "hint", "admin", "expires_at", "created_at", "svid": {"serial", "not_after"} | null}]}
    GET /svids    {"svids": [{"entry", "spiffe_id", "serial", "authority", "issued_at", "not_after", "renew_at", "tries",
                   "error"}]}                    an entry without an SVID has null for the facts of one
    GET /bundles  {"bundles": [{"trust_domain", "home", "epoch", "sequence", "x509_authorities", "jwt_authorities",
                   "refresh_hint", "fingerprint", "received_at", "refused": why | null}]}
    GET /live     {"live": true}        GET /ready  200 or 503 {"ready", "reason"}        GET /metrics  Prometheus text

Times are RFC 3339, UTC; numbers of authorities are counts. Over TCP only /live, /ready and /metrics are answered.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from agent.grpc.server import GrpcServer
from agent.identity import Node
from agent.intake import Intake
from agent.jwt import JwtSvids
from agent.matching import Entry
from agent.own_svid import OwnSvid
from agent.renewal import Renewal
from agent.store import Store
from agent.streams import Streams
from agent.sync import Sync
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import CONTENT_TYPE, Registry
from trustfed.runtime.timestamps import from_ms
from trustfed.runtime.unix_http import Handler, Request, Response
from trustfed.runtime.version import SOFTWARE


@dataclass(frozen=True)
class Admin:
    """Reads the parts; changes nothing."""

    node: Node
    store: Store
    sync: Sync
    intake: Intake
    own: OwnSvid
    renewal: Renewal
    jwt: JwtSvids
    streams: Streams
    server: GrpcServer
    registry: Registry
    clock: Clock
    socket: str
    started_at: datetime

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Everything, for the admin socket."""
        return {
            ("GET", "/status"): _json(self.status),
            ("GET", "/entries"): _json(self.entries),
            ("GET", "/svids"): _json(self.svids),
            ("GET", "/bundles"): _json(self.bundles),
            **self.health_routes(),
        }

    def health_routes(self) -> dict[tuple[str, str], Handler]:
        """What anybody may see, for the health address."""
        return {
            ("GET", "/live"): _json(lambda: {"live": True}),
            ("GET", "/ready"): self._ready,
            ("GET", "/metrics"): self._metrics,
        }

    def unready(self) -> str:
        """Why this agent cannot serve every entry now; "" if it can."""
        if self.store.banned:
            return "this node is banned"
        if not self.store.synced:
            return "not synchronised with the cluster yet"
        missing = len(self.store.entries) - len(self.store.svids)
        return f"{missing} entries have no SVID" if missing else ""

    def node_svid_end(self) -> float:
        """When the node's own SVID ends, in Unix seconds."""
        return self.node.identity.svid.not_after.timestamp()

    def status(self) -> dict[str, object]:
        identity, sync, store = self.node.identity, self.sync.status, self.store
        slot = self.own.slot
        return {
            "node": identity.svid.id.path.rpartition("/")[2],
            "node_id": str(identity.svid.id),
            "trust_domain": str(store.trust_domain),
            "software": SOFTWARE,
            "socket": self.socket,
            "pid": os.getpid(),
            "started_at": _time(self.started_at),
            "ready": not self.unready(),
            "banned": store.banned or None,
            "server": {
                "id": str(identity.server_id),
                "grpc": identity.grpc,
                "https": f"{identity.door[0]}:{identity.door[1]}",
            },
            "own_svid": {
                "serial": f"{identity.svid.serial:032x}",
                "not_after": _time(identity.svid.not_after),
                "renew_at": _time(slot.due),
                "tries": slot.tries,
                "error": slot.error or None,
            },
            "sync": {
                "connected": sync.connected_since is not None,
                "since": _time(sync.connected_since),
                "heard": _time(sync.heard),
                "position": sync.position,
                "error": sync.error or None,
                "hint": sync.hint or None,
                "refused": dict(self.intake.refused),
            },
            "counts": {
                "entries": len(store.entries),
                "svids": len(store.svids),
                "bundles": len(store.bundles),
                "jwt_svids": len(self.jwt),
                "connections": self.server.connections,
                "streams": len(self.streams),
            },
        }

    def entries(self) -> dict[str, object]:
        return {"entries": [self._entry(entry) for entry in self._in_order()]}

    def svids(self) -> dict[str, object]:
        return {"svids": [self._svid(entry) for entry in self._in_order()]}

    def bundles(self) -> dict[str, object]:
        refused, home = self.intake.refused, self.store.trust_domain
        return {
            "bundles": [
                {
                    "trust_domain": str(domain),
                    "home": domain == home,
                    "epoch": held.envelope.level.epoch,
                    "sequence": held.envelope.level.sequence,
                    "x509_authorities": len(held.bundle.x509_authorities),
                    "jwt_authorities": len(held.bundle.jwt_authorities),
                    "refresh_hint": held.bundle.refresh_hint,
                    "fingerprint": held.key.fingerprint,
                    "received_at": _time(held.received_at),
                    "refused": refused.get(f"bundle of {domain}"),
                }
                for domain, held in sorted(self.store.bundles.items(), key=lambda item: (item[0] != home, item[0]))
            ]
        }

    def _in_order(self) -> list[Entry]:
        return sorted(self.store.entries.values(), key=lambda entry: (entry.created_at_ms, entry.id))

    def _entry(self, entry: Entry) -> dict[str, object]:
        svid = self.store.svids.get(entry.id)
        return {
            "id": entry.id,
            "spiffe_id": str(entry.spiffe_id),
            "selectors": sorted(entry.selectors),
            "x509_ttl": entry.x509_ttl,
            "jwt_ttl": entry.jwt_ttl,
            "dns_names": list(entry.dns_names),
            "federates_with": ["*"] if entry.federates_with_all else [str(domain) for domain in entry.federates_with],
            "hint": entry.hint,
            "admin": entry.admin,
            "expires_at": _time(entry.expires_at),
            "created_at": _time(from_ms(entry.created_at_ms)) if entry.created_at_ms > 0 else None,
            "svid": {"serial": svid.serial, "not_after": _time(svid.not_after)} if svid else None,
        }

    def _svid(self, entry: Entry) -> dict[str, object]:
        svid, slot = self.store.svids.get(entry.id), self.renewal.slots.get(entry.id)
        return {
            "entry": entry.id,
            "spiffe_id": str(entry.spiffe_id),
            "serial": svid.serial if svid else None,
            "authority": svid.authority if svid else None,
            "issued_at": _time(svid.issued_at) if svid else None,
            "not_after": _time(svid.not_after) if svid else None,
            "renew_at": _time(slot.due) if slot else None,
            "tries": slot.tries if slot else 0,
            "error": (slot.error or None) if slot else None,
        }

    async def _ready(self, _: Request) -> Response:
        reason = self.unready()
        return Response.of({"ready": not reason, "reason": reason or None}, 503 if reason else 200)

    async def _metrics(self, _: Request) -> Response:
        return Response(200, self.registry.exposition(), CONTENT_TYPE)


def measure(admin: Admin) -> None:
    """Gauges that are read when somebody asks."""
    registry, store = admin.registry, admin.store
    registry.gauge("agent_entries", "registration entries held").read(lambda: len(store.entries))
    registry.gauge("agent_x509_svids", "X509-SVIDs served").read(lambda: len(store.svids))
    registry.gauge("agent_jwt_svids", "JWT-SVIDs cached").read(lambda: len(admin.jwt))
    registry.gauge("agent_bundles", "bundles held").read(lambda: len(store.bundles))
    registry.gauge("agent_connections", "open Workload API connections").read(lambda: admin.server.connections)
    registry.gauge("agent_streams", "open Workload API streams").read(admin.streams.__len__)
    registry.gauge("agent_ready", "1 while every entry can be served").read(lambda: float(not admin.unready()))
    registry.gauge("agent_svid_not_after_seconds", "end of the node's own SVID, Unix seconds").read(admin.node_svid_end)


def _json(answer: Callable[[], dict[str, object]]) -> Callable[[Request], Awaitable[Response]]:
    async def handler(_: Request) -> Response:
        return Response.of(answer())

    return handler


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
