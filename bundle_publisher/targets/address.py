"""The URL of a store, checked before anything starts: HTTPS, or HTTP to this very machine when that is allowed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from trustfed.errors import Invalid
from trustfed.spiffe.ids import shown

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[A-Za-z0-9._~-]+)*)/?",
    re.ASCII,
)
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Address:
    """Where a store is; `path` begins with / and does not end with one, or is empty."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str, what: str, *, loopback_http: bool = False) -> Address:
        """`text` as an address; `what` names the setting. Raises Invalid."""
        match = _URL.fullmatch(text)
        if match is None or any(segment in (".", "..") for segment in match["path"].split("/")):
            raise Invalid(
                f"{what} {shown(text)} is not a plain URL", hint="https://host[:port]/path, lower case, without ? # @"
            )
        found = cls(
            match["scheme"], match["host"].strip("[]"), int(match["port"] or _PORTS[match["scheme"]]), match["path"]
        )
        if not 0 < found.port < 65_536:
            raise Invalid(f"{what} {shown(text)} has no such port")
        if found.scheme == "http" and not (loopback_http and found.loopback):
            hint = "allow_loopback_http = true allows it" if found.loopback else "use https"
            raise Invalid(f"{what} {shown(text)} is not protected by TLS", hint=hint)
        return found

    @property
    def loopback(self) -> bool:
        """Whether it is this very machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def authority(self) -> str:
        """HOST[:PORT] for the Host header (RFC 9110 §7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"
