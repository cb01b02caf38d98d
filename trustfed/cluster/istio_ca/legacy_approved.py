"""To believe a legacy domain takes two people; to end that takes one.

The alias in meshConfig makes its identities equal to ours: who picks its anchor could mint every one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

import msgspec

from ca.keys.port import KeyStore
from trustfed.cluster.foreign.holdings import Holdings
from trustfed.cluster.istio_ca import legacy
from trustfed.cluster.state import ClusterState
from trustfed.journal.approving import Command, Decide
from trustfed.journal.events import TypedEvent
from trustfed.spiffe.bundle import Bundle


class LegacyAnchors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Believe these anchors (DER) of the trust domain that the mesh moves away from, for a time."""

    domain: str
    anchors: list[bytes]
    until: datetime
    reason: str


def command(keys: KeyStore) -> Command[ClusterState]:
    """For `Approving.add`; the envelope is signed with `keys` once somebody has approved."""
    holdings = Holdings()

    def decided(
        state: ClusterState, body: LegacyAnchors, bundle: Bundle, data: bytes, now: datetime
    ) -> Sequence[TypedEvent]:
        others, grant = holdings.others(state, body.domain, now), f"legacy-{hashlib.sha256(data).hexdigest()[:16]}"
        return legacy.add(state, bundle, data, others, body.until, body.reason, grant, now)

    def check(state: ClusterState, body: LegacyAnchors, now: datetime) -> bool:
        return bool(decided(state, body, legacy.bundle_of(state, body.domain, body.anchors, now), b"", now))

    async def make(state: ClusterState, body: LegacyAnchors, now: datetime) -> Decide[ClusterState]:
        bundle = legacy.bundle_of(state, body.domain, body.anchors, now)
        data = await legacy.sign(state, bundle, keys)
        return lambda newest: decided(newest, body, bundle, data, now)

    return Command("legacy.add", LegacyAnchors, _words, check, make)


def _words(body: LegacyAnchors) -> str:
    count = len(body.anchors)
    anchors = "an anchor" if count == 1 else f"{count} anchors"
    # Of all of them, and whole: whoever approves compares them with what the mesh's owner says.
    digests = "".join(f", sha256:{hashlib.sha256(der).hexdigest()}" for der in body.anchors)
    until = body.until.isoformat(timespec="minutes")
    return f"believe {anchors} of the legacy domain {body.domain} until {until}{digests}"
