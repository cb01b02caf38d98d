"""From the fold to plain readers: bundles for the HTTPS endpoint, and the publisher's wishes for its targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from bundle_publisher import manifests
from bundle_publisher.documents import MAP, bundle_document, bundle_map, bundle_name, trust_domain_of
from bundle_publisher.publish import Publisher, Status, TargetStatus
from bundle_publisher.targets.port import Document
from trustfed.errors import NotFound
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.hub.events import DomainRemoved, EnvelopeAccepted, RolePublished
from trustfed.hub.manifest_files import ManifestFiles
from trustfed.hub.messages import Pushed
from trustfed.hub.protected import manifests_of
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

    def __init__(self, publisher: Publisher | None, manifest_files: ManifestFiles | None = None) -> None:
        self._publisher, self._manifests = publisher, manifest_files
        self._listed: dict[str, str] = {}  # domain → SHA-256 of its manifests
        self._held: dict[str, _Held] = {}
        self._map: Document | None = None

    def on_arrival(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the name of each trust domain whose bundle has reached a target."""
        if self._publisher:
            self._publisher.on_arrival(lambda document: _tell(document, listener))

    def start(self, state: HubState) -> None:
        """Want everything as it is now, and nothing of removed domains."""
        for domain in state.domains.values():
            self._changed(domain)
            self._manifests_changed(state, domain.name)
        if self._manifests:
            self._manifests.prune(self._listed.values())
        self._want_map()

    def on_event(self, event: msgspec.Struct, state: HubState) -> None:
        """Follow one event."""
        match event:
            case EnvelopeAccepted():
                self._changed(state.domains[event.domain])
            case DomainRemoved():
                self._changed(state.domains[event.name])
                self._manifests_changed(state, event.name)
            case RolePublished():
                self._manifests_changed(state, event.domain)
                return
            case _:
                return
        self._want_map()

    def again(self, domain: Domain) -> int:
        """Bring a domain's bundle, and the map, to every target once more; answers how many targets these are."""
        self._changed(domain)
        self._want_map()
        return len(self.targets())

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
        """How each document stands at each target; empty when none is configured."""
        return self._publisher.status() if self._publisher else []

    def targets(self) -> list[TargetStatus]:
        """How each target stands."""
        return self._publisher.targets() if self._publisher else []

    def published(self, name: str) -> datetime | None:
        """When a domain's newest bundle had reached every target: every poller can have it since then, whichever it asks.

        None while one target lacks it, and without targets.
        """
        return self._publisher.published(bundle_name(TrustDomain(name))) if self._publisher else None

    def pushed(self, domain: Domain) -> Pushed | None:
        """The same for the bundle that the journal has as the domain's newest; None without targets."""
        if self._publisher is None:
            return None
        held = self._held.get(domain.name)
        # The journal may be ahead of what was asked of the publisher: then nothing of it is published yet.
        wanted = held is not None and held.position == domain.envelope_position
        return Pushed(self.published(domain.name) if wanted else None)

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

    def _manifests_changed(self, state: HubState, name: str) -> None:
        """Plain readers get the manifests that the domain's newest role lists."""
        files, domain, listed = self._manifests, TrustDomain(name), manifests_of(state, name)
        if files is None or listed == self._listed.get(name):
            return
        before = self._listed.pop(name, None)
        if before is not None:
            files.drop(before)
        if listed is not None:
            self._listed[name] = listed
        if self._publisher is None:
            return
        plain, digest = manifests.names(domain)

        def read() -> bytes:
            data = files.read(listed) if listed else None
            if data is None:
                # Not Unavailable: that would say of the target that it is away, and slow every bundle down.
                raise NotFound(f"the manifests of {name} are not on this hub", hint="its cluster brings them again")
            return data

        self._publisher.want(plain, (lambda: manifests.document(domain, read())) if listed else None)
        self._publisher.want(digest, (lambda: manifests.digest_document(domain, read())) if listed else None)

    def _want_map(self) -> None:
        if self._publisher:
            # Taken when it is written, not now: a burst of changes makes one map.
            self._publisher.want(MAP, lambda: bundle_map([held.bundle for held in list(self._held.values())]))


def _tell(document: str, listener: Callable[[str], None]) -> None:
    name = trust_domain_of(document)
    if name is not None:
        listener(name)
