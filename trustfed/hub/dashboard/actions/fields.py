"""What actions ask for: trust domains, authorities, nodes, times. Each value is checked as if nobody had offered it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trustfed.errors import Invalid, NotFound
from trustfed.evidence.standing import Authority
from trustfed.hub.dashboard.actions.action import Field, Values
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.runtime.config import duration
from trustfed.spiffe.ids import TrustDomain, shown

MAX_OWNER = 256
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
_LIVES = {"1h": "1 hour", "4h": "4 hours", "24h": "1 day", "72h": "3 days", "7d": "7 days"}

Options = Sequence[tuple[str, str]]


def _domains(parts: DashboardParts, values: Values) -> Options:
    enrolled = (one.name for one in parts.hub.operations.state.domains.values() if one.status == "enrolled")
    return [(name, name) for name in sorted(enrolled)]


def _enrolled(parts: DashboardParts, text: str, values: Values) -> str:
    name = TrustDomain.parse(text).name
    state = parts.hub.operations.state
    if name == state.trust_domain:
        raise NotFound(
            f"{shown(name)} is the hub's own trust domain, which has no cluster",
            hint="its CA has actions of its own: open the list of actions",
        )
    known = state.domains.get(name)
    if known is None or known.status != "enrolled":
        raise NotFound(f"trust domain {shown(name)} is not enrolled", hint="choose one of the list")
    return name


def authorities(parts: DashboardParts, domain: str) -> Sequence[Authority]:
    """The authorities of a domain, as its cluster last told."""
    standing = parts.fleet.standing(domain) if domain in parts.fleet.names else None
    return standing.authorities if standing else ()


def _in_state(*states: str) -> Field:
    def options(parts: DashboardParts, values: Values) -> Options:
        found = authorities(parts, values.get("domain", ""))
        return [(one.id, f"{one.id} ({one.kind}, {one.state})") for one in found if one.state in states]

    def check(parts: DashboardParts, text: str, values: Values) -> str:
        if not _ID.fullmatch(text):
            raise Invalid(f"{shown(text)} is no authority's id", hint="choose one of the list")
        if text not in [one.id for one in authorities(parts, values["domain"]) if one.state in states]:
            raise NotFound(
                f"{values['domain']} has no authority {shown(text)} that is {' or '.join(states)}",
                hint="open the rollover board to see where it is",
            )
        return text

    return Field("authority", "Authority", options=options, check=check)


def _chosen(name: str, label: str, options: dict[str, str], note: str = "") -> Field:
    def check(parts: DashboardParts, text: str, values: Values) -> str:
        if text not in options:
            raise Invalid(f"{label.lower()} {shown(text)} is unknown", hint=f"one of: {', '.join(options)}")
        return text

    return Field(name, label, note, options=lambda parts, values: list(options.items()), check=check)


def _node(parts: DashboardParts, text: str, values: Values) -> str:
    if not _NODE.fullmatch(text):
        raise Invalid(f"{shown(text)} is no name of a node", hint="as `trustfed node list` shows it")
    return text


def _owner(parts: DashboardParts, text: str, values: Values) -> str:
    if not 1 <= len(text) <= MAX_OWNER or not text.isprintable():
        raise Invalid(f"owner {shown(text)} is not 1 to {MAX_OWNER} printable characters")
    return text


def _subject(parts: DashboardParts, text: str, values: Values) -> str:
    if len(text) > 2048 or not text.isprintable():
        raise Invalid(f"{shown(text)} is not one line of at most 2,048 printable characters")
    return text


def _life(parts: DashboardParts, text: str, values: Values) -> str:
    if text not in _LIVES:
        raise Invalid(f"an exception cannot end in {shown(text)}", hint=f"one of: {', '.join(_LIVES)}")
    duration(text)
    return text


def _entries(parts: DashboardParts, text: str, values: Values) -> str:
    ids = text.replace(",", " ").split()
    if len(ids) > 100 or not all(_ID.fullmatch(one) for one in ids):
        raise Invalid("these are no ids of entries", hint="at most 100, as `trustfed entry list` shows them")
    return " ".join(ids)


DOMAIN = Field("domain", "Trust domain", options=_domains, check=_enrolled)
ACTIVE_OR_LATER = _in_state("active", "retiring", "distributed", "prepared")
PREPARED = _in_state("prepared", "distributed")
KIND = _chosen("kind", "Kind of authority", {"x509": "X.509 authority", "jwt": "JWT signing key"})
NODE = Field("node", "Node", "Its name, as `trustfed node list` in its cluster shows it.", check=_node)
OWNER = Field("owner", "New owner", "Who answers for this trust domain: a team, not a person.", check=_owner)
SUBJECT = Field(
    "subject",
    "About",
    "A SPIFFE ID, a node or a class; empty for the whole trust domain.",
    optional=True,
    check=_subject,
)
UNTIL = Field("life", "Ends after", options=lambda parts, values: list(_LIVES.items()), check=_life)
ENTRIES = Field(
    "entries",
    "Entries",
    "Ids of entries, with spaces between them; empty for all of them.",
    optional=True,
    check=_entries,
)
