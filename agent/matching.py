"""Which registration entries a process has, by what its attestors say of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from trustfed.errors import Invalid
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

MAX_SELECTORS = 64
MAX_SELECTOR = 2048
_COSTLY = frozenset({"unix:sha256"})
"""Kinds that are found out last, and only for a process that has all else of some entry: a file must be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One registration entry for this node: whoever has all its `selectors` is `spiffe_id`. TTLs in seconds."""

    id: str
    spiffe_id: SpiffeId
    selectors: frozenset[str]
    x509_ttl: int = 0
    jwt_ttl: int = 0
    dns_names: tuple[str, ...] = ()
    federates_with: tuple[TrustDomain, ...] = ()
    federates_with_all: bool = False  # every trust domain whose bundle the cluster sends
    hint: str = ""
    admin: bool = False
    expires_at: datetime | None = None
    created_at_ms: int = 0

    def __post_init__(self) -> None:
        what = f"entry {shown(self.id)}"
        if not self.id or len(self.id) > 128:
            raise Invalid(f"{what}: the id must have 1 to 128 characters")
        if not self.spiffe_id.path or self.spiffe_id.is_reserved:
            raise Invalid(f"{what}: {self.spiffe_id} is not the ID of a workload")
        # An entry without selectors would be everybody's.
        if not 1 <= len(self.selectors) <= MAX_SELECTORS:
            raise Invalid(f"{what}: {len(self.selectors)} selectors, not 1 to {MAX_SELECTORS}")
        for selector in self.selectors:
            if len(selector) > MAX_SELECTOR or not kind(selector):
                raise Invalid(f"{what}: a selector is not type:key:value of at most {MAX_SELECTOR} characters")


def kind(selector: str) -> str:
    """What a selector speaks about: `unix:uid` of `unix:uid:1000`; "" for what is no selector."""
    first, _, rest = selector.partition(":")
    second, colon, value = rest.partition(":")
    return f"{first}:{second}" if first and second and colon and value else ""


class Entries:
    """The entries of this node, ready to be matched: looked up by one selector each, compared by all."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._by_selector: dict[str, list[Entry]] = {}
        kinds: set[str] = set()
        behind: set[frozenset[str]] = set()
        for entry in sorted(entries, key=_order):
            kinds.update(map(kind, entry.selectors))
            others = frozenset(selector for selector in entry.selectors if kind(selector) not in _COSTLY)
            if others != entry.selectors:
                behind.add(others)
            self._by_selector.setdefault(_rarest(entry.selectors), []).append(entry)
        self.kinds = frozenset(kinds)
        """The kinds of selectors that occur at all: nothing else needs to be found out about a process."""
        self.cheap = self.kinds - _COSTLY
        """Those of them that are found out first."""
        self._behind = tuple(behind)

    def costly_counts(self, selectors: frozenset[str]) -> bool:
        """Whether a process with these cheap selectors may have an entry that asks for a costly one."""
        return any(others <= selectors for others in self._behind)

    def match(self, selectors: frozenset[str]) -> tuple[str, ...]:
        """The ids of the entries whose selectors are all among `selectors`, the oldest entry first."""
        found = [
            entry
            for selector in selectors
            for entry in self._by_selector.get(selector, ())
            if entry.selectors <= selectors
        ]
        found.sort(key=_order)
        return tuple(entry.id for entry in found)


def _order(entry: Entry) -> tuple[int, str]:
    return entry.created_at_ms, entry.id


def _rarest(selectors: frozenset[str]) -> str:
    """The selector an entry is found by: users and groups are shared by many, paths by few, hashes by one."""
    return max(selectors, key=lambda selector: (len(selector), selector))
