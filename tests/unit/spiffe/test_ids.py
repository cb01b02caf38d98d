"""Trust domains and SPIFFE IDs; the table of rejections is in tests/vectors/spiffeid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustfed.errors import Invalid
from trustfed.spiffe.ids import MAX_ID, SpiffeId, TrustDomain, shown

NAMES = st.from_regex(r"[a-z0-9._-]{1,255}", fullmatch=True).filter(lambda name: name not in {".", ".."})
SEGMENTS = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True).filter(lambda segment: segment not in {".", ".."})
PATHS = st.lists(SEGMENTS, max_size=8).map(lambda segments: "".join(f"/{segment}" for segment in segments))
HOME = TrustDomain("prod-us-west")


@given(NAMES, PATHS)
def test_what_is_written_reads_back(name: str, path: str) -> None:
    id_ = SpiffeId(TrustDomain(name), path)
    assert SpiffeId.parse(str(id_)) == id_
    assert TrustDomain.parse(id_.trust_domain.id) == TrustDomain.parse(name) == id_.trust_domain


@given(st.one_of(st.text(), st.text().map(lambda text: f"spiffe://{text}"), st.text("spife:/.%a-\n\0", min_size=9)))
def test_any_text_is_an_id_or_invalid(text: str) -> None:
    try:
        assert str(SpiffeId.parse(text)) == text
    except Invalid as invalid:
        assert invalid.message.isprintable()
        assert len(invalid.message) < 250


@pytest.mark.parametrize("text", [None, 5, b"spiffe://prod-us-west/a", ["spiffe://a/b"]])
def test_what_is_not_text_is_refused(text: object) -> None:
    for parse in (SpiffeId.parse, TrustDomain.parse):
        with pytest.raises(Invalid, match="not text"):
            parse(text)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="not text"):
        SpiffeId(HOME, text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["spiffe://prod-us-west/a", "spiffe://prod-us-west/", "prod-us-west/", "spiffe://"])
def test_a_trust_domain_has_no_path(text: str) -> None:
    with pytest.raises(Invalid, match="trust domain"):
        TrustDomain.parse(text)


def test_no_constructor_goes_round_the_grammar() -> None:
    with pytest.raises(Invalid, match="not lower case"):
        TrustDomain("Prod")
    with pytest.raises(Invalid, match="relative segment"):
        SpiffeId.of(HOME, "/a/../b")
    with pytest.raises(Invalid, match="does not start with /"):
        SpiffeId.of(HOME, "a")
    with pytest.raises(Invalid, match="longer than 2048"):
        SpiffeId.of(HOME, "/" + "a" * MAX_ID)


@pytest.mark.parametrize(
    ("path", "reserved"),
    [("/trustfed", True), ("/trustfed/agent/1", True), ("/trustfedx", False), ("/a/trustfed", False), ("", False)],
)
def test_reserved_paths(path: str, reserved: bool) -> None:
    assert SpiffeId.of(HOME, path).is_reserved is reserved


def test_ids_sort_and_hash() -> None:
    assert sorted([TrustDomain("b"), TrustDomain("a")]) == [TrustDomain("a"), TrustDomain("b")]
    assert len({SpiffeId.parse("spiffe://a/b"), SpiffeId.of(TrustDomain("a"), "/b")}) == 1
    assert SpiffeId.parse("spiffe://a/B") != SpiffeId.parse("spiffe://a/b")


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none()))
def test_shown_is_short_and_printable(value: object) -> None:
    assert len(shown(value)) <= 80
    assert shown(value).isprintable()
