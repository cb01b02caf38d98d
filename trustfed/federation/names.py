"""Every SPIFFE ID below the reserved path /trustfed/ is named here and nowhere else.

spiffe://DOMAIN/trustfed/hub            the hub, in its own trust domain
spiffe://DOMAIN/trustfed/cluster        the control plane of one cluster
spiffe://DOMAIN/trustfed/node/NAME      one node's agent
"""

from __future__ import annotations

import re

from trustfed.errors import Invalid
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

HUB_PATH = "/trustfed/hub"
CLUSTER_PATH = "/trustfed/cluster"
_NODE_PREFIX = "/trustfed/node/"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")


def hub_id(trust_domain: TrustDomain) -> SpiffeId:
    """The hub's ID in its own trust domain."""
    return SpiffeId.of(trust_domain, HUB_PATH)


def cluster_id(trust_domain: TrustDomain) -> SpiffeId:
    """The ID of the control plane of `trust_domain`."""
    return SpiffeId.of(trust_domain, CLUSTER_PATH)


def node_id(trust_domain: TrustDomain, name: str) -> SpiffeId:
    """The ID of the agent on node `name`. Raises Invalid for a name outside the grammar of `check_name`."""
    return SpiffeId.of(trust_domain, _NODE_PREFIX + check_name(name, "node"))


def is_cluster(identity: SpiffeId) -> bool:
    """Whether `identity` is a cluster control plane's; of which domain is the caller's question."""
    return identity.path == CLUSTER_PATH


def node_name(identity: SpiffeId) -> str:
    """The node that `identity` names. Raises Invalid when it is not a node's ID."""
    return _last(identity, _NODE_PREFIX, "node")


def check_name(name: str, what: str) -> str:
    """`name` itself when it is 1 to 63 of a-z, 0-9, "-" and ".", with a letter or digit at both ends; else Invalid."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{what} name {shown(name)} is not allowed",
            hint='use 1 to 63 of a-z, 0-9, "-" and ".", with a letter or digit at both ends',
        )
    return name


def _last(identity: SpiffeId, prefix: str, what: str) -> str:
    if not identity.path.startswith(prefix) or not _NAME.fullmatch(identity.path[len(prefix) :]):
        raise Invalid(f"{identity} is not the ID of a {what}", hint=f"it has the form spiffe://DOMAIN{prefix}NAME")
    return identity.path[len(prefix) :]
