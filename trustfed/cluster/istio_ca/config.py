"""How Istio's CA protocol is configured: the table [istio_ca] of a cluster's file. Without it the door does not exist."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ca.constraints import check_dns_name, within
from ca.profiles import MAX_DNS_NAMES
from trustfed.cluster.istio_ca.accounts import RULE, check_account_rules, check_rule
from trustfed.cluster.istio_ca.service_tokens import Expected
from trustfed.errors import Invalid
from trustfed.runtime.reach import Network, Reach, Target
from trustfed.runtime.sockets import check_addresses

_MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# A Service's own names lead nowhere outside its cluster, so no other domain can have registered them.
_IN_CLUSTER = ("svc", "svc.cluster.local")


@dataclass(frozen=True)
class JwksConfig:
    """Tokens are verified here, with the issuer's keys from `file` or `url`."""

    issuer: str
    file: Path | None = None
    url: str = ""
    ca_file: Path | None = None
    # Networks that are refused otherwise (loopback, link-local), as at `foreign.allow_addresses`.
    allow_addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.issuer or len(self.issuer) > 512:
            raise Invalid("istio_ca.jwks.issuer is empty or too long", hint="as the tokens' iss has it")
        if (self.file is None) == (not self.url):
            raise Invalid("istio_ca.jwks wants one source of keys", hint='file = "..." or url = "https://..."')
        if self.url:
            Target.parse(self.url)
        self.reach()

    def reach(self) -> Reach:
        """Which addresses the URL may lead to. Raises Invalid."""
        networks: list[Network] = []
        for text in self.allow_addresses:
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError:
                raise Invalid(f"istio_ca.jwks.allow_addresses: {text[:80]!r} is no network") from None
        return Reach(tuple(networks), option="istio_ca.jwks.allow_addresses")


@dataclass(frozen=True)
class KubernetesConfig:
    """The Kubernetes API: pods for ztunnel, and tokens too (TokenReview) where there is no [istio_ca.jwks]."""

    url: str = "https://kubernetes.default.svc"
    ca_file: Path = _MOUNTED / "ca.crt"
    token_file: Path = _MOUNTED / "token"
    timeout: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        Target.parse(self.url)
        if not timedelta(milliseconds=100) <= self.timeout <= timedelta(seconds=30):
            raise Invalid("istio_ca.kubernetes.timeout must be from 100ms to 30s")


@dataclass(frozen=True)
class IstioCaConfig:
    """Istio's CA protocol for the workloads of this one mesh."""

    listen: str
    # Names of this door's certificate: what CA_ADDR of the proxies says. Service names, or within the domain's suffixes.
    dns_names: tuple[str, ...]
    audiences: tuple[str, ...] = ("istio-ca",)
    # The SPIFFE ID of a service account.
    rule: str = RULE
    # NAMESPACE or NAMESPACE/ACCOUNT; none allowed: all that are not excluded.
    allow: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    # Values of `clusterid` that are answered; none: any.
    cluster_ids: tuple[str, ...] = ()
    # The longest life of a certificate, whatever is asked; 0s: as policy.svid_ttl_max.
    ttl_max: timedelta = timedelta(0)
    # Certificates of one pod: so many at once, then one in `rate_interval`. A ztunnel asks for all pods of its node.
    rate_burst: int = 20
    rate_interval: timedelta = timedelta(seconds=5)
    ztunnel_rate_burst: int = 500
    ztunnel_rate_interval: timedelta = timedelta(milliseconds=100)
    # Service accounts (NAMESPACE/ACCOUNT) that may ask for the pods of their node (ImpersonatedIdentity).
    ztunnel: tuple[str, ...] = ()
    jwks: JwksConfig | None = None
    kubernetes: KubernetesConfig | None = None

    def __post_init__(self) -> None:
        check_addresses(self.listen)
        check_rule(self.rule)
        check_account_rules(self.allow, "istio_ca.allow")
        check_account_rules(self.exclude, "istio_ca.exclude")
        check_account_rules(self.ztunnel, "istio_ca.ztunnel", whole=True)
        if not 1 <= len(self.dns_names) <= MAX_DNS_NAMES:
            raise Invalid("istio_ca.dns_names must name this door", hint='such as ["trustfed-ca.istio-system.svc"]')
        for name in self.dns_names:
            check_dns_name(name)
        if not self.audiences or not all(self.audiences):
            raise Invalid("istio_ca.audiences must name at least one audience", hint='["istio-ca"]')
        if self.jwks is None and self.kubernetes is None:
            raise Invalid(
                "istio_ca has nobody to say whose a token is", hint="[istio_ca.jwks] or [istio_ca.kubernetes]"
            )
        if self.rate_burst < 1 or self.ztunnel_rate_burst < 1:
            raise Invalid("istio_ca: a rate's burst must be at least 1")
        if min(self.rate_interval, self.ztunnel_rate_interval) < timedelta(milliseconds=1):
            raise Invalid("istio_ca: a rate's interval must be at least 1ms")

    def expected(self) -> Expected:
        """What tokens must say; only with [istio_ca.jwks]."""
        assert self.jwks is not None
        return Expected(self.jwks.issuer, self.audiences)

    def check(self, svid_ttl_max: timedelta) -> None:
        """Raise Invalid when it promises more than the domain's policy allows."""
        if self.ttl_max > svid_ttl_max:
            raise Invalid(
                f"istio_ca.ttl_max of {self.ttl_max} is above policy.svid_ttl_max", hint=f"at most {svid_ttl_max}"
            )


def local_names(names: tuple[str, ...], suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Of the door's names those that are outside the domain's suffixes. Raises Invalid unless they are Service names."""
    outside = tuple(name for name in names if not within(name, suffixes))
    for name in outside:
        if not within(name, _IN_CLUSTER) or name.count(".") < 2:
            raise Invalid(
                f"istio_ca.dns_names: {name} is neither a Kubernetes Service's name nor within this domain's suffixes",
                hint="such as trustfed-ca.istio-system.svc; suffixes are registered with trustfed domain add",
            )
    return outside
