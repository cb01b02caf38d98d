"""The actions that a reader is offered beside a row: by role, and by what the row's cluster takes from its hub.

A template says `part.acts(offers("rotate repush", domain))`, with more values of the actions' fields by name. Who may only
look is offered nothing; the door asks again whoever follows a link (trustfed.hub.dashboard.action_pages).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from trustfed.evidence.standing import Authority
from trustfed.hub.dashboard.actions.catalogue import action_named
from trustfed.hub.dashboard.frame import PREFIX, Visit
from trustfed.hub.evidence.views import Raised

ORDERED = frozenset({"rotate", "refresh", "republish", "quarantine", "prepare", "activate", "pause", "resume", "taint"})
"""What a cluster does itself, if its configuration lets its hub order it (Standing.orders)."""

_BY_ALARM = {
    "life": "rotate",
    "burn": "rotate",
    "node": "quarantine",
    "unknown": "quarantine",
    "bundle": "refresh repush",
    "rollover": "activate resume",
}
"""What helps, by the first word of an alarm's code."""


@dataclass(frozen=True)
class Offer:
    """One link to an action, its form filled in. `daily` ones harm nobody, and one person does them."""

    title: str
    about: str
    href: str
    daily: bool


class Offers:
    """What one visitor is offered on one page."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._fleet, self._state = visit.parts.fleet, visit.parts.hub.operations.state

    def __call__(self, kinds: str, domain: str = "", **values: str) -> list[Offer]:
        """Of these kinds, those that this visitor may take and that this domain's cluster carries out."""
        if not self._visit.may("operator"):
            return []
        record = self._state.domains.get(domain)
        if domain and (record is None or record.status != "enrolled"):
            return []  # the hub's own row, and who only was invited
        standing = self._fleet.standing(domain) if domain in self._fleet.names else None
        takes = standing.orders if standing else ()
        made = []
        for kind in kinds.split():
            action = action_named(kind)
            if not self._visit.may(action.role) or (domain and kind in ORDERED and kind not in takes):
                continue
            known = {field.name for field in action.fields}
            given = {"domain": domain, **values}
            query = urlencode({name: text[:2_048] for name, text in given.items() if text and name in known})
            about = " ".join(text for text in given.values() if text)
            href = f"{PREFIX}/actions/{kind}" + (f"?{query}" if query else "")
            made.append(Offer(action.title, about, href, action.people == 1 and not action.danger))
        return made

    def alarm(self, one: Raised) -> list[Offer]:
        """What helps against an alarm; where nothing does, somebody may answer for it for a time."""
        subject = one.what.subject
        kinds = _BY_ALARM.get(one.what.code.partition("_")[0], "")
        named = {"node": subject, "authority": subject} if subject and "://" not in subject else {}
        found = self(kinds, one.trust_domain, **named) if one.trust_domain else []
        return found or (self("exception", one.trust_domain, subject=subject) if one.trust_domain else [])

    def authority(self, domain: str, one: Authority) -> list[Offer]:
        """What moves one authority on, or out."""
        kind = one.kind if one.kind in ("x509", "jwt") else ""
        match one.state:
            case "prepared" | "distributed":
                return self("activate resume" if one.paused else "activate pause", domain, authority=one.id, kind=kind)
            case "tainted":
                return self("rotate repush", domain)
            case "active":
                return self("prepare taint", domain, authority=one.id, kind=kind)
            case _:
                return []
