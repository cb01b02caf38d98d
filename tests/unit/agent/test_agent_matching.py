"""Matching: whoever has all selectors of an entry, and nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.matching import Entries, Entry, kind
from trustfed.errors import Invalid
from trustfed.spiffe.ids import SpiffeId

SELECTORS = [f"unix:{name}:{value}" for name in ("uid", "gid", "path") for value in ("1", "2", "/bin/x")]
some = st.frozensets(st.sampled_from(SELECTORS), min_size=1, max_size=4)


def entry(id_: str, selectors: frozenset[str], created: int = 0, path: str = "/web") -> Entry:
    return Entry(id_, SpiffeId.parse(f"spiffe://east.test{path}"), selectors, created_at_ms=created)


@given(st.lists(st.tuples(some, st.integers(0, 3)), max_size=12), st.frozensets(st.sampled_from(SELECTORS)))
def test_matches_are_exactly_the_subsets_in_order_of_creation(
    made: list[tuple[frozenset[str], int]], has: frozenset[str]
) -> None:
    entries = [entry(f"e{index:02}", selectors, created) for index, (selectors, created) in enumerate(made)]
    expected = sorted((e for e in entries if e.selectors <= has), key=lambda e: (e.created_at_ms, e.id))
    matching = Entries(entries)
    assert matching.match(has) == tuple(e.id for e in expected)
    assert matching.kinds == {kind(s) for e in entries for s in e.selectors}


@pytest.mark.parametrize(
    ("selectors", "path"),
    [
        (frozenset(), "/web"),
        (frozenset({"unix:uid"}), "/web"),
        (frozenset({"nothing"}), "/web"),
        (frozenset({"unix:uid:"}), "/web"),
        (frozenset({"unix:path:" + "x" * 3000}), "/web"),
        (frozenset({"unix:uid:1"}), ""),
        (frozenset({"unix:uid:1"}), "/trustfed/cluster"),
    ],
)
def test_entry_that_would_be_wrong_is_refused(selectors: frozenset[str], path: str) -> None:
    with pytest.raises(Invalid):
        entry("e", selectors, path=path)
