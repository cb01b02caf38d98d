"""The protected publication: what a domain may publish in it, which root is installed, and what is wanted of it. Pure.

A domain's role is taken, in this order:
 1. the domain takes part, and its name can be a role's
 2. its publication key signed the role (bundle_publisher.tuf.delegated)
 3. its version is above every one before under this name, and no later than now
 4. it has not expired, and does not live longer than roles do
 5. it lists the newest envelope that the hub holds, and the cluster document that came with it, which is that domain's;
    and the manifests that came with it or were held before, or none
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache

from bundle_publisher.tuf.delegated import AHEAD, LIFE, Listed, Role, check_lists, open_role
from trustfed.errors import Conflict, Denied, Invalid
from trustfed.federation import cluster_document
from trustfed.federation.envelope import PublicationKey
from trustfed.hub.domains import enrolled
from trustfed.hub.events import HubEvent, RolePublished, TufRootInstalled
from trustfed.hub.state import HubState
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

MAX_ROLES = 4_500
"""With so many domains of the longest names the list of delegations is as long as python-tuf's client reads (5 MB)."""
SKEW = timedelta(minutes=5)


def accept_role(
    state: HubState, name: str, metadata: bytes, document: bytes, now: datetime, mesh: Listed | None = None
) -> list[HubEvent]:
    """Record a domain's next role; the one that is held changes nothing. `mesh` are the manifests that came with it.

    Raises Invalid, Denied or Conflict.
    """
    held = state.roles.get(name)
    if held and held.metadata == metadata and held.cluster_document == document:
        return []
    domain, trust_domain = enrolled(state, name), TrustDomain(name)  # 1
    key = PublicationKey(domain.publication_key)
    role = open_role(metadata, trust_domain, key)  # 2
    _check_version(role, held.version if held else 0, now)  # 3
    if not now < role.expires <= now + LIFE + SKEW:  # 4
        raise Denied(
            f"the role of {name} expires at {role.expires.isoformat()}",
            hint=f"within {LIFE.days} days; check both clocks",
        )
    if role.envelope != Listed.of(domain.envelope):  # 5
        raise Denied(f"the role of {name} lists another envelope than its newest", hint="the next one will list it")
    if mesh is None and role.mesh is not None and role.mesh == mesh_of(state, name):
        mesh = role.mesh  # what its mesh became is too long to be published: the file before stays
    check_lists(role, domain.envelope, document, mesh)
    if cluster_document.read(document, trust_domain).publication_key != key:
        raise Denied(f"the cluster document of {name} names another publication key than the domain's")
    if held is None and len(state.roles) >= MAX_ROLES:
        raise Conflict(f"{MAX_ROLES} domains have a role, and no more fit", hint="its plain bundle is published")
    return [RolePublished(name, metadata, document, role.version)]


def held_role(state: HubState, name: str, metadata: bytes, document: bytes, envelope: bytes) -> bool:
    """Whether this is what is held of a domain already: every stream of its cluster begins with it."""
    held, domain = state.roles.get(name), state.domains.get(name)
    if held is None or domain is None:
        return False
    return (held.metadata, held.cluster_document, domain.envelope) == (metadata, document, envelope)


def manifests_of(state: HubState, name: str) -> str | None:
    """The SHA-256 of the manifests that the held role of a domain lists; None when it lists none, or there is no role."""
    listed = mesh_of(state, name)
    return listed.sha256 if listed else None


def mesh_of(state: HubState, name: str) -> Listed | None:
    """The same, as it is listed."""
    held, domain = state.roles.get(name), state.domains.get(name)
    if held is None or not held.metadata or domain is None:
        return None
    return open_role(held.metadata, TrustDomain(name), _key(domain.publication_key)).mesh


def install_root(state: HubState, document: bytes, version: int, expires: datetime) -> list[HubEvent]:
    """Record a root that was checked to follow the newest one (bundle_publisher.tuf.root.check_next)."""
    if state.tuf_roots and state.tuf_roots[-1].document == document:
        return []
    if version != len(state.tuf_roots) + 1:
        raise Conflict("another root was installed in between", hint="trustfed publication root show")
    return [TufRootInstalled(version, document, to_ms(expires))]


def known_keys(state: HubState) -> dict[str, PublicationKey | None]:
    """Every domain that ever had a name here: its publication key, or None when it takes no part."""
    return {
        name: _key(domain.publication_key) if domain.status == "enrolled" else None
        for name, domain in state.domains.items()
    }


def without_role(state: HubState) -> list[str]:
    """The domains that take part, and have not published a role yet."""
    names = [domain.name for domain in state.domains.values() if domain.status == "enrolled"]
    return sorted(name for name in names if not (role := state.roles.get(name)) or not role.metadata)


@lru_cache(maxsize=16_384)
def _key(spki: bytes) -> PublicationKey:
    return PublicationKey(spki)


def _check_version(role: Role, held: int, now: datetime) -> None:
    if role.version <= held:
        raise Denied(
            f"the role of {role.trust_domain} has version {role.version}, but {held} was published",
            hint="an old copy was replayed; or its clock is behind, and the next version will be above",
        )
    if role.version > (now + AHEAD).timestamp():
        raise Invalid(
            f"the role of {role.trust_domain} has version {role.version}, which is a time that has not come",
            hint="check the clocks of the hub and of that cluster",
        )
