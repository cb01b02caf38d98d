"""Nodes in AWS for attestation tests: sessions of a role, by the real STS of tests.fakes.seaweed."""

from __future__ import annotations

import os

from tests.fakes.seaweed import NOBODY, READER_ROLE, REGION, Credentials, seaweed
from trustfed.federation.names import cluster_id
from trustfed.reading.location import AwsCredentials
from trustfed.reading.order import SignIdentity
from trustfed.reading.sign_identity import signed_headers
from trustfed.spiffe.ids import TrustDomain


def session(name: str, role: str = READER_ROLE) -> Credentials:
    """The credentials of a session with this name."""
    made = seaweed().client("sts", NOBODY).assume_role(RoleArn=role, RoleSessionName=name)["Credentials"]
    return Credentials(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])


def signed(who: Credentials, public_key: bytes, trust_domain: str, endpoint: str = "") -> str:
    """The payload by which `who` attests with this key (SPKI) at the cluster of `trust_domain`."""
    order = SignIdentity(str(cluster_id(TrustDomain(trust_domain))), public_key)
    held = AwsCredentials(who.key, who.secret, who.token or "", REGION)
    return signed_headers(order, held, endpoint or seaweed().endpoint, os.urandom(16))


def signed_session(name: str, public_key: bytes, trust_domain: str) -> str:
    """The same by a new session with this name."""
    return signed(session(name), public_key, trust_domain)
