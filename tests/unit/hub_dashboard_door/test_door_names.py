"""Text that somebody else chose is inert on a page: nothing hidden, nothing reordered, nothing executed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from trustfed.hub.dashboard.names import LONG, WHOLE, name, shortened, visible, whole_name


@pytest.mark.parametrize(
    ("given_text", "seen"),
    [
        ("plain", "plain"),
        ("a\r\nSet-Cookie: x", "a\\u{000d}\\u{000a}Set-Cookie: x"),
        ("exe\u202egpj.txt", "exe\\u{202e}gpj.txt"),
        ("a\u2066b\u2069", "a\\u{2066}b\\u{2069}"),
        ("pay\u200bments", "pay\\u{200b}ments"),
        ("a\u00a0b", "a\\u{00a0}b"),
        ("a\u3164b", "a\\u{3164}b"),
        ("nul\x00", "nul\\u{0000}"),
        ("\U000e0041tag", "\\u{e0041}tag"),
        ("lone \ud800", "lone \\u{d800}"),
        ("grüße 漢字", "grüße 漢字"),
        ("z" + "\u0301" * 5, "z\u0301\u0301" + "\\u{0301}" * 3),
    ],
)
def test_what_cannot_be_seen_is_shown_by_its_number(given_text: str, seen: str) -> None:
    assert visible(given_text) == seen


def test_html_is_text() -> None:
    text = '<img src=x onerror="alert(1)">&\'"'
    assert name(text) == Markup('<bdi class="name">&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;&#39;&#34;</bdi>')
    # Not even text that says of itself that it is safe.
    assert "<script>" not in name(Markup("<script>"))
    assert "<script>" not in name(Markup("x" * 100 + "<script>"))


def test_long_names_keep_both_ends_and_say_the_whole_in_the_title() -> None:
    text = "spiffe://prod/" + "a" * 2000 + '/payments"api'
    shown = str(name(text))
    assert "spiffe://prod/aaa" in shown and "…" in shown and "payments&#34;api</bdi>" in shown
    assert shown.count(">") == 2 and len(shortened(text, LONG)) == LONG
    assert 'title="' + text.replace('"', "&#34;") + '"' in shown
    assert "…" not in whole_name("x" * 2048)


def test_nothing_is_longer_than_the_longest_name() -> None:
    assert len(visible("x" * 1_000_000)) == WHOLE
    assert len(name("\u202e" * 1_000_000)) < WHOLE * 20


@given(st.text(max_size=200))
def test_no_text_leaves_a_control_or_a_tag(text: str) -> None:
    seen = visible(text)
    assert not {unicodedata.category(c) for c in seen} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    body = str(name(text, 10_000)).removeprefix('<bdi class="name">').removesuffix("</bdi>")
    body = body.replace('<span class="escape">', "").replace("</span>", "")
    assert "<" not in body and ">" not in body and '"' not in body
