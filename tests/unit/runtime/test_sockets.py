"""Listening sockets: right mode from the first moment, never two processes at one place."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from trustfed.errors import Conflict, Invalid, NotFound, TrustfedError
from trustfed.runtime.sockets import address_of, listen_tcp, listen_unix, parse_address, parse_url, peer_of


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_mode_whatever_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with listen_unix(tmp_path / "s", mode) as listener:
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
            assert address_of(listener) == str(tmp_path / "s") and not listener.getblocking()
    finally:
        os.umask(before)


def test_the_file_is_never_wider_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode at the moment of bind(), before any chmod."""
    seen = []
    chmod = Path.chmod

    def watch(path: Path, mode: int) -> None:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", watch)
    before = os.umask(0)
    try:
        listen_unix(tmp_path / "s").close()
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    listen_unix(tmp_path / "s").close()
    with listen_unix(tmp_path / "s"), pytest.raises(Conflict, match="another process serves"):
        listen_unix(tmp_path / "s")
    # A full backlog is no stale socket.
    with listen_unix(tmp_path / "s", backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "s"))
        with pytest.raises(Conflict):
            listen_unix(tmp_path / "s")


def test_what_is_there_and_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    for name in ("s", "link"):
        with pytest.raises(Conflict, match="not a socket"):
            listen_unix(tmp_path / name)
    assert (tmp_path / "s").read_bytes() == b"mine"


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="longer than 107 bytes"):
        listen_unix(tmp_path / ("s" * 108))
    with pytest.raises(NotFound, match="no such file"):
        listen_unix(tmp_path / "none" / "s")


def test_who_connected(tmp_path: Path) -> None:
    with listen_unix(tmp_path / "s") as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        with listener.accept()[0] as connection:
            peer = peer_of(connection)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())


def test_tcp() -> None:
    with listen_tcp("127.0.0.1:0") as listener:
        address = address_of(listener)
        assert address.startswith("127.0.0.1:") and not listener.getblocking()
        with pytest.raises(Conflict, match="in use"):
            listen_tcp(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1",
        ":80",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "http://x:1",
        "a b:1",
        "x:1\n",
        "::1:80",
        "[::1:80",
        "h:٣",
    ],
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(Invalid, match="not HOST:PORT"):
        listen_tcp(address)


def test_addresses() -> None:
    assert parse_address("[::1]:8443") == ("::1", 8443) and parse_address("localhost:1") == ("localhost", 1)
    with pytest.raises(TrustfedError):
        listen_tcp("192.0.2.1:0")  # a documentation address: not ours


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h:1/", ("h", 1)),
        ("https://h", ("h", 443)),
        ("https://[::1]", ("::1", 443)),
        ("https://[::1]:7", ("::1", 7)),
    ],
)
def test_urls(url: str, expected: tuple[str, int]) -> None:
    assert parse_url(url) == expected


def test_only_https() -> None:
    with pytest.raises(Invalid):
        parse_url("http://h:1")
