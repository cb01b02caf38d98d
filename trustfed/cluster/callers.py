"""Who calls at the gRPC door: the SVID behind a connection, verified in the home domain's bundle and in no other.

TLS has proved possession of the key and a path to some anchor; which SPIFFE ID that is, and that it holds now, is decided here,
for each call. What was verified once is remembered as long as the bundle is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_server import peer_certificate
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.verify import verify_x509_svid
from trustfed.spiffe.x509svid import X509Svid

_REMEMBERED = 10_000


class Callers:
    """`bundle` is the home bundle of this moment: the same object while it is the same bundle."""

    def __init__(self, bundle: Callable[[], Bundle], clock: Clock) -> None:
        self._bundle, self._clock = bundle, clock
        self._verified: dict[bytes, tuple[Bundle, X509Svid]] = {}

    def svid(self, context: Any) -> X509Svid:
        """The caller's SVID. Raises Invalid, Denied: no certificate, another domain's, not valid now."""
        bundle, now = self._bundle(), self._clock.now()
        digest = hashlib.sha256(b"".join(context.auth_context().get("x509_pem_cert", ()))).digest()
        known = self._verified.get(digest)
        if known is None or known[0] is not bundle or not known[1].not_before <= now < known[1].not_after:
            known = bundle, verify_x509_svid([peer_certificate(context)], bundle, now)
            if len(self._verified) >= _REMEMBERED:
                self._verified.clear()
            self._verified[digest] = known
        return known[1]
