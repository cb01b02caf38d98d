"""The critical name constraints of an intermediate: one trust domain, its DNS suffixes, nothing else.

Source: RFC 5280 §4.2.1.10. What each verifier makes of them was run with OpenSSL 3.0 and Go 1.26:
- A URI constraint is a host. "prod" permits exactly the host prod by the RFC and in OpenSSL, but also a.prod in Go,
  so ".prod" (every host below it) is excluded beside it.
- A constraint that speaks of URIs only leaves every DNS name free, so DNS always has one: the suffixes,
  or all excluded.
- No address is excluded in e-mail by an empty name in OpenSSL, so exactly the host "invalid" is permitted and excluded.
- Directory names stay unconstrained: Go refuses a critical constraint on them. Leaves have an empty subject.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from cryptography import x509

from trustfed.errors import Invalid
from trustfed.spiffe.ids import TrustDomain, shown

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_HOST_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_MAX_DNS_NAME = 253
_MAX_SUFFIXES = 32
_NOWHERE = "invalid"  # RFC 6761 §6.4: no mail host has this name


def check_dns_name(name: str) -> None:
    """Raise Invalid unless `name` is a lower-case host name without wildcard or final dot (RFC 1123 §2.1)."""
    labels = name.split(".") if isinstance(name, str) and len(name) <= _MAX_DNS_NAME else []
    if not labels or not all(_DNS_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise Invalid(f"DNS name {shown(name)} is malformed", hint="lower-case labels a-z, 0-9, '-', joined by dots")


def within(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a DNS name is one of the suffixes or below one, by whole labels (RFC 5280 §4.2.1.10)."""
    return any(name == suffix or name.endswith("." + suffix) for suffix in suffixes)


def check_suffixes(suffixes: Sequence[str]) -> None:
    """Raise Invalid unless every suffix is a DNS name and there are at most 32."""
    if len(suffixes) > _MAX_SUFFIXES:
        raise Invalid(f"{len(suffixes)} DNS suffixes are too many", hint=f"at most {_MAX_SUFFIXES}")
    for suffix in suffixes:
        check_dns_name(suffix)


def check_constrainable(trust_domain: TrustDomain) -> None:
    """Raise Invalid unless the trust domain's name can stand in a URI constraint: host labels, and no IP address."""
    labels = trust_domain.name.split(".")
    if not all(_HOST_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise Invalid(
            f"trust domain {trust_domain} cannot stand in a name constraint",
            hint="choose a name of labels of 1 to 63 characters whose last is not a number",
        )


def intermediate_constraints(trust_domain: TrustDomain, dns_suffixes: Sequence[str]) -> x509.NameConstraints:
    """URIs of exactly this domain; DNS names within the suffixes, or none; no IP address and no e-mail address."""
    check_constrainable(trust_domain)
    check_suffixes(dns_suffixes)
    permitted: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(trust_domain.name),
        x509.RFC822Name(_NOWHERE),
        *(x509.DNSName(suffix) for suffix in sorted(set(dns_suffixes))),
    ]
    excluded: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier("." + trust_domain.name),
        x509.RFC822Name(_NOWHERE),
        x509.IPAddress(IPv4Network("0.0.0.0/0")),
        x509.IPAddress(IPv6Network("::/0")),
    ]
    if not dns_suffixes:
        excluded.append(x509.DNSName(""))
    return x509.NameConstraints(permitted, excluded)
