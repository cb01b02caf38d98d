"""Serialized answers of the Workload API for one set of entries, made when first asked for, then only handed out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trustfed.proto import workload_pb2 as pb
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

if TYPE_CHECKING:
    from agent.store import Store

X509_SVIDS = "x509_svids"
X509_BUNDLES = "x509_bundles"
JWT_BUNDLES = "jwt_bundles"

_NEVER = datetime.max.replace(tzinfo=UTC)


class Answers:
    """The answers for one set of entries. A changed answer is a new object; what did not change stays the same one."""

    __slots__ = ("_before", "_made", "_store", "at", "held", "ids", "until")

    def __init__(self, ids: tuple[str, ...], store: Store) -> None:
        self.ids = ids
        self.at = datetime.min.replace(tzinfo=UTC)
        """What time it was when they were last asked for: nothing is put into an answer that had ended by then."""
        self.until = _NEVER
        """When the first SVID in the present answer ends: then it must not be given any more."""
        self.held: tuple[tuple[str, str], ...] = ()
        """Entry and serial of each SVID in the present answer."""
        self._store = store
        self._made: dict[str, bytes | None] = {}
        self._before: dict[str, bytes | None] = {}

    def get(self, kind: str) -> bytes | None:
        """The message of one kind; None if no SVID, or no home bundle, is there to be served."""
        try:
            return self._made[kind]
        except KeyError:
            made = _MAKERS[kind](self)
            if made is not None and made == self._before.get(kind):
                made = self._before[kind]
            self._made[kind] = made
            return made

    def forget(self) -> None:
        """Something changed: make them anew when asked."""
        self._before.update(self._made)
        self._made.clear()
        self.until = _NEVER

    def forget_svids(self) -> None:
        """An SVID changed or ended."""
        if X509_SVIDS in self._made:
            self._before[X509_SVIDS] = self._made.pop(X509_SVIDS)
        self.until = _NEVER

    def domains(self) -> list[TrustDomain]:
        """Home and the trust domains that these entries federate with, as far as a bundle is held and not CLOSED."""
        store = self._store
        wanted = {store.trust_domain: None}
        for id_ in self.ids:
            entry = store.entries[id_]
            wanted.update(dict.fromkeys(sorted(store.bundles) if entry.federates_with_all else entry.federates_with))
        return [domain for domain in wanted if domain in store.bundles and domain not in store.closed]

    def bundles(self) -> Mapping[TrustDomain, Bundle]:
        """The bundles that a process with these entries may verify with."""
        return {domain: self._store.bundles[domain].bundle for domain in self.domains()}

    def _x509_svids(self) -> bytes | None:
        store = self._store
        home = store.bundles.get(store.trust_domain)
        served = ((store.entries[id_], store.served(id_)) for id_ in self.ids)
        held = [(entry, svid) for entry, svid in served if svid is not None and svid.not_after > self.at]
        if home is None or not held:
            return None
        self.until = min(svid.not_after for _, svid in held)
        self.held = tuple((entry.id, svid.serial) for entry, svid in held)
        anchors = b"".join(home.bundle.x509_authorities)
        message = pb.X509SVIDResponse()
        for entry, svid in held:
            message.svids.add(
                spiffe_id=str(entry.spiffe_id),
                x509_svid=b"".join(svid.chain),
                x509_svid_key=svid.key,
                bundle=anchors,
                hint=entry.hint,
            )
        for domain, bundle in self.bundles().items():
            # A domain without authorities believes in nothing: to leave it out says the same to every reader.
            if domain != store.trust_domain and bundle.x509_authorities:
                message.federated_bundles[domain.id] = b"".join(bundle.x509_authorities)
        return _bytes(message)

    def _x509_bundles(self) -> bytes | None:
        if self._store.trust_domain not in self._store.bundles:
            return None
        message = pb.X509BundlesResponse()
        for domain, bundle in self.bundles().items():
            if bundle.x509_authorities:
                message.bundles[domain.id] = b"".join(bundle.x509_authorities)
        return _bytes(message)

    def _jwt_bundles(self) -> bytes | None:
        if self._store.trust_domain not in self._store.bundles:
            return None
        message = pb.JWTBundlesResponse()
        for domain, bundle in self.bundles().items():
            # Only the keys that sign JWT-SVIDs: readers take every key of this document for one (go-spiffe does).
            message.bundles[domain.id] = Bundle(domain, (), bundle.jwt_authorities).marshal()
        return _bytes(message)


def _bytes(message: pb.X509SVIDResponse | pb.X509BundlesResponse | pb.JWTBundlesResponse) -> bytes:
    """One spelling per content: maps in order, so that an unchanged answer is seen to be unchanged."""
    return message.SerializeToString(deterministic=True)


_MAKERS = {X509_SVIDS: Answers._x509_svids, X509_BUNDLES: Answers._x509_bundles, JWT_BUNDLES: Answers._jwt_bundles}
