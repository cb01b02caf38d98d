"""Tiles have the names and shapes of C2SP tlog-tiles."""

from __future__ import annotations

import pytest

from trustfed.errors import Invalid
from trustfed.journal.merkle.tiles import Place, Tile, full_tiles, parse_path, partial_tiles, place_of


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 999), "tile/0/999"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(1, 1234067), "tile/1/x001/x234/067"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(7, 5, 1), "tile/7/005.p/1"),
    ],
)
def test_a_path_names_a_tile_and_back(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/000",
        "tile/00/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/../000",
        "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/" + "x001/" * 40 + "000",
        "tile/entries/000",
    ],
)
def test_another_form_of_a_path_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="is no path of a tile"):
        parse_path(path)


def test_the_tiles_of_70000_leaves_are_those_of_the_standards_example() -> None:
    assert [full_tiles(70_000, level) for level in range(3)] == [273, 1, 0]
    assert partial_tiles(70_000) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert (full_tiles(256, 0), partial_tiles(256)) == (1, [Tile(1, 0, 1)])
    assert partial_tiles(0) == []


def test_a_node_lies_in_the_tile_of_its_eight_levels() -> None:
    assert place_of(0, 257) == Place(0, 1, 1, 0)
    assert place_of(7, 3) == Place(0, 1, 128, 7)
    assert place_of(8, 300) == Place(1, 1, 44, 0)
    assert place_of(17, 0) == Place(2, 0, 0, 1)
