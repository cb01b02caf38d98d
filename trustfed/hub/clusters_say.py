"""What a cluster says of itself beside its envelopes, judged before it is passed on: confirmations, and its bundle endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from trustfed.errors import Denied, Invalid
from trustfed.federation.confirmation import Confirmation, open_confirmation
from trustfed.federation.envelope import PublicationKey
from trustfed.hub.domains import enrolled
from trustfed.hub.events import EndpointsTold
from trustfed.hub.state import HubState
from trustfed.runtime.sockets import parse_url
from trustfed.spiffe.ids import TrustDomain

MAX_ENDPOINTS = 8
MAX_ENDPOINT = 300


def confirmed(state: HubState, domain: str, data: bytes, now: datetime) -> Confirmation | None:
    """A domain's confirmation of the bundle that the hub holds; None for another level, which says nothing to anybody.

    Raises Invalid, Denied for one that the domain's publication key did not sign.
    """
    record = enrolled(state, domain)
    said = open_confirmation(data, TrustDomain(domain), PublicationKey(record.publication_key), now)
    return said if (said.level.epoch, said.level.sequence) == (record.epoch, record.sequence) else None


def endpoints(state: HubState, domain: str, said: Sequence[str]) -> list[EndpointsTold]:
    """Where a domain's own bundle endpoints are, if that is news. Raises Invalid for what is no address."""
    if len(said) > MAX_ENDPOINTS or any(len(url) > MAX_ENDPOINT for url in said):
        raise Invalid(f"at most {MAX_ENDPOINTS} bundle endpoints of {MAX_ENDPOINT} characters", hint="advertise fewer")
    for url in said:
        parse_url(url)
    record = state.domains.get(domain)
    if record is None:
        raise Denied(f"trust domain {domain} is not enrolled here")
    return [] if tuple(said) == record.bundle_endpoints else [EndpointsTold(domain, list(said))]
