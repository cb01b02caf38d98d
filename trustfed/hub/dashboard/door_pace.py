"""How often anybody may try to log in: by address, and all together. Guessing is hopeless anyway; this keeps it cheap."""

from __future__ import annotations

import ipaddress

from starlette.requests import Request

from trustfed.errors import TrustfedError
from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces

BURST, SECONDS = 20, 3.0
BURST_OF_ALL, SECONDS_OF_ALL = 200, 0.1


class TooFast(TrustfedError):
    """Too many tries in a short time."""


class DoorPace:
    """One for all ways to log in."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._one, self._all = Paces(BURST, SECONDS), Paces(BURST_OF_ALL, SECONDS_OF_ALL)

    def take(self, request: Request) -> None:
        """Count one try. Raises TooFast."""
        now = self._clock.monotonic()
        # The address first: what it tries too fast must not use up what everybody has together.
        if not self._one.take(_place(request), now) or not self._all.take("", now):
            raise TooFast("too many logins are tried from here", hint="wait a few seconds")


def _place(request: Request) -> str:
    """The address that is paced: of IPv6 the network that one customer has."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network(f"{address}/64", strict=False))
    return host
