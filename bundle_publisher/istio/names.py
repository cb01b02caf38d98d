"""Names of what is rendered: readable, stable, DNS labels of at most 63 characters (istiod takes no dot in a Gateway's).

A hash of the whole host is there where the readable part alone may be another's: for hosts outside `cluster.local`, for names
that had to be cut, and where resources for hosts of many namespaces live beside each other.
"""

from __future__ import annotations

import hashlib

from bundle_publisher.istio.resource import PREFIX

USUAL = "svc.cluster.local"
MOST = 63
_HASHED = 16


def in_its_namespace(host: str) -> str:
    """The name of a resource for `host` that lives in the namespace of the service."""
    name, _, suffix = host.split(".", 2)
    whole = PREFIX + name
    return whole if suffix == USUAL and len(whole) <= MOST else elsewhere(host)


def elsewhere(host: str) -> str:
    """The name of a resource for `host` that lives beside those for services of other namespaces."""
    hashed = hashlib.sha256(host.encode()).hexdigest()[:_HASHED]
    whole = PREFIX + host.partition(".")[0]
    return f"{whole[: MOST - _HASHED - 1].rstrip('-')}-{hashed}"
