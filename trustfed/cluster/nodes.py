"""Nodes: invited by a one-time token, attested, renewed, banned. Pure decisions."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta

from ca.profiles import NOT_BEFORE_BACKDATE
from trustfed.cluster.attestation.port import Admission
from trustfed.cluster.events import NodeAttested, NodeBanned, NodeInvited
from trustfed.cluster.state import ClusterState, Invitation, Node
from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from trustfed.federation.names import check_name
from trustfed.journal.events import TypedEvent

MAX_GROUPS = 32
MAX_TOKEN_TTL = timedelta(days=7)


def invite(
    state: ClusterState, token_hash: str, name: str, groups: Sequence[str], ttl: timedelta, now: datetime
) -> list[TypedEvent]:
    """Allow one node of this name to join once, with a token of which only the hash is kept."""
    check_name(name, "node")
    for group in groups:
        check_name(group, "group")
    if len(groups) > MAX_GROUPS:
        raise Invalid(f"{len(groups)} groups are too many", hint=f"at most {MAX_GROUPS}")
    if not timedelta(seconds=1) <= ttl <= MAX_TOKEN_TTL:
        raise Invalid(f"a token life of {ttl} is out of bounds", hint="1 second to 7 days")
    node = state.nodes.get(name)
    if node is not None and node.banned:
        raise Conflict(f"node {name} is banned ({node.banned})", hint="give the new node another name")
    return [NodeInvited(token_hash, name, tuple(sorted(set(groups))), now + ttl, now)]


def admitted(state: ClusterState, token_hash: str, key_hash: str, now: datetime) -> Invitation:
    """The invitation that a token stands for, if this key may use it.

    Raises Denied: unknown, expired, or used by another key; the message tells a guesser nothing more.
    """
    invitation = state.invitations.get(token_hash)
    if invitation is None:
        raise Denied("the join token is not known here", hint="make a new one: trustfed node token")
    if invitation.expires_at <= now:
        raise Denied("the join token has expired", hint="make a new one: trustfed node token")
    if invitation.key_hash and not hmac.compare_digest(invitation.key_hash, key_hash):
        raise Denied(
            "the join token was used by another key",
            hint="if that was not this node, ban it and make a new token: trustfed node ban, trustfed node token",
        )
    node = state.nodes.get(invitation.name)
    if node is not None and node.banned:
        raise Denied(f"node {invitation.name} is banned", hint="give the new node another name")
    if invitation.key_hash and (node is None or node.evidence != token_hash):
        raise Denied(
            f"node {invitation.name} attested again since this token was used",
            hint="make a new one: trustfed node token",
        )
    return invitation


def attest(
    state: ClusterState,
    admission: Admission,
    attestor: str,
    key_hash: str,
    chain: Sequence[bytes],
    max_nodes: int,
    now: datetime,
) -> list[TypedEvent]:
    """Admit the node with this key and answer. Decided under the journal's order: of two keys at once one gets in.

    Whatever an attestor says: a banned name stays banned, and no attestor takes over a name that another one admitted.
    Raises Denied, and Unavailable when there are `max_nodes` already.
    """
    held = state.nodes.get(admission.node)
    if held is None:
        if len(state.nodes) >= max_nodes:
            raise Unavailable(f"this cluster has {len(state.nodes)} nodes, its limit", hint="raise policy.max_nodes")
    elif held.banned:
        raise Denied(f"node {admission.node} is banned: {held.banned}", hint="give the new node another name")
    elif held.attestor != attestor:
        raise Denied(
            f"node {admission.node} was admitted by {held.attestor}, not by {attestor}",
            hint="give the new node another name",
        )
    if admission.key_hash:
        return []
    return [NodeAttested(admission.node, admission.groups, attestor, admission.evidence, key_hash, tuple(chain), now)]


def standing(state: ClusterState, name: str, began: datetime) -> Node:
    """The node, if whoever shows an SVID of it that began at `began` may be served.

    Raises Denied when it is unknown or banned, or attested anew since: then it has another key, and who holds the old
    one's SVID (an old disk) is not this node any more. The rule for every call, before its work and after.
    """
    node = state.nodes.get(name)
    if node is None:
        raise Denied(f"node {name[:64]!r} is not a node of {state.trust_domain}", hint="trustfed node list")
    if node.banned:
        raise Denied(f"node {name} is banned: {node.banned}", hint="its workloads need another node")
    if began + NOT_BEFORE_BACKDATE + timedelta(seconds=1) < node.attested_at:
        raise Denied(f"node {name} attested again after this SVID was issued", hint="use the newer SVID")
    return node


def ban(state: ClusterState, name: str, reason: str, now: datetime) -> list[TypedEvent]:
    """Ban a node: its agent stops serving, and it can neither renew nor attest under this name again."""
    node = state.nodes.get(name)
    if node is None:
        raise NotFound(f"node {name[:64]!r} does not exist", hint="trustfed node list")
    if not reason.strip():
        raise Invalid("a ban needs a reason", hint="--reason 'stolen disk'")
    return [] if node.banned else [NodeBanned(name, reason, now)]
