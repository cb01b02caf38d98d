"""SVIDs per second of a trustfed cluster, asked by nodes over its gRPC port."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.load import Door, LoadClient, Sample


def cluster_issuance(
    client: LoadClient,
    address: str,
    credentials: Path,
    *,
    server: str,
    entries: Sequence[str],
    size: int,
    callers: int = 4,
    seconds: float = 3.0,
) -> Sample:
    """How many X509-SVIDs per second the cluster at `address` ("127.0.0.1:port") signs and records.

    credentials  a directory with a node's svid.pem, key.pem (PKCS#8) and bundle.pem (the cluster's X.509 authorities)
    server       the SPIFFE ID that the cluster must present
    entries      ids of entries that this node may serve; a batch larger than the list repeats them
    size         SVIDs in one call; `callers` connections call at once, each sends public keys that were made before
    """
    listing = credentials / "entries.txt"
    listing.write_text("\n".join(entries))
    return client.issuance(Door("issue", address, credentials, server), size, callers, seconds, entries=listing)
