"""Charts: figures in, inert SVG out, readable at any size and without colour."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from markupsafe import Markup

from tests.fakes.fleet_standings import HOSTILE, HOUR
from trustfed.hub.dashboard.charts.runs import Hour, bar, mosaic, runway, sparkline
from trustfed.hub.dashboard.charts.svg import Kind, mark, marks, table, tag
from trustfed.hub.dashboard.charts.timeline import STEPS, Life, Step, timeline
from trustfed.hub.dashboard.charts.trust_map import MATRIX, WHEEL, Link, Node, trust_map

NOW = 1_790_000_000_000


def parsed(markup: Markup) -> ET.Element:
    """The chart as a parser of XML sees it: it is well-formed, and has nothing that runs."""
    assert isinstance(markup, Markup)
    root = ET.fromstring(f"<all>{markup}</all>")
    for element in root.iter():
        assert element.tag not in ("script", "style", "foreignObject", "image", "a"), element.tag
        assert not any(name == "style" or name.startswith("on") for name in element.attrib), element.attrib
    return root


def named(root: ET.Element) -> ET.Element:
    """The drawing, with a name and a description that exist."""
    svg = next(one for one in root.iter("svg") if one.get("role") == "img")
    ids = {one.get("id"): one for one in root.iter() if one.get("id")}
    for name in svg.attrib["aria-labelledby"].split():
        assert "".join(ids[name].itertext()).strip()
    return svg


def test_attributes_and_text_are_escaped() -> None:
    made = tag("text", "<b>", class_='"><script>', text_anchor="end")
    assert str(made) == '<text class="&#34;&gt;&lt;script&gt;" text-anchor="end">&lt;b&gt;</text>'


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_inert_in_every_chart(text: str) -> None:
    life = Life(text, NOW - HOUR, NOW, NOW - HOUR // 4, text, (Step(NOW - HOUR, text, text),))
    drawn = [
        trust_map("t", [Node(text, text), Node("b", "o")], [Link(text, "b", "accepted")]),
        trust_map("m", [Node(f"{n}{text}", text) for n in range(WHEEL + 4)], []),
        trust_map("o", [Node(f"{n}{text}", f"{text}{n}") for n in range(MATRIX + 4)], []),
        timeline("l", [life], NOW, text),
        mosaic("s", [text], [(text, [Kind.BAD])]),
        runway("r", [Hour(text, 3, 1)], "hour"),
        table(text, [text], [(text, text)]),
        mark(Kind.BAD, text),
    ]
    for one in drawn:
        root = parsed(one)
        assert not any(ord(letter) < 32 and letter != "\n" for letter in "".join(root.itertext()))
        assert "\u202e" not in str(one)


def test_marks_are_told_apart_by_shape_and_word() -> None:
    shapes = {str(one.get("id")): ET.tostring(one[0]) for one in parsed(marks()).iter("symbol")}
    assert len(shapes) == len(set(shapes.values())) == len(Kind)
    assert len({kind.word for kind in Kind}) == len(Kind)
    assert (
        "failing" in mark(Kind.BAD)
        and "hidden" in mark(Kind.BAD)
        and "hidden" not in mark(Kind.BAD, "").split("aria-hidden")[-1]
    )


def test_mosaic_joins_neighbours_so_that_a_large_fleet_costs_little() -> None:
    kinds = [Kind.BAD] * 3 + [Kind.UNKNOWN] * 7 + [Kind.OK] * 9_990
    made = mosaic("fleet", [f"c{n}" for n in range(10_000)], [("Leaf", kinds), ("Agent", [Kind.OK] * 10_000)])
    rects = list(named(parsed(made)).iter("rect"))
    assert [(float(one.attrib["x"]), float(one.attrib["width"])) for one in rects] == [
        (0, 375),  # an eightieth each
        (375, 875),
        (1_250, 9_990),
        (0, 11_240),
    ]
    heights = [float(one.attrib["height"]) for one in rects]
    assert heights[0] > heights[1] > heights[2]
    assert len(made) < 4_000 and "10,000 clusters" in made


def test_runway_shows_also_the_one_that_has_no_successor() -> None:
    hours = [Hour("00:00", 1_000, 600, 1), Hour("01:00", 0, 0), Hour("02:00", 5, 5)]
    made = runway("r", hours)
    bad = [one for one in named(parsed(made)).iter("rect") if "is-bad" in one.attrib["class"]]
    assert len(bad) == 1 and float(bad[0].attrib["height"]) >= 3
    assert "1,005 SVIDs end within 3 hours" in made and "1 short of life with no successor" in made
    assert "01:00" not in made  # the table has what there is


def test_bars_and_sparklines_are_bounded_and_decoration() -> None:
    root = parsed(bar(7.0, Kind.OK, lost=0.0001))
    assert [float(one.attrib["width"]) for one in root.iter("rect")] == [100, 100, 1.2]
    spark = parsed(sparkline([1.0, 0.5, None, 0.2, None, 0.9], 0.0, 1.0))
    assert [len(line.attrib["points"].split()) for line in spark.iter("polyline")] == [2, 2, 2]
    assert spark[0].attrib["aria-hidden"] == "true" and list(parsed(sparkline([])).iter("polyline")) == []


def test_timeline_draws_each_level_in_its_own_shape_and_tells_it_in_words() -> None:
    steps = tuple(Step(NOW - HOUR + n * 60_000, what) for n, what in enumerate(STEPS))
    made = timeline("t", [Life("abc", NOW - HOUR, NOW + HOUR, NOW, "late", steps), Life("def", NOW, NOW)], NOW, "web")
    paths = [one for one in named(parsed(made)).iter("path") if "step" in one.attrib["class"]]
    assert len({one.attrib["d"] for one in paths}) == len(STEPS)
    for what in STEPS:
        assert what in made
    assert parsed(timeline("e", [], NOW, "web")) is not None


@pytest.mark.parametrize("many", [1, 3, WHEEL, WHEEL + 1, MATRIX, MATRIX + 1, 500])
def test_trust_map_stays_small_and_within_its_frame_at_any_size(many: int) -> None:
    nodes = [Node(f"domain-{n}.example", f"team-{n % 30}") for n in range(many)]
    links = [
        Link(nodes[n].name, nodes[(n * 7 + 1) % many].name, "accepted" if n % 3 else "offered") for n in range(many)
    ]
    made = trust_map("map", nodes, links)
    assert made == trust_map("map", list(reversed(nodes)), links), "the order of what is given changes nothing"
    svg = named(parsed(made))
    wide, high = (float(part) for part in svg.attrib["viewBox"].split()[2:])
    assert wide < 1_300 and high < 1_000
    for text in svg.iter("text"):
        assert -1 <= float(text.attrib["x"]) <= wide and 0 <= float(text.attrib["y"]) <= high
    assert len(made) < 120_000


def test_trust_map_keeps_mutual_and_one_way_trust_apart() -> None:
    links = [
        Link("a", "b", "accepted"),
        Link("b", "a", "accepted"),
        Link("c", "a", "accepted"),
        Link("c", "b", "offered"),
    ]
    made = str(trust_map("m", [Node(name, "o") for name in "abc"], links))
    assert (
        made.count("link-two-way") == 1
        and made.count("link link-accepted") == 1
        and made.count("link link-offered") == 1
    )
    assert "3 grants in force (1 pair both ways), 1 offered" in made
    assert re.search(r"<th scope=\"row\">.*c.*</th>", made)
