"""When the generation must rise: where going back to what was kept before would be unsafe. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from agent.cache.port import Kept
from agent.matching import Entry
from agent.store import HeldBundle
from trustfed.spiffe.ids import TrustDomain

FLOOR_STEP = timedelta(minutes=1)
"""The time floor alone makes the generation rise at most so often, as it goes by."""


def unsafe_to_go_back(before: Kept, after: Kept, floor: datetime) -> bool:
    """Whether `before` in the place of `after` would give somebody what `after` denies, or time back.

    `floor` is the time floor at the last rise.
    """
    # 6. Time that has passed.
    return denies(before, after) or after.floor >= floor + FLOOR_STEP


def denies(before: Kept, after: Kept) -> bool:
    """Whether `after` denies somebody what `before` gave: a start from `before` would take a decision back."""
    return (
        # 1. A ban.
        (after.banned != before.banned and bool(after.banned))
        # 2. An entry that was removed, or says something else: its old selectors may be had by others.
        or _entries_left(before.entries, after.entries)
        # 3. An authority whose SVIDs were ordered to be replaced.
        or not set(after.retired) <= set(before.retired)
        # 4. A bundle that is gone, has another level, or is pinned by another key.
        or _bundles_left(before.bundles, after.bundles)
        # 5. Less time for a stale bundle.
        or _limits_shortened(before.stale_limits, after.stale_limits)
    )


def _entries_left(before: tuple[Entry, ...], after: tuple[Entry, ...]) -> bool:
    now = {entry.id: entry for entry in after}
    for old in before:
        new = now.get(old.id)
        # The hint and the TTLs deny nothing.
        if new is not old and (
            new is None or replace(old, hint=new.hint, x509_ttl=new.x509_ttl, jwt_ttl=new.jwt_ttl) != new
        ):
            return True
    return False


def _bundles_left(before: tuple[HeldBundle, ...], after: tuple[HeldBundle, ...]) -> bool:
    now = {held.bundle.trust_domain: held for held in after}
    for old in before:
        new = now.get(old.bundle.trust_domain)
        if new is None or (new is not old and (new.envelope.level, new.key) != (old.envelope.level, old.key)):
            return True
    return False


def _limits_shortened(before: Mapping[TrustDomain, timedelta], after: Mapping[TrustDomain, timedelta]) -> bool:
    return any(domain in before and limit < before[domain] for domain, limit in after.items())
