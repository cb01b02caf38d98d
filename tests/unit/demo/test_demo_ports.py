"""Ports of loopback are given once, whoever asks."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trustfed.demo import ports
from trustfed.errors import Unavailable

FEW = range(7_100, 7_120)  # outside of those that tests side by side with this one are given
ASKS = """
import sys
from trustfed.demo import ports
ports.PORTS = range(7_100, 7_120)
print(*ports.free_ports(12), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twenty ports, and claims of their own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(ports, "PORTS", FEW)
    monkeypatch.setattr(ports, "_given", set())
    monkeypatch.setattr(ports, "_claims", functools.cache(ports._claims.__wrapped__))


def test_no_port_is_given_twice_to_one_process() -> None:
    found = [*ports.free_ports(10), *(ports.free_port() for _ in range(10))]
    assert sorted(found) == list(FEW)
    with pytest.raises(Unavailable, match="no 1 free ports between 7100 and 7119"):
        ports.free_port()


def test_no_port_is_given_to_two_processes_until_one_has_ended() -> None:
    other = subprocess.Popen([sys.executable, "-c", ASKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = set(ports.free_ports(8))
        assert len(theirs) == 12
        assert not theirs & ours
        with pytest.raises(Unavailable):
            ports.free_port()
    finally:
        other.kill()
        other.communicate()
    assert set(ports.free_ports(12)) == theirs


def test_what_somebody_listens_at_is_not_given_nor_a_port_whose_partner_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", FEW[-1])):
        assert FEW[-1] not in ports.free_ports(15)
        monkeypatch.setattr(ports, "_given", set())
        assert FEW[9] not in ports.free_ports(9, above=10)


def test_claims_that_lie_behind_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / f"trustfed-ports-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match=r"trustfed-ports-\d+ cannot be opened"):
        ports.free_port()
