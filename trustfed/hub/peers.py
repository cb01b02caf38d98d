"""Who is at the other end of a cluster's connection: TLS found a path to some root, this finds its one domain.

1. the connection shows a certificate
2. its SPIFFE ID is a cluster's control plane, /trustfed/cluster
3. that trust domain is enrolled here, and was not removed
4. the certificate verifies, now, against that one domain's newest envelope and nothing else
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.federation.names import CLUSTER_PATH, is_cluster
from trustfed.hub.domains import enrolled
from trustfed.hub.state import HubState
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.verify import verify_x509_svid
from trustfed.spiffe.x509svid import X509Svid, parse_leaf

MAX_CACHED = 4_096


class Unauthenticated(Denied):
    """Nobody knows who this is; Denied alone means that it is known, and may not."""


@dataclass(frozen=True)
class _Seen:
    svid: X509Svid
    envelope_position: int


class Peers:
    """Verifies clusters; what was verified is remembered until it expires or its domain's bundle changes."""

    def __init__(self, state: Callable[[], HubState]) -> None:
        self._state = state
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._bundles: dict[str, tuple[int, Bundle]] = {}

    def verify(self, certificate_pem: bytes | None, now: datetime) -> X509Svid:
        """The cluster's SVID. Raises Unauthenticated (1, 4) or Denied (2, 3)."""
        if not certificate_pem:  # 1
            raise Unauthenticated("no client certificate was presented", hint="clusters connect with their SVID")
        fingerprint = hashlib.sha256(certificate_pem).digest()
        seen = self._seen.get(fingerprint)
        if seen and self._still_holds(seen, now):
            return seen.svid
        svid = self.check(_leaf(certificate_pem), now)
        self._seen[fingerprint] = _Seen(svid, self._state().domains[svid.id.trust_domain.name].envelope_position)
        if len(self._seen) > MAX_CACHED:
            self._seen.popitem(last=False)
        return svid

    def check(self, leaf: bytes, now: datetime) -> X509Svid:
        """The same for a certificate in DER, whatever was remembered."""
        try:
            identity = parse_leaf(leaf).id
        except Invalid as invalid:
            raise Unauthenticated(f"the client certificate is no X509-SVID: {invalid.message}") from None
        if not is_cluster(identity):  # 2
            raise Denied(
                f"{identity} may not speak for its trust domain here", hint=f"only {CLUSTER_PATH} of a domain may"
            )
        try:
            domain = enrolled(self._state(), identity.trust_domain.name)  # 3
        except TrustfedError as error:
            raise Denied(error.message, hint=error.hint) from None
        bundle = self._bundle(domain.name, domain.envelope_position, domain.envelope, domain.publication_key)
        try:
            return verify_x509_svid([leaf], bundle, now)  # 4
        except TrustfedError as error:
            raise Unauthenticated(error.message, hint=error.hint) from None

    def _still_holds(self, seen: _Seen, now: datetime) -> bool:
        domain = self._state().domains[seen.svid.id.trust_domain.name]
        return (
            domain.status == "enrolled"
            and domain.envelope_position == seen.envelope_position
            and seen.svid.not_before <= now <= seen.svid.not_after
        )

    def _bundle(self, name: str, position: int, envelope: bytes, key: bytes) -> Bundle:
        held = self._bundles.get(name)
        if held is None or held[0] != position:
            held = (position, open_envelope(envelope, TrustDomain(name), PublicationKey(key)).bundle)
            self._bundles[name] = held
        return held[1]


def _leaf(certificate_pem: bytes) -> bytes:
    try:
        return x509.load_pem_x509_certificate(certificate_pem).public_bytes(Encoding.DER)
    except ValueError:
        raise Unauthenticated("the client certificate cannot be read") from None
