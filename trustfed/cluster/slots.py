"""From the slots of a node's request to what is issued for them. Pure."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from ca.issuance import LeafRequest
from ca.jwt import JwtRequest
from trustfed.cluster.entries import serves
from trustfed.cluster.events import EntryPut
from trustfed.cluster.state import ClusterState, Node
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError
from trustfed.proto import node_pb2 as pb
from trustfed.spiffe.ids import SpiffeId

MAX_AUDIENCES = 16
MAX_AUDIENCE = 1024
SLOT, RESERVE_SLOT = "x509", "reserve"

_spiffe_id = lru_cache(maxsize=4096)(SpiffeId.parse)  # the same entries are asked for again and again


def entry_of(state: ClusterState, node: Node, id_: str, now: datetime) -> EntryPut:
    """The entry, if this node may have its SVIDs now. Raises NotFound."""
    entry = state.entries.get(id_)
    # One answer for "does not exist" and "is another node's": a node learns nothing about entries that are not its own.
    if entry is None or not serves(entry, node, now):
        raise NotFound(f"entry {id_[:128]!r} is not for node {node.name}")
    return entry


def leaf_request(
    entry: EntryPut, node: Node, slot: pb.X509Slot, command_id: str, reserve_seconds: int = 0
) -> LeafRequest:
    """What one X.509 slot asks for: all but the key comes from the entry; a reserve's life from its node's groups.

    Raises Denied for a reserve that this node is not to keep, Invalid for a slot that does not exist.
    """
    if slot.slot not in ("", SLOT, RESERVE_SLOT):
        raise Invalid(f"slot {slot.slot[:40]!r} is unknown", hint=f"{SLOT} or {RESERVE_SLOT}")
    reserve = slot.slot == RESERVE_SLOT
    if reserve and not reserve_seconds:
        raise Denied(f"node {node.name} keeps no reserve SVIDs", hint="trustfed node reserve GROUP --ttl 7d")
    return LeafRequest(
        spiffe_id=_spiffe_id(entry.spiffe_id),
        public_key=slot.public_key,
        ttl=reserve_seconds if reserve else entry.x509_ttl,
        dns_names=entry.dns_names,
        not_after_limit=entry.expires_at,
        chain="root" if entry.chain == "root" else "leaf",
        entry=entry.id,
        node=node.name,
        instance=f"{node.name}/{entry.id}",
        slot=RESERVE_SLOT if reserve else SLOT,
        predecessor=slot.predecessor_serial[:64],
        command_id=command_id[:128],
    )


def jwt_request(entry: EntryPut, node: Node, slot: pb.JwtSlot, command_id: str) -> JwtRequest:
    """What one JWT slot asks for: all but the audience comes from the entry. Raises Invalid."""
    audience = tuple(slot.audience)
    if not 1 <= len(audience) <= MAX_AUDIENCES or any(not 1 <= len(item) <= MAX_AUDIENCE for item in audience):
        raise Invalid(f"a JWT-SVID needs 1 to {MAX_AUDIENCES} audiences of up to {MAX_AUDIENCE} characters")
    return JwtRequest(
        spiffe_id=_spiffe_id(entry.spiffe_id),
        audience=audience,
        ttl=entry.jwt_ttl,
        not_after_limit=entry.expires_at,
        entry=entry.id,
        node=node.name,
        instance=f"{node.name}/{entry.id}",
        slot="jwt",
        predecessor=slot.predecessor[:64],
        command_id=command_id[:128],
    )


def refuse(result: pb.X509Result | pb.JwtResult, error: TrustfedError) -> None:
    """Say why nothing was issued for this slot."""
    result.error = error.message
    result.error_code = {
        "Invalid": "invalid",
        "Denied": "denied",
        "NotFound": "not_found",
        "Conflict": "conflict",
    }.get(type(error).__name__, "unavailable")
