"""The home bundle as our own doors believe it: without the anchors of external authorities.

Whoever holds the key that istiod signs with could otherwise call at the agents' door as any node. Workloads verify each other
with the whole bundle; this cluster hands out nothing to identities that it did not issue itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trustfed.cluster.istio_ca.external import twins_of
from trustfed.cluster.state import ClusterState
from trustfed.federation.envelope import Envelope
from trustfed.journal.fold import Fold
from trustfed.spiffe.bundle import Bundle


class Inside:
    """`bundle` gives the same object while it is the same bundle."""

    def __init__(self, envelope: Callable[[], Envelope], fold: Fold[ClusterState]) -> None:
        self._envelope, self._fold = envelope, fold
        self._made: tuple[Bundle, Bundle] | None = None

    def bundle(self) -> Bundle:
        """What a caller's SVID is verified with."""
        whole = self._envelope().bundle
        if self._made is None or self._made[0] is not whole:
            outside = twins_of(self._fold.state)
            own = tuple(der for der in whole.x509_authorities if der not in outside)
            self._made = (whole, replace(whole, x509_authorities=own) if outside else whole)
        return self._made[1]

    def anchors(self) -> tuple[bytes, ...]:
        """The same for TLS."""
        return self.bundle().x509_authorities
