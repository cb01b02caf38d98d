"""The reserved IDs: built, read back, and every other spelling refused."""

from __future__ import annotations

import pytest

from trustfed.errors import Invalid
from trustfed.federation import names
from trustfed.spiffe.ids import SpiffeId, TrustDomain

WEST = TrustDomain("west")


def test_each_kind_has_its_id() -> None:
    assert str(names.hub_id(WEST)) == "spiffe://west/trustfed/hub"
    assert str(names.cluster_id(WEST)) == "spiffe://west/trustfed/cluster"
    assert str(names.node_id(WEST, "node-1.rack-2")) == "spiffe://west/trustfed/node/node-1.rack-2"
    for identity in (names.hub_id(WEST), names.cluster_id(WEST), names.node_id(WEST, "a")):
        assert identity.is_reserved


def test_ids_are_read_back() -> None:
    assert names.node_name(names.node_id(WEST, "n1")) == "n1"
    assert names.is_cluster(names.cluster_id(WEST)) and not names.is_cluster(names.hub_id(WEST))


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", ".", "..", "a.", "A", "a/b", "a_b", "a b", "a\n", "ä", "a" * 64, "a%2fb", "a\0"]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="node name"):
        names.node_id(WEST, name)


def test_longest_name() -> None:
    assert names.node_name(names.node_id(WEST, "a" * 63)) == "a" * 63


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/node/a",
        "/trustfed/node",
        "/trustfed/node/a/b",
        "/trustfed/node/A",
        "/trustfed/group/a",
        "/x/trustfed/node/a",
        "/trustfed/cluster",
    ],
)
def test_what_is_no_node_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="not the ID of a node"):
        names.node_name(SpiffeId.of(WEST, path))
