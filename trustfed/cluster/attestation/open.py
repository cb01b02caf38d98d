"""Every way in which a machine can attest here. A new attestor is registered in this file and nowhere else."""

from __future__ import annotations

from trustfed.cluster.attestation.aws_iam import AwsIam
from trustfed.cluster.attestation.config import AttestationConfig
from trustfed.cluster.attestation.join_token import JoinToken
from trustfed.cluster.attestation.port import Attestors, NodeAttestor
from trustfed.runtime.clock import Clock
from trustfed.spiffe.ids import TrustDomain


def open_attestors(config: AttestationConfig, trust_domain: TrustDomain, clock: Clock) -> Attestors:
    """The attestors by the names that requests call them by."""
    attestors: list[NodeAttestor] = [JoinToken()]
    if config.aws_iam is not None:
        attestors.append(AwsIam(config.aws_iam, trust_domain, clock))
    return {attestor.name: attestor for attestor in attestors}
