"""A signed question to AWS STS, "who am I?", which a cluster asks in this machine's place (attestor aws_iam).

Only headers are given away: method, address, path and body of the request are fixed, and the cluster writes them itself. Two
signed headers of ours bind it: the cluster and the node's key that it is for, and a nonce, so that no two are alike.
"""

from __future__ import annotations

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from trustfed.federation import caller_identity
from trustfed.reading.location import AwsCredentials
from trustfed.reading.order import SignIdentity
from trustfed.runtime.bounded_http import Origin


def signed_headers(order: SignIdentity, credentials: AwsCredentials, endpoint: str, nonce: bytes) -> str:
    """The payload for the attestor: the headers that STS must see, as JSON. `endpoint` "" is the region's own STS."""
    region = credentials.region
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    origin, _ = Origin.parse(endpoint or f"https://sts.{region}.{suffix}")
    headers = {
        "Content-Type": caller_identity.CONTENT_TYPE,
        "Host": origin.authority,
        caller_identity.BINDING: caller_identity.binding(order.server_id, order.public_key),
        caller_identity.NONCE: nonce.hex(),
    }
    request = AWSRequest("POST", f"{origin}/", headers=headers, data=caller_identity.BODY)
    held = Credentials(credentials.access_key, credentials.secret_key, credentials.token or None)
    SigV4Auth(held, "sts", region).add_auth(request)
    return caller_identity.write({name.lower(): value for name, value in request.headers.items()})
