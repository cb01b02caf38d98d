"""Decisions about keys and access, found in a journal: who asked, who agreed, and where the glass was broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trustfed.evidence.compliance.data import MAX_LISTED, Change
from trustfed.journal.events import Recorded

_OF_INTEREST = (
    "authority.",
    "root.",
    "intermediate.",
    "domain.",
    "token.",
    "api_token.",
    "login.",
    "node.banned",
    "grant.",
)
_OF_POLICY = ("cluster", "hub")
"""Actors that are no person: the lifecycle itself."""


class Decisions:
    """Takes the events of a journal in order; `found` are those of a window."""

    def __init__(self, trust_domain: str, from_ms: int, to_ms: int) -> None:
        self._domain, self._from_ms, self._to_ms = trust_domain, from_ms, to_ms
        self._proposed: dict[str, tuple[str, str]] = {}
        self._group: list[Recorded] = []
        self.found: list[Change] = []
        self.read = 0

    def take(self, records: Iterable[Recorded]) -> None:
        """The next events: those of one command belong together."""
        for one in records:
            self.read += 1
            if self._group and one.event.command_id != self._group[0].event.command_id:
                self._close()
            self._group.append(one)

    def end(self) -> tuple[Change, ...]:
        """All that was found, newest last; at most 10,000, the newest."""
        self._close()
        return tuple(self.found[-MAX_LISTED:])

    def _close(self) -> None:
        group, self._group = self._group, []
        if not group:
            return
        asked, agreed, broken = group[0].event.actor, "", False
        for one in group:
            body = one.event.body
            if one.event.kind == "proposal.made":
                self._proposed[body["id"]] = (body["by"], body["reason"])
            elif one.event.kind == "proposal.approved":
                asked, agreed = self._proposed.pop(body["id"], (asked, ""))[0], body["by"]
            elif one.event.kind == "glass.broken":
                asked, broken = body["by"], True
        if not self._from_ms <= group[0].event.at < self._to_ms:
            return
        self.found += self._changes(group, asked, agreed, broken)

    def _changes(self, group: Sequence[Recorded], asked: str, agreed: str, broken: bool) -> list[Change]:
        return [
            Change(self._domain, one.position, one.event.at, one.event.kind, asked, agreed, one.event.reason, broken)
            for one in group
            if one.event.kind.startswith(_OF_INTEREST) or one.event.kind == "glass.broken"
        ]


def by_policy(actor: str) -> bool:
    """Whether no person decided this: the lifecycle did, by its policy."""
    return actor in _OF_POLICY
