"""`[dashboard]` and `[oidc]` of the hub's configuration."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from trustfed.errors import Invalid
from trustfed.hub.access import ROLES
from trustfed.runtime.config import SecretFile
from trustfed.runtime.reach import Reach, Target
from trustfed.spiffe.ids import shown

_SCOPE = re.compile(r"[!#-\[\]-~]{1,64}", re.ASCII)


@dataclass(frozen=True)
class DashboardConfig:
    """Whether there is one, and where browsers find it: "https://hub.example:9443"; "" is the hub's own door."""

    enabled: bool = True
    address: str = ""

    def __post_init__(self) -> None:
        if not self.address:
            return
        parts = urlsplit(self.address)
        plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
        if parts.scheme != "https" or not parts.hostname or not plain:
            raise Invalid(f"[dashboard] address {shown(self.address)} is no https://HOST[:PORT]")


@dataclass(frozen=True)
class OidcConfig:
    """An OpenID provider whose word lets people in (OpenID Connect Core 1.0), and which of their groups gives which role.

    Without `client_secret_file` the hub is a public client: PKCE alone binds the code to it. `roles_claim` may lead into
    objects: "realm_access.roles". `uids` says whose account of this machine a subject (`sub`) is: both are one person then.
    """

    issuer: str
    client_id: str
    roles: dict[str, str]
    client_secret_file: SecretFile | None = None
    roles_claim: str = "groups"
    scopes: tuple[str, ...] = ("openid",)
    name: str = ""
    ca_file: Path | None = None
    # Networks where the provider may be although they lead nowhere from elsewhere: loopback, link-local and such.
    allow_networks: tuple[str, ...] = ()
    uids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Target.parse(self.issuer)
        if "?" in self.issuer:
            raise Invalid(f"[oidc] issuer {shown(self.issuer)} has a query", hint="as the provider writes it")
        if not 1 <= len(self.client_id) <= 256 or not self.client_id.isprintable() or not self.client_id.isascii():
            raise Invalid("[oidc] client_id is not 1 to 256 printable characters")
        for group, role in self.roles.items():
            if role not in ROLES:
                raise Invalid(
                    f"[oidc] roles gives {shown(group)} the role {shown(role)}", hint=f"one of: {', '.join(ROLES)}"
                )
        if not self.roles:
            raise Invalid("[oidc] roles names no group: nobody could log in", hint='"hub-admins" = "admin"')
        if "openid" not in self.scopes or not all(_SCOPE.fullmatch(scope) for scope in self.scopes):
            raise Invalid('[oidc] scopes must contain "openid", and be scopes')
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise Invalid(f"[oidc] allow_networks has {network!r}", hint="a network as 10.0.0.0/8") from None

        for subject, uid in self.uids.items():
            if not 1 <= len(subject) <= 255 or not 0 <= uid < 2**32 - 1:
                raise Invalid(
                    f"[oidc] uids binds {shown(subject)} to {uid}", hint='a subject and a uid: "248289761001" = 1001'
                )

    @property
    def discovery(self) -> str:
        """Where the provider's configuration is: a "/" that ends the issuer is left out (Discovery 1.0 §4.1)."""
        return f"{self.issuer.removesuffix('/')}/.well-known/openid-configuration"

    def reach(self) -> Reach:
        """Which addresses the provider may have."""
        networks = tuple(ipaddress.ip_network(network) for network in self.allow_networks)
        return Reach(allow=networks, option="oidc.allow_networks")
