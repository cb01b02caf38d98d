"""Every way in which a machine can attest here. A new attestor is registered in this file and nowhere else."""

from __future__ import annotations

from trustfed.cluster.attestation.join_token import JoinToken
from trustfed.cluster.attestation.port import Attestors, NodeAttestor


def open_attestors() -> Attestors:
    """The attestors by the names that requests call them by."""
    attestors: tuple[NodeAttestor, ...] = (JoinToken(),)
    return {attestor.name: attestor for attestor in attestors}
