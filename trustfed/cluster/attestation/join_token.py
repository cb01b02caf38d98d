"""Attestation by a one-time join token: the first key that shows it is the node, any other is refused."""

from __future__ import annotations

from datetime import datetime

from trustfed.cluster.attestation.port import Admission
from trustfed.cluster.nodes import admitted
from trustfed.cluster.state import ClusterState
from trustfed.federation.token import EnrolmentToken


class JoinToken:
    """The token's secret is compared by its hash; one use means one use, under concurrency, because `admit` decides."""

    name = "join_token"

    async def verify(self, payload: str, key_hash: str, peer: str = "") -> str:
        """The hash of the secret in the token. Raises Invalid for anything that is not a node's token."""
        return EnrolmentToken.decode(payload, "node").secret_hash()

    def admit(self, state: ClusterState, evidence: str, key_hash: str, now: datetime) -> Admission:
        """The invited node. Raises Denied for a token that is unknown, expired, or was used by another key."""
        invitation = admitted(state, evidence, key_hash, now)
        return Admission(invitation.name, invitation.groups, evidence, invitation.key_hash)
