"""A banned node stays banned, whichever attestor vouches for it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from trustfed.cluster import events as e
from trustfed.cluster import nodes
from trustfed.cluster.attestation.port import Admission
from trustfed.cluster.fold import apply
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def test_no_attestor_can_let_a_banned_node_in_again() -> None:
    state = apply(ClusterState(), e.NodeAttested("n1", (), "toy", "first", "sha256:a", (b"leaf",), NOW))
    state = apply(state, e.NodeBanned("n1", "stolen", NOW))
    with pytest.raises(Denied, match="banned: stolen"):
        nodes.attest(state, Admission("n1", (), "second"), "toy", "sha256:b", (b"leaf",), 10, NOW)


def test_a_ban_outlives_whatever_the_journal_says_of_the_name() -> None:
    state = apply(ClusterState(), e.NodeAttested("n1", (), "toy", "first", "sha256:a", (b"leaf",), NOW))
    state = apply(state, e.NodeBanned("n1", "stolen", NOW))
    state = apply(state, e.NodeAttested("n1", (), "toy", "second", "sha256:b", (b"leaf",), NOW))
    assert (state.nodes["n1"].banned, state.nodes["n1"].banned_at) == ("stolen", NOW)
