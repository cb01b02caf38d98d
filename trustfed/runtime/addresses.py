"""HOST:PORT and [IPV6]:PORT."""

from __future__ import annotations

from trustfed.errors import Invalid


def split(address: str) -> tuple[str, int]:
    """Host (without brackets) and port. Raises Invalid."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise Invalid(f"{address[:80]!r} is not HOST:PORT", hint="for example 127.0.0.1:8443 or [::1]:8443")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise Invalid(f"{address[:80]!r} is not HOST:PORT", hint="an IPv6 address stands in brackets")
    return host.strip("[]"), int(port)


def split_url(url: str) -> tuple[str, int]:
    """Host and port of https://HOST[:PORT]; 443 if it names none. Raises Invalid."""
    rest = url.removeprefix("https://").rstrip("/")
    if rest == url.rstrip("/"):
        raise Invalid(f"{url[:80]!r} is not https://HOST or https://HOST:PORT")
    named = rest.rpartition(":")[2].isdigit() and not rest.endswith("]")
    return split(rest if named else f"{rest}:443")
