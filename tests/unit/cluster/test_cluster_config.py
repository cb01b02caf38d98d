"""What a cluster's file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustfed.cluster.config import ClusterConfig, Door
from trustfed.errors import Invalid


@pytest.mark.parametrize("listen", ["0.0.0.0:8444", "[::]:8444"])
def test_nobody_can_dial_a_wildcard(listen: str) -> None:
    with pytest.raises(Invalid, match="no address that others can dial") as refused:
        Door(listen)
    assert "advertise" in refused.value.hint
    assert Door(listen, "trust.example:8444").advertise == "trust.example:8444"


def test_an_address_is_host_and_port() -> None:
    for wrong in ("8444", "trust.example", "::1:8444", ":8444"):
        with pytest.raises(Invalid, match="not HOST:PORT"):
            Door(wrong)
        with pytest.raises(Invalid, match="not HOST:PORT"):
            ClusterConfig(Path("d"), Door("127.0.0.1:1"), Door("127.0.0.1:2"), health=wrong)


def test_what_is_left_out_lies_in_the_data_directory() -> None:
    config = ClusterConfig(Path("d"), Door("127.0.0.1:1"), Door("127.0.0.1:2"))
    assert (config.admin_path, config.store_directory) == (Path("d/admin.sock"), Path("d/store"))
