"""From the fold to plain readers: bundles for the HTTPS endpoint, and the publisher's wishes for the target."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from bundle_publisher.documents import MAP, bundle_document, bundle_map, bundle_name
from bundle_publisher.publish import Publisher, Status
from bundle_publisher.targets.port import Document
from trustfed.errors import NotFound
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.hub.events import DomainRemoved, EnvelopeAccepted
from trustfed.hub.records import Domain
from trustfed.hub.state import HubState
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain, shown


@dataclass(frozen=True)
class _Held:
    position: int
    bundle: Bundle
    body: bytes


class Publication:
    """Knows every enrolled domain's bundle as its owner last signed it. A publisher is optional."""

    def __init__(self, publisher: Publisher | None) -> None:
        self._publisher = publisher
        self._held: dict[str, _Held] = {}
        self._map: Document | None = None

    def start(self, state: HubState) -> None:
        """Want everything as it is now, and nothing of removed domains."""
        for domain in state.domains.values():
            self._changed(domain)
        self._want_map()

    def on_event(self, event: msgspec.Struct, state: HubState) -> None:
        """Follow one event."""
        match event:
            case EnvelopeAccepted():
                self._changed(state.domains[event.domain])
            case DomainRemoved():
                self._changed(state.domains[event.name])
            case _:
                return
        self._want_map()

    def bundle(self, name: str) -> Document:
        """The bundle document of one domain; NotFound when there is none."""
        held = self._held.get(name)
        if held is None:
            raise NotFound(f"no bundle of trust domain {shown(name)} is published here")
        return bundle_document(held.bundle, held.body)

    def map(self) -> Document:
        """The bundle map of all domains."""
        if self._map is None:
            self._map = bundle_map(held.bundle for held in self._held.values())
        return self._map

    def status(self) -> list[Status]:
        """How each document stands at the target; empty when none is configured."""
        return self._publisher.status() if self._publisher else []

    def published(self, name: str) -> datetime | None:
        """When the newest bundle of a domain last reached the target; pollers can have it since then."""
        wanted = bundle_name(TrustDomain(name))
        return next((status.published for status in self.status() if status.name == wanted), None)

    def _changed(self, domain: Domain) -> None:
        name, trust_domain = bundle_name(TrustDomain(domain.name)), TrustDomain(domain.name)
        self._map = None
        if domain.status != "enrolled" or not domain.envelope:
            self._held.pop(domain.name, None)
            if self._publisher and domain.status == "removed":
                self._publisher.want(name, None)
            return
        envelope = open_envelope(domain.envelope, trust_domain, PublicationKey(domain.publication_key))
        held = _Held(domain.envelope_position, envelope.bundle, envelope.body)
        self._held[domain.name] = held
        if self._publisher:
            self._publisher.want(name, lambda: bundle_document(held.bundle, held.body))

    def _want_map(self) -> None:
        if self._publisher:
            # Taken when it is written, not now: a burst of changes makes one map.
            self._publisher.want(MAP, lambda: bundle_map([held.bundle for held in list(self._held.values())]))
