"""Name constraints of a signing certificate, held against what stands below it (RFC 5280 §4.2.1.10, X509-SVID §4.2).

URI, DNS and IP constraints are processed. A constraint on any other form of name refuses every certificate that has a
name of that form: the standard allows to process or to refuse, never to pass over.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509

from trustfed.spiffe.certificate import EMPTY_NAME, Certificate
from trustfed.spiffe.ids import SCHEME, shown


def check_names(constraints: x509.NameConstraints, below: Certificate) -> str:
    """Return why the names of `below` break `constraints`, or ""."""
    permitted, excluded = constraints.permitted_subtrees or [], constraints.excluded_subtrees or []
    names = list(below.names)
    if below.subject != EMPTY_NAME:
        names.append(x509.DirectoryName(below.parsed.subject))
    for name in names:
        within = [limit for limit in permitted if type(limit) is type(name)]
        without = [limit for limit in excluded if type(limit) is type(name)]
        if not within and not without:
            continue
        matches = _FORMS.get(type(name))
        if matches is None:
            return f"names of the form {type(name).__name__} are constrained, which is not supported"
        if within and not any(matches(name.value, limit.value, False) for limit in within):
            return f"the name {shown(str(name.value))} is not permitted below it"
        if any(matches(name.value, limit.value, True) for limit in without):
            return f"the name {shown(str(name.value))} is excluded below it"
    return ""


def _uri(name: str, limit: str, excluded: bool) -> bool:
    """A host, or with a leading dot every host under it; the host of a SPIFFE ID is its trust domain."""
    host, limit = name.removeprefix(SCHEME).partition("/")[0], limit.lower()
    return host.endswith(limit) and host != limit if limit.startswith(".") else host == limit


def _dns(name: str, limit: str, excluded: bool) -> bool:
    """The domain itself and everything under it; an excluded name may not hide under a wildcard."""
    name, limit = name.lower().rstrip("."), limit.lower().rstrip(".")
    if excluded and name.startswith("*.") and f".{limit}".endswith(name[1:]):
        return True
    if limit.startswith("."):
        return name.endswith(limit)
    return not limit or name == limit or name.endswith(f".{limit}")


def _ip(name: object, limit: object, excluded: bool) -> bool:
    return name in limit  # type: ignore[operator]  # an address in a network of its own version, else False


_FORMS: dict[type[x509.GeneralName], Callable[..., bool]] = {
    x509.UniformResourceIdentifier: _uri,
    x509.DNSName: _dns,
    x509.IPAddress: _ip,
}
