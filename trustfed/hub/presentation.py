"""The hub's records as JSON for people and programs: times in RFC 3339, hashes instead of keys, never a secret."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from bundle_publisher.publish import Status, TargetStatus
from trustfed.federation.envelope import PublicationKey
from trustfed.hub.records import ApiToken, Domain, Grant, Intermediate, Root
from trustfed.hub.relay import Relay, View
from trustfed.hub.state import HubState
from trustfed.journal.events import Recorded
from trustfed.runtime.timestamps import from_ms

Json = dict[str, Any]


def time(moment: datetime | int | None) -> str | None:
    """A moment (or Unix ms; 0 is none) as "2026-03-01T12:00:00Z"."""
    if not moment:
        return None
    found = from_ms(moment) if isinstance(moment, int) else moment
    return found.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def domain(record: Domain, relay: Relay, published: datetime | None) -> Json:
    """One trust domain."""
    key = PublicationKey(record.publication_key).fingerprint if record.publication_key else None
    return {
        "name": record.name,
        "owner": record.owner,
        "status": record.status,
        "dns_suffixes": list(record.dns_suffixes),
        "simulated": record.simulated,
        "fingerprint": key,
        "level": {"epoch": record.epoch, "sequence": record.sequence} if record.envelope else None,
        "connected": bool(relay.views(record.name)),
        "token_expires_at": time(record.token_expires_ms) if record.status == "invited" else None,
        "enrolled_at": time(record.enrolled_ms),
        "published_at": time(published),
        "removed_at": time(record.removed_ms),
        "removed_reason": record.removed_reason,
    }


def intermediate(record: Intermediate) -> Json:
    """One intermediate."""
    return {
        "serial": record.serial,
        "trust_domain": record.domain,
        "authority": record.authority,
        "root": record.root,
        "not_after": time(record.not_after_ms),
        "revoked_at": time(record.revoked_ms),
        "revoked_reason": record.revoked_reason,
    }


def grant(state: HubState, record: Grant) -> Json:
    """One grant, with the exporter's fingerprint for both owners to compare."""
    exporter = state.domains.get(record.exporter)
    known = PublicationKey(exporter.publication_key).fingerprint if exporter and exporter.publication_key else None
    return {
        "id": record.id,
        "importer": record.importer,
        "exporter": record.exporter,
        "state": record.status,
        "from": time(record.from_ms),
        "until": time(record.until_ms),
        "reason": record.reason,
        "exporter_fingerprint": known,
        "accepted_by": record.accepted_by,
        "pinned_fingerprint": record.fingerprint,
        "ended_by": record.ended_by,
        "ended_reason": record.ended_reason,
        "ended_at": time(record.ended_ms),
    }


def root(record: Root) -> Json:
    """One root."""
    certificate = x509.load_der_x509_certificate(record.certificate)
    return {
        "name": record.key_name,
        "status": record.status,
        "subject": certificate.subject.rfc4514_string(),
        "fingerprint": "sha256:" + hashlib.sha256(record.certificate).hexdigest(),
        "not_after": time(certificate.not_valid_after_utc),
    }


def token(record: ApiToken) -> Json:
    """One bearer token, without what opens the door."""
    return {
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "expires_at": time(record.expires_ms),
        "revoked": record.revoked,
        "made_by": record.made_by,
    }


def cluster(record: Domain, relay: Relay, state: HubState) -> Json:
    """One cluster: whether it is connected, and how far it is with the bundles that it imports."""
    views = relay.views(record.name)
    newest = views[-1] if views else None
    imports = []
    for held in state.grants_with(record.name):
        if held.status == "accepted" and held.importer == record.name:
            said = relay.reported(record.name, held.exporter)
            exporter = state.domains[held.exporter]
            level = said.level if said else None
            imports.append(
                {
                    "exporter": held.exporter,
                    "level": {"epoch": level.epoch, "sequence": level.sequence} if level else None,
                    "current": bool(level and (level.epoch, level.sequence) == (exporter.epoch, exporter.sequence)),
                    "laggards": list(said.laggards) if said else [],
                    "laggard_count": said.laggard_count if said else 0,
                }
            )
    return {"trust_domain": record.name, "owner": record.owner, **_connection(newest), "imports": imports}


def _connection(view: View | None) -> Json:
    return {
        "connected": view is not None,
        "connected_since": time(view.connected) if view else None,
        "last_heard": time(view.heard) if view else None,
        "position": view.position if view else None,
        "root_version": view.root_version if view else None,
        "software": view.software if view else "",
        "svid_not_after": time(view.svid.not_after) if view else None,
    }


def publication(status: Status, now: datetime) -> Json:
    """How one document stands at one target; `lag_seconds` counts since a newer version waits."""
    return {
        "target": status.target,
        "document": status.name,
        "state": _standing(status),
        "published_at": time(status.published),
        "waiting_since": time(status.wanted),
        "lag_seconds": int((now - status.wanted).total_seconds()) if status.wanted else 0,
        "attempts": status.attempts,
        "error": status.error,
        "hint": status.hint,
        "next_try": time(status.next_try),
    }


def publication_target(status: TargetStatus, now: datetime) -> Json:
    """How one target stands as a whole."""
    return {
        "target": status.target,
        "documents": status.names,
        "waiting": status.waiting,
        "lag_seconds": int((now - status.wanted).total_seconds()) if status.wanted else 0,
        "errors": status.errors,
        "last_success": time(status.last_success),
        "error": status.error,
        "hint": status.hint,
        "next_try": time(status.next_try),
    }


def _standing(status: Status) -> str:
    if status.wanted:
        return "failing" if status.error else "waiting"
    return "withdrawn" if status.withdrawn else "published"


def event(recorded: Recorded) -> Json:
    """One journal event; certificates and envelopes in it appear in base64."""
    held = recorded.event
    return {
        "position": recorded.position,
        "id": held.id,
        "command_id": held.command_id,
        "at": time(held.at),
        "at_ms": held.at,
        "actor": held.actor,
        "owner": held.owner,
        "reason": held.reason,
        "kind": held.kind,
        "version": held.version,
        "body": held.body,
    }
