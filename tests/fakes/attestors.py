"""A node attestor written as docs/reference/extending.md says: who holds a shared secret vouches for a name and a key."""

from __future__ import annotations

import hmac
from datetime import datetime

from trustfed.cluster.attestation.port import Admission
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid
from trustfed.federation.names import check_name

SECRET = b"shared with the machines' maker"


def vouch(name: str, key_hash: str) -> str:
    """The payload that proves `name` for the key."""
    return f"{name}/{hmac.new(SECRET, f'{name} {key_hash}'.encode(), 'sha256').hexdigest()}"


class Vouched:
    """Trusts the holder of the secret for every name; a proof is bound to its key and to nothing else."""

    name = "vouched"

    async def verify(self, payload: str, key_hash: str, peer: str = "") -> str:
        """The name and the key. Raises Invalid for what is no proof, Denied for one that does not hold."""
        name, slash, mac = payload[:512].partition("/")
        if not slash or len(mac) != 64 or not mac.isascii():
            raise Invalid("the payload is not NAME/MAC")
        check_name(name, "node")
        if not hmac.compare_digest(vouch(name, key_hash), payload):
            raise Denied(f"nobody vouches for {name} with this key")
        return f"{name} {key_hash}"

    def admit(self, state: ClusterState, evidence: str, key_hash: str, now: datetime) -> Admission:
        """The name in the evidence, again for the key that used it."""
        name = evidence.partition(" ")[0]
        node = state.nodes.get(name)
        return Admission(name, ("vouched",), evidence, node.key_hash if node and node.evidence == evidence else "")
