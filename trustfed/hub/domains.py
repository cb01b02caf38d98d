"""Who is in the federation: decisions about trust domains. Pure: state, command and time give events, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation.envelope import Envelope, Level, PublicationKey, open_envelope
from trustfed.hub.events import (
    DomainEnrolled,
    DomainInvited,
    DomainRemoved,
    EnvelopeAccepted,
    GrantEnded,
    HubEvent,
    IntermediateRevoked,
    IntermediateSigned,
)
from trustfed.hub.records import Domain, Intermediate
from trustfed.hub.state import HubState
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.certificate import serial_said
from trustfed.spiffe.ids import TrustDomain, shown

MAX_DOMAINS = 10_000
MAX_SUFFIXES = 16
MAX_TOKEN_LIFE = timedelta(days=30)
MAX_TEXT = 256
MAX_INTERMEDIATES = 64
"""Valid ones of one domain: a cluster that asks for more is ill, or in wrong hands."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Invite:
    """Let a newcomer enrol as `name`; only the hash of its token is known here."""

    name: TrustDomain
    owner: str
    dns_suffixes: tuple[str, ...]
    token_hash: str
    expires: datetime
    simulated: bool = False


@dataclass(frozen=True)
class Enrol:
    """What a newcomer presented, its signatures verified already; `signed` is its first intermediate."""

    token_hash: str
    key: PublicationKey
    authority: str
    csr_hash: str
    envelope: bytes


def invite(state: HubState, command: Invite, now: datetime) -> list[HubEvent]:
    """Give out the one token that enrols `command.name`; an earlier one that was not used opens nothing any more."""
    name = command.name.name
    if name == state.trust_domain:
        raise Conflict(f"{name} is the hub's own trust domain", hint="choose another name")
    known = state.domains.get(name)
    if known and known.status == "enrolled":
        raise Conflict(f"trust domain {name} is enrolled already", hint="remove it first, if it is to start anew")
    if known is None and len(state.domains) >= MAX_DOMAINS:
        raise Conflict(f"this hub holds {MAX_DOMAINS} trust domains, and no more")
    if not command.owner or len(command.owner) > MAX_TEXT or not command.owner.isprintable():
        raise Invalid(f"owner {shown(command.owner)} is not 1 to {MAX_TEXT} printable characters")
    if not now < command.expires <= now + MAX_TOKEN_LIFE:
        raise Invalid("an enrolment token lives for more than nothing and at most 30 days", hint="choose another --ttl")
    suffixes = check_suffixes(command.dns_suffixes)
    for other in state.domains.values():
        if other.name != name and other.status != "removed":
            _check_apart(suffixes, other)
    ends = to_ms(command.expires)
    return [DomainInvited(name, command.owner, list(suffixes), command.token_hash, ends, command.simulated)]


def check_suffixes(suffixes: Sequence[str]) -> tuple[str, ...]:
    """The DNS suffixes (RFC 1123 names, lower case, no wildcard, at most 16), or Invalid naming the faulty one."""
    if len(suffixes) > MAX_SUFFIXES:
        raise Invalid(f"{len(suffixes)} DNS suffixes are too many", hint=f"at most {MAX_SUFFIXES}")
    for suffix in suffixes:
        if len(suffix) > 253 or not all(_LABEL.fullmatch(label) for label in suffix.split(".")):
            raise Invalid(f"DNS suffix {shown(suffix)} is not a DNS name", hint="a name such as west.example.com")
    return tuple(dict.fromkeys(suffixes))


def invited(state: HubState, token_hash: str, now: datetime) -> Domain:
    """The domain that a token enrols: Denied when the token is unknown or expired (the two are told apart)."""
    name = state.invitations.get(token_hash)
    domain = state.domains.get(name) if name else None
    if domain is None:
        raise Denied("this enrolment token is not known here", hint="ask the hub's operator for a new one")
    if domain.token_expires_ms <= to_ms(now):
        raise Denied(f"the enrolment token of {domain.name} has expired", hint="ask the hub's operator for a new one")
    return domain


def repeated(domain: Domain, command: Enrol) -> bool:
    """Whether this very newcomer enrolled already: it gets the same answer. Denied when another key used the token."""
    if domain.status != "enrolled":
        return False
    if domain.publication_key != command.key.spki:
        raise Denied(
            f"the enrolment token of {domain.name} was used with another publication key",
            hint="if that was not you, have the domain removed and invited again",
        )
    if domain.first_csr_hash != command.csr_hash:
        raise Conflict(
            f"{domain.name} enrolled already with another authority", hint="ask for further authorities as a cluster"
        )
    return True


def enrol(state: HubState, command: Enrol, signed: IntermediateSigned, now: datetime) -> list[HubEvent]:
    """Bind the token to the newcomer's key; the same key again changes nothing, any other is Denied."""
    domain = invited(state, command.token_hash, now)
    if repeated(domain, command):
        return []
    first = open_envelope(command.envelope, TrustDomain(domain.name), command.key, after=level_of(domain))
    return [
        DomainEnrolled(
            name=domain.name,
            token_hash=command.token_hash,
            publication_key=command.key.spki,
            authority=command.authority,
            csr_hash=command.csr_hash,
            at_ms=to_ms(now),
        ),
        signed,
        _accepted(first),
    ]


def enrolled(state: HubState, name: str) -> Domain:
    """The domain, if it takes part: NotFound when unknown, Denied when removed, Conflict when only invited."""
    domain = state.domains.get(name)
    if domain is None:
        raise NotFound(f"trust domain {shown(name)} is not registered", hint="trustfed domain list")
    if domain.status == "removed":
        raise Denied(f"trust domain {name} was removed from the federation: {domain.removed_reason}")
    if domain.status != "enrolled":
        raise Conflict(f"trust domain {name} is invited, but has not enrolled yet")
    return domain


def level_of(domain: Domain) -> Level | None:
    """The highest level ever accepted under this name."""
    return Level(TrustDomain(domain.name), domain.epoch, domain.sequence) if domain.epoch else None


def accept_envelope(state: HubState, name: str, data: bytes) -> list[HubEvent]:
    """Record a domain's next envelope; the one that is held changes nothing, what does not continue is Denied."""
    domain = enrolled(state, name)
    trust_domain, key = TrustDomain(name), PublicationKey(domain.publication_key)
    held = open_envelope(domain.envelope, trust_domain, key)
    if data == domain.envelope:
        return []
    found = open_envelope(data, trust_domain, key, after=held)
    return [] if found is held else [_accepted(found)]


def known_intermediate(state: HubState, name: str, csr_hash: str, now: datetime) -> Intermediate | None:
    """What the active root signed for this very request, unless it was revoked or has expired."""
    for signed in state.signed_for(name):
        if (
            signed.csr_hash == csr_hash
            and signed.root == state.active_root.key_name
            and not signed.revoked_ms
            and signed.not_after_ms > to_ms(now)
        ):
            return signed
    return None


def check_may_sign(state: HubState, name: str, now: datetime) -> Domain:
    """The domain, if it takes part and has not collected too many intermediates that are still valid."""
    domain = enrolled(state, name)
    live = sum(1 for signed in state.signed_for(name) if signed.not_after_ms > to_ms(now) and not signed.revoked_ms)
    if live >= MAX_INTERMEDIATES:
        raise Conflict(f"{name} has {live} valid intermediates, and gets no more", hint="revoke what is not used")
    return domain


def record_intermediate(state: HubState, signed: IntermediateSigned, now: datetime) -> list[HubEvent]:
    """Record a further intermediate of a domain that still takes part."""
    check_may_sign(state, signed.domain, now)
    return [signed]


def remove(state: HubState, name: str, reason: str, now: datetime) -> list[HubEvent]:
    """Take a domain out: its open grants end and its intermediates are revoked in the same step."""
    domain = state.domains.get(name)
    if domain is None:
        raise NotFound(f"trust domain {shown(name)} is not registered", hint="trustfed domain list")
    if domain.status == "removed":
        return []
    at = to_ms(now)
    events: list[HubEvent] = [DomainRemoved(name, check_reason(reason), at)]
    for grant in state.grants_with(name):
        if grant.status != "ended":
            events.append(GrantEnded(grant.id, "hub", f"trust domain {name} was removed", at))
    for signed in state.signed_for(name):
        if not signed.revoked_ms and signed.not_after_ms > at:
            events.append(IntermediateRevoked(signed.serial, "cessationOfOperation", at))
    return events


def intermediate(state: HubState, serial: str) -> Intermediate:
    """The intermediate with this serial, as the hub or OpenSSL writes it. Raises NotFound."""
    signed = state.intermediates.get(serial) or state.intermediates.get(serial_said(serial))
    if signed is None:
        raise NotFound(f"no intermediate has the serial {shown(serial)}", hint="trustfed domain show lists them")
    return signed


def revoke(state: HubState, serial: str, reason: str, now: datetime) -> list[HubEvent]:
    """Put one intermediate onto the CRL; twice is no error."""
    signed = intermediate(state, serial)
    if signed.revoked_ms:
        return []
    return [IntermediateRevoked(signed.serial, reason, to_ms(now))]


def check_reason(reason: str) -> str:
    """A reason fit for the journal, or Invalid."""
    if not reason or len(reason) > 1024 or not reason.isprintable():
        raise Invalid("a reason is needed: one line of at most 1,024 characters", hint="--reason TEXT")
    return reason


def _accepted(envelope: Envelope) -> EnvelopeAccepted:
    level = envelope.level
    return EnvelopeAccepted(level.trust_domain.name, level.epoch, level.sequence, envelope.data)


def _check_apart(suffixes: Sequence[str], other: Domain) -> None:
    for mine in suffixes:
        for theirs in other.dns_suffixes:
            if mine == theirs or mine.endswith("." + theirs) or theirs.endswith("." + mine):
                raise Conflict(f"DNS suffix {mine} overlaps {theirs}, which belongs to {other.name}")
