"""Where a URL that somebody else named may lead: its grammar, and which addresses may be connected to. Pure.

Whoever names an address may want this process to knock at doors that only it can reach (server-side request forgery).
No loopback, link-local, unspecified, multicast or reserved address is reached unless configuration allows its network;
private ones are allowed (clusters of one organisation have no others) unless configuration refuses them; a cloud's metadata
service never. An IPv4 address inside an IPv6 one (mapped, compatible, 6to4, Teredo, NAT64, ISATAP) is judged too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from trustfed.errors import Denied, Invalid

MAX_URL = 2048
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_PRINTED = re.compile(r"[!-~]*", re.ASCII)
_METADATA: tuple[Network, ...] = tuple(
    ipaddress.ip_network(name)
    for name in (
        "169.254.169.254/32",
        "169.254.170.2/32",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "fd00:ec2::254/128",
        "fd00:ec2::23/128",
        "fd20:ce::254/128",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_SHARED = ipaddress.IPv4Network("100.64.0.0/10")
_ZERO = ipaddress.IPv4Network("0.0.0.0/8")


@dataclass(frozen=True)
class Reach:
    """Which addresses may be connected to: networks that configuration allows besides, and whether private ones may.

    `option` is the member of the configuration that names those networks, for hints.
    """

    allow: tuple[Network, ...] = ()
    private: bool = True
    option: str = ""

    def check(self, address: str) -> Address:
        """The parsed address. Raises Denied for one that must not be reached."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise Denied("a name resolves to something that is no address") from None
        for one in (parsed, *_inside(parsed)):
            fault = self._fault(one)
            if fault:
                raise Denied(
                    f"the address {parsed} is {fault}: this process must not be sent there",
                    hint="check the URL"
                    + (f"; {self.option} in the configuration names exceptions" if self.option else ""),
                )
        return parsed

    def _fault(self, address: Address) -> str:
        if any(address in network for network in _METADATA):
            return "a cloud's metadata service"
        if any(address in network for network in self.allow):
            return ""
        if address.is_loopback:
            return "a loopback address"
        if address.is_link_local or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local):
            return "a link-local address"
        if address.is_unspecified or address in _ZERO:
            return "an unspecified address"
        if address.is_multicast:
            return "a multicast address"
        if address.is_reserved and address not in _NAT64:
            return "a reserved address"
        if not self.private and (address.is_private or address in _SHARED):
            return "a private address"
        return ""


@dataclass(frozen=True)
class Target:
    """An https URL in its parts; `host` without brackets."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises Invalid for anything but https://HOST[:PORT][/PATH][?QUERY], ports 443 and 1024 to 65535."""
        try:
            if len(url) > MAX_URL or not _PRINTED.fullmatch(url):
                raise ValueError
            parts = urlsplit(url)
            port = 443 if parts.port is None else parts.port
            host = parts.hostname or ""
            if parts.scheme != "https" or "@" in parts.netloc or "#" in url or "\\" in url:
                raise ValueError
            if ":" in host:
                ipaddress.IPv6Address(host)
                if "%" in host:  # a zone is a link, and no link but our own machine's would be meant
                    raise ValueError
            elif not _HOST.fullmatch(host):
                raise ValueError
        except ValueError:
            raise Invalid(
                f"{url[:120]!r} is not an https:// address", hint="such as https://trust.example:8443/bundle"
            ) from None
        if port != 443 and not 1024 <= port <= 65535:
            raise Invalid(f"port {port} is no bundle endpoint's", hint="443, or 1024 and above")
        return cls(host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))

    @property
    def origin(self) -> str:
        """https://HOST:PORT, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


def _inside(address: Address) -> Iterator[Address]:
    """IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            yield address.ipv4_mapped
        if address.sixtofour is not None:
            yield address.sixtofour
        if address.teredo is not None:
            yield from address.teredo
        isatap = int(address) >> 32 & 0xFDFFFFFF == 0x00005EFE  # RFC 5214 §6.1
        if isatap or address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
