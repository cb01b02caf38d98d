"""The hub's records as messages of the federation's wire (trustfed/proto/federation.proto)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trustfed.federation.confirmation import Confirmation
from trustfed.federation.envelope import Level
from trustfed.hub.records import Crl, Domain
from trustfed.hub.records import Grant as GrantRecord
from trustfed.hub.state import HubState
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.timestamps import to_ms


@dataclass(frozen=True)
class Reported:
    """How far an importer is with one exporter's bundle; `live_until_ms` is the end of the importer's own SVID."""

    level: Level | None
    live_until_ms: int
    laggards: tuple[str, ...] = ()
    laggard_count: int = 0


@dataclass(frozen=True)
class Pushed:
    """When a domain's newest bundle had reached every place that is polled; None: not yet."""

    at: datetime | None


def grant_message(state: HubState, record: GrantRecord) -> pb.Grant:
    """A grant, with the exporter's publication key as the hub knows it."""
    exporter = state.domains.get(record.exporter)
    return pb.Grant(
        id=record.id,
        importer=record.importer,
        exporter=record.exporter,
        state=record.status,
        from_ms=record.from_ms,
        until_ms=record.until_ms,
        reason=record.reason,
        exporter_publication_key=exporter.publication_key if exporter else b"",
        ended_reason=record.ended_reason,
    )


def grant(state: HubState, record: GrantRecord) -> pb.FromHub:
    """One grant as it is now."""
    return pb.FromHub(grant=grant_message(state, record))


def envelope(domain: Domain) -> pb.FromHub:
    """A peer's newest envelope, byte for byte, and where that peer itself serves it."""
    endpoints = domain.bundle_endpoints
    return pb.FromHub(
        envelope=pb.PeerEnvelope(trust_domain=domain.name, envelope=domain.envelope, bundle_endpoints=endpoints)
    )


def confirmations(said: Sequence[Confirmation]) -> pb.FromHub:
    """What some peers said of their newest bundles, byte for byte."""
    peers = [pb.PeerConfirmation(trust_domain=one.level.trust_domain.name, confirmation=one.data) for one in said]
    return pb.FromHub(confirmations=pb.Confirmations(peers=peers))


def root_documents(documents: Sequence[bytes]) -> pb.FromHub:
    """The root set documents that the reader lacks, in order."""
    return pb.FromHub(root_set=pb.RootSet(documents=documents))


def crl(held: Crl) -> pb.FromHub:
    """A root's newest CRL."""
    return pb.FromHub(crl=held.certificate_list)


def stored(domain: Domain, pushed: Pushed | None) -> pb.FromHub:
    """The highest level of the reader's own domain that the hub holds, durably, and when polled places had it."""
    said = pb.EnvelopeStored(level=_level(domain.name, domain.epoch, domain.sequence), publishes=pushed is not None)
    if pushed is not None and pushed.at is not None:
        said.published_at_ms = to_ms(pushed.at)
    return pb.FromHub(stored=said)


def consumer(importer: str, exporter: str, said: Reported) -> pb.FromHub:
    """How far one importer is; level 0.0 means that it is connected and holds nothing yet."""
    level = said.level
    return pb.FromHub(
        consumer=pb.ConsumerLevel(
            importer=importer,
            level=_level(exporter, level.epoch, level.sequence) if level else _level(exporter, 0, 0),
            live_until_ms=said.live_until_ms,
            laggards=said.laggards,
            laggard_count=said.laggard_count,
        )
    )


def _level(domain: str, epoch: int, sequence: int) -> pb.Level:
    return pb.Level(trust_domain=domain, epoch=epoch, sequence=sequence)
