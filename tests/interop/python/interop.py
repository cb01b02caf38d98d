"""Uses the Workload API at SPIFFE_ENDPOINT_SOCKET with the PyPI library `spiffe`: `interop.py watch AUDIENCE COUNT`.

A program of its own that imports nothing of ours: the library and trustfed register the same protobuf file.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from cryptography.x509.verification import PolicyBuilder, Store
from spiffe import JwtSvid, TrustDomain, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import ValidateJwtSvidError

PATIENCE = 60.0  # seconds


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def watch(audience: str, count: int) -> None:
    with WorkloadApiClient() as client:
        x509_bundles = client.fetch_x509_bundles(timeout=PATIENCE)
        say(event="x509-bundles", bundles=names(x509_bundles.bundles))
        jwt_bundles = client.fetch_jwt_bundles(timeout=PATIENCE)
        say(event="jwt-bundles", bundles=names(jwt_bundles.bundles))

        svid = client.fetch_jwt_svid({audience}, timeout=PATIENCE)
        bundle = jwt_bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        local = JwtSvid.parse_and_validate(svid.token, bundle, {audience})
        validated = client.validate_jwt_svid(svid.token, audience, timeout=PATIENCE)
        say(event="jwt", id=str(svid.spiffe_id), local=str(local.spiffe_id), validated=str(validated.spiffe_id))
        refusal = ""
        try:
            client.validate_jwt_svid(svid.token, audience + "/another", timeout=PATIENCE)
        except ValidateJwtSvidError as refused:
            refusal = str(refused)
        say(event="jwt-refused", refused=bool(refusal), detail=refusal)

    changed, serials, last = threading.Semaphore(1), set[str](), {}
    with X509Source(timeout_in_seconds=PATIENCE) as source:
        source.subscribe_for_updates(changed.release)
        while len(serials) < count:
            if not changed.acquire(timeout=PATIENCE):
                raise SystemExit(f"saw {len(serials)} SVIDs of {count}")
            line = judge(source)
            serials.add(line["serial"])
            if line != last:
                say(**line)
                last = line


def judge(source: X509Source) -> dict[str, Any]:
    """Verify the SVID in force against its own domain's bundle; what to print of it."""
    context = source.get_x509_context()
    svid = context.default_svid
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    verifier = PolicyBuilder().store(Store(list(bundle.x509_authorities))).build_client_verifier()
    verifier.verify(svid.leaf, svid.cert_chain[1:])
    serial = f"{svid.leaf.serial_number:032x}"
    bundles = names(context.x509_bundle_set.bundles)
    return {
        "event": "x509",
        "id": str(svid.spiffe_id),
        "serial": serial,
        "bundles": bundles,
        "authorities": len(bundle.x509_authorities),
        "chain": len(svid.cert_chain),
    }


def names(bundles: set[object]) -> list[str]:
    found: list[TrustDomain] = [bundle.trust_domain for bundle in bundles]  # type: ignore[attr-defined]
    return sorted(domain.name for domain in found)


if __name__ == "__main__":
    if sys.argv[1:2] != ["watch"]:
        raise SystemExit("usage: interop.py watch AUDIENCE COUNT")
    watch(sys.argv[2], int(sys.argv[3]))
