"""The rules of rotation success, followed twice by programs that share nothing, give the same numbers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.fakes.evidence_facts import MINUTE, START, History
from trustfed.errors import Invalid
from trustfed.evidence import auditor
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.pack import FORMAT, Manifest, Range
from trustfed.evidence.pack_figures import Tally, Window, computed, figures_of
from trustfed.evidence.pack_share import take
from trustfed.journal.events import Fact, canonical_fact

BUCKET = 5 * MINUTE


def both(history: History, as_of: int) -> tuple[Any, Any]:
    """The counts by ours, and by the second verifier's."""
    begin, end = START - START % BUCKET, START - START % BUCKET + 4_000 * MINUTE
    manifest = Manifest(
        FORMAT, "prod", begin, end, as_of, DEFINITION.hash, Range(1, 1), Range(1, len(history.facts)), ()
    )
    tally = computed(manifest, DEFINITION, enumerate(history.facts, start=1))
    ours = figures_of(manifest, DEFINITION, tally).counts
    fold = auditor.Fold(json.loads(DEFINITION.canonical()))
    for position, fact in enumerate(history.facts, start=1):
        fold.take(position, msgspec.to_builtins(fact))
    return ours, fold.counts(begin, end, as_of)


@pytest.mark.parametrize("seed", range(40))
def test_both_verifiers_count_the_same(seed: int) -> None:
    history = History(seed)
    last = history.facts[-1].at
    for as_of in (last, last + 60 * MINUTE, last + 3_000 * MINUTE):
        ours, theirs = both(history, as_of)
        assert ours == theirs
        assert sum(row["due"] for row in ours.values()) > 10
    assert seed or ours["leaf"]["recreated"]


@pytest.mark.parametrize("seed", range(8))
def test_shares_of_the_instances_are_the_whole(seed: int) -> None:
    """Three processes count what one counts: silences, ends, commands and the clock are everybody's."""
    history = History(seed, nodes=4, entries=4)
    begin, as_of = START - START % BUCKET, history.facts[-1].at + 3_000 * MINUTE
    whole, shares = Window("prod", DEFINITION, begin, as_of), Tally()
    for position, fact in enumerate(history.facts, start=1):
        whole.take(position, fact)
    lines = [canonical_fact(fact) for fact in history.facts]
    for share in range(3):
        window = Window("prod", DEFINITION, begin, as_of)
        for position, line in enumerate(lines, start=1):
            take(window, position, line, share, 3)
        found = window.tally(as_of)
        assert found.counts
        shares.add(found)
    assert shares == whole.tally(as_of)


def test_an_instance_that_is_two_to_shares_and_one_to_the_whole_is_refused() -> None:
    """1 and true are one key in memory, and two texts."""
    begin = START - START % BUCKET
    for odd in (1, True):
        window = Window("prod", DEFINITION, begin, begin + BUCKET)
        line = canonical_fact(Fact(START, "agent.loaded", "0a", {"instance": odd, "slot": "x509"}))
        with pytest.raises(Invalid, match="instance that is a number"):
            take(window, 1, line, 0, 3)
