"""Which public keys each trust domain holds here, so that none speaks for two."""

from __future__ import annotations

from datetime import datetime

from trustfed.cluster.foreign import rules
from trustfed.cluster.foreign.rules import Holding
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.state import ClusterState, newest_roots

ROOT = "the federation's root"


class Holdings:
    """Reads each envelope once: opening hundreds for every fetch would cost a second of processor time."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[bytes, frozenset[str]]] = {}

    def held(self, state: ClusterState, name: str) -> frozenset[str]:
        """The keys held of this foreign peer; none before its first bundle."""
        assert state.domain is not None
        peer = state.peers.get(name)
        if peer is None or peer.key != state.domain.publication_key:
            return frozenset()
        return self._keys(name, peer.envelope, peer.key)

    def others(self, state: ClusterState, name: str, now: datetime) -> dict[str, Holding]:
        """The keys of every domain but `name`: this one, all that it imports, and the root set."""
        assert state.domain is not None
        envelopes = {state.trust_domain: (state.envelope, state.domain.publication_key)}
        for domain, grant in state.pins(now).items():
            peer = state.peers.get(domain)
            if peer is not None and peer.key == grant.exporter_key:
                envelopes[domain] = (peer.envelope, peer.key)
        self._read = {domain: read for domain, read in self._read.items() if domain in envelopes or domain == ROOT}
        found = {
            domain: Holding(self._keys(domain, data, key), peer=domain != state.trust_domain)
            for domain, (data, key) in envelopes.items()
            if domain != name and data
        }
        return {**found, ROOT: Holding(self._roots(state), peer=False)}

    def _keys(self, domain: str, data: bytes, key: bytes) -> frozenset[str]:
        held = self._read.get(domain)
        if held is None or held[0] is not data:
            held = (data, rules.keys_of(held_envelope(data, domain, key).bundle))
            self._read[domain] = held
        return held[1]

    def _roots(self, state: ClusterState) -> frozenset[str]:
        if not state.root_documents:
            return frozenset()
        held = self._read.get(ROOT)
        if held is None or held[0] is not state.root_documents[-1]:
            held = (state.root_documents[-1], frozenset(map(rules.certificate_key, newest_roots(state).roots)))
            self._read[ROOT] = held
        return held[1]
