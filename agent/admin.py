"""The admin socket's answers, and the health address's: JSON for `trustfed agent`, text for Prometheus.

    GET /status   {"node", "node_id", "trust_domain", "software", "socket", "pid", "started_at", "ready", "reason", "banned",
                   "server": {"id", "grpc", "https", "grpc_addresses", "https_addresses"},
                   "own_svid": {"serial", "not_after", "renew_at", "tries", "error", "verdict"},
                   "sync": {"connected", "since", "offline_since", "heard", "address", "position", "error", "hint",
                            "refused": {what: why}},
                   "counts": {"entries", "svids", "bundles", "jwt_svids", "connections", "streams"},
                   "bundles": {"fresh", "stale", "closed", "oldest_seconds"},    the foreign ones
                   "reserves": {"seconds", "held", "in_use"},
                   "sds": {"streams", "loaded", "refused", "waiting", "dropped",
                           "refusing": [{"proxy", "resource", "version", "error"}]},    what Envoys refused and lack still
                   "time": {"now", "source", "ahead_seconds", "authenticated_at", "claimed"},
                   "cache": {"enabled", "generation", "written_at", "behind", "records", "bytes", "error", "refused", "loaded"},
                   "evidence": {"waiting", "sent", "lost", "epoch", "oldest", "problem",    facts for the cluster's ledger
                                "probes": [{"address", "spiffe_id", "outcome", "serial", "at", "error"}]}}
    GET /entries  {"entries": [{"id", "spiffe_id", "selectors", "x509_ttl", "jwt_ttl", "dns_names", "federates_with",
                   "hint", "admin", "expires_at", "created_at", "used_at", "svid": {"serial", "not_after"} | null}]}
    GET /svids    {"svids": [{"entry", "spiffe_id", "serial", "authority", "issued_at", "not_after", "renew_at", "tries",
                   "error", "reserve": {"serial", "not_after", "in_use"} | null}]}
                   an entry without an SVID has null for the facts of one
    GET /bundles  {"bundles": [{"trust_domain", "home", "epoch", "sequence", "x509_authorities", "jwt_authorities",
                   "refresh_hint", "fingerprint", "received_at", "state", "confirmed_at", "closes_at", "refused": why | null}]}
                   state is fresh, stale or closed; null, as both times, for home
    POST /time/reset {"to": "wall" | "cluster"} → {"now"}     "cluster" takes the time that a server claims
    GET /live     {"live": true}        GET /ready  200 or 503 {"ready", "reason"}        GET /metrics  Prometheus text

Times are RFC 3339, UTC; numbers of authorities are counts. Over TCP only /live, /ready and /metrics are answered.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime

from agent import addresses, rotation
from agent.closing import Closing
from agent.evidence.evidence import Evidence
from agent.identity import Node
from agent.intake import Intake
from agent.jwt import JwtSvids
from agent.keeping import Keeping
from agent.matching import Entry
from agent.own_svid import OwnSvid
from agent.renewal import Renewal
from agent.reserves import Reserves
from agent.sds.door import SdsDoor
from agent.store import HeldBundle, Store
from agent.streams import Streams
from agent.sync import Sync
from agent.trusted_time import TrustedTime
from trustfed.errors import Invalid
from trustfed.h2grpc.server import GrpcServer
from trustfed.reading.fallback import StoreFallback
from trustfed.runtime.metrics import CONTENT_TYPE, Registry
from trustfed.runtime.timestamps import from_ms
from trustfed.runtime.unix_http import Handler, Request, Response
from trustfed.runtime.version import SOFTWARE
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import TrustDomain


@dataclass(frozen=True)
class Admin:
    """Reads the parts; what it changes is the time, when an operator says so."""

    node: Node
    store: Store
    sync: Sync
    intake: Intake
    own: OwnSvid
    renewal: Renewal
    reserves: Reserves
    closing: Closing
    keeping: Keeping
    jwt: JwtSvids
    streams: Streams
    server: GrpcServer
    registry: Registry
    clock: TrustedTime
    socket: str
    started_at: datetime
    sds: SdsDoor
    evidence: Evidence
    fallback: StoreFallback | None = None

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Everything, for the admin socket."""
        return {
            ("GET", "/status"): _json(self.status),
            ("GET", "/entries"): _json(self.entries),
            ("GET", "/svids"): _json(self.svids),
            ("GET", "/bundles"): _json(self.bundles),
            ("POST", "/time/reset"): self._reset_time,
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
        if self.own.verdict and self.node.identity.svid.not_after <= self.clock.now():
            return f"the node's own SVID has ended and is not renewed: {self.own.verdict}"
        missing = sum(self.store.served(id_) is None for id_ in self.renewal.slots)
        return f"{missing} entries have no SVID" if missing else ""

    def node_svid_end(self) -> float:
        """When the node's own SVID ends, in Unix seconds."""
        return self.node.identity.svid.not_after.timestamp()

    def status(self) -> dict[str, object]:
        identity, sync, store = self.node.identity, self.sync.status, self.store
        slot, unready = self.own.slot, self.unready()
        return {
            "node": identity.svid.id.path.rpartition("/")[2],
            "node_id": str(identity.svid.id),
            "trust_domain": str(store.trust_domain),
            "software": SOFTWARE,
            "socket": self.socket,
            "pid": os.getpid(),
            "started_at": _time(self.started_at),
            "ready": not unready,
            "reason": unready or None,
            "banned": store.banned or None,
            "server": {
                "id": str(identity.server_id),
                "grpc": identity.grpc,
                "https": addresses.of(*identity.door),
                "grpc_addresses": list(identity.grpc_addresses),
                "https_addresses": list(identity.https_addresses),
            },
            "own_svid": {
                "serial": serial_text(identity.svid.serial),
                "not_after": _time(identity.svid.not_after),
                "renew_at": _time(slot.due),
                "tries": slot.tries,
                "error": slot.error or None,
                "verdict": self.own.verdict or None,
            },
            "sync": {
                "connected": sync.connected_since is not None,
                "since": _time(sync.connected_since),
                "offline_since": _time(sync.offline_since),
                "heard": _time(sync.heard),
                "address": sync.address or None,
                "position": sync.position,
                "error": sync.error or None,
                "hint": sync.hint or None,
                "refused": dict(self.intake.refused),
            },
            "store": self.fallback.status() if self.fallback is not None else None,
            "counts": {
                "entries": len(store.entries),
                "svids": len(store.svids),
                "bundles": len(store.bundles),
                "jwt_svids": len(self.jwt),
                "connections": self.server.connections,
                "streams": len(self.streams),
            },
            "bundles": asdict(self.closing.standing()),
            "reserves": {
                "seconds": self.reserves.seconds,
                "held": len(store.reserves),
                "in_use": len(store.standing_in),
            },
            "sds": self.sds.status(),
            "time": self.clock.status(),
            "cache": self.keeping.status(),
            "evidence": self.evidence.status(),
        }

    def entries(self) -> dict[str, object]:
        return {"entries": [self._entry(entry) for entry in self._in_order()]}

    def svids(self) -> dict[str, object]:
        return {"svids": [self._svid(entry) for entry in self._in_order()]}

    def bundles(self) -> dict[str, object]:
        home = self.store.trust_domain
        held = sorted(self.store.bundles.items(), key=lambda item: (item[0] != home, item[0]))
        return {"bundles": [self._bundle(domain, bundle) for domain, bundle in held]}

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
            "created_at": _created(entry.created_at_ms),
            "used_at": _time(self.store.used.get(entry.id)),
            "svid": {"serial": svid.serial, "not_after": _time(svid.not_after)} if svid else None,
        }

    def _bundle(self, domain: TrustDomain, held: HeldBundle) -> dict[str, object]:
        found = self.store.fresh.of(domain, self.clock.now())
        return {
            "trust_domain": str(domain),
            "home": domain == self.store.trust_domain,
            "epoch": held.envelope.level.epoch,
            "sequence": held.envelope.level.sequence,
            "x509_authorities": len(held.bundle.x509_authorities),
            "jwt_authorities": len(held.bundle.jwt_authorities),
            "refresh_hint": held.bundle.refresh_hint,
            "fingerprint": held.key.fingerprint,
            "received_at": _time(held.received_at),
            "state": str(found.state) if found else None,
            "confirmed_at": _time(self.store.fresh.confirmed.get(domain)),
            "closes_at": _time(found.closes_at) if found else None,
            "refused": self.intake.refused.get(f"bundle of {domain}"),
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
            "renew_at": _time(slot.due) if slot and slot.due != rotation.NEVER else None,
            "tries": slot.tries if slot else 0,
            "error": (slot.error or None) if slot else None,
            "reserve": self._reserve(entry),
        }

    def _reserve(self, entry: Entry) -> dict[str, object] | None:
        held = self.store.reserves.get(entry.id)
        if held is None:
            return None
        in_use = entry.id in self.store.standing_in
        return {"serial": held.serial, "not_after": _time(held.not_after), "in_use": in_use}

    async def _reset_time(self, request: Request) -> Response:
        to = request.json().get("to", "wall")
        if to not in ("wall", "cluster"):
            raise Invalid("time can be reset to wall or to cluster", hint='{"to": "wall"}')
        now = self.clock.reset(to_claim=to == "cluster")
        await self.keeping.close()
        return Response.of({"now": _time(now)})

    async def _ready(self, _: Request) -> Response:
        reason = self.unready()
        return Response.of({"ready": not reason, "reason": reason or None}, 503 if reason else 200)

    async def _metrics(self, _: Request) -> Response:
        return Response(200, self.registry.exposition(), CONTENT_TYPE)


def _json(answer: Callable[[], dict[str, object]]) -> Callable[[Request], Awaitable[Response]]:
    async def handler(_: Request) -> Response:
        return Response.of(answer())

    return handler


def _created(milliseconds: int) -> str | None:
    """Null for none, and for what is no time: a cache may hold entries of before these were refused."""
    try:
        return _time(from_ms(milliseconds)) if milliseconds > 0 else None
    except Invalid:
        return None


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
