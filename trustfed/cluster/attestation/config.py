"""The table [attestation]: the ways of attesting that need to be told something. Join tokens need nothing."""

from __future__ import annotations

from dataclasses import dataclass

from trustfed.cluster.attestation.aws_iam import AwsIamConfig


@dataclass(frozen=True)
class AttestationConfig:
    """One field per attestor; None: not offered."""

    aws_iam: AwsIamConfig | None = None
