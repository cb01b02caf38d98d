"""The socket's file is made safely and taken over only from the dead."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from tests.unit.h2grpc.client import RawClient, framed, headers, serving
from trustfed.errors import Conflict, Invalid, Unavailable
from trustfed.h2grpc.server import GrpcServer
from trustfed.h2grpc.socket_file import listen


@pytest.mark.parametrize("mode", [0o777, 0o600])
def test_the_mode_is_as_asked(tmp_path: Path, mode: int) -> None:
    file = listen(tmp_path / "s", mode)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    file.socket.close()
    file.remove()
    assert not (tmp_path / "s").exists()


def test_a_live_server_is_not_displaced(tmp_path: Path) -> None:
    file = listen(tmp_path / "s", 0o777)
    with pytest.raises(Conflict, match="another server serves"):
        listen(tmp_path / "s", 0o777)
    file.socket.close()
    file.remove()
    foreign = socket.socket(socket.AF_UNIX)
    foreign.bind(str(tmp_path / "s"))
    foreign.listen(1)
    with pytest.raises(Conflict, match="another server listens"):
        listen(tmp_path / "s", 0o777)
    foreign.close()


def test_a_dead_server_s_socket_is_replaced(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "s"))
    dead.close()
    (tmp_path / "s.new").touch()
    file = listen(tmp_path / "s", 0o777)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    file.socket.close()
    file.remove()


def test_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(Invalid, match="not a socket"):
        listen(tmp_path / "s", 0o777)
    (tmp_path / "link").symlink_to(tmp_path / "s")
    with pytest.raises(Invalid, match="not a socket"):
        listen(tmp_path / "link", 0o777)
    assert (tmp_path / "s").read_text() == "precious"


def test_unsafe_or_impossible_places(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="directory"):
        listen(tmp_path / "none" / "s", 0o777)
    with pytest.raises(Invalid, match="too long"):
        listen(tmp_path / ("s" * 120), 0o777)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    with pytest.raises(Invalid, match="everybody may write"):
        listen(tmp_path / "open" / "s", 0o777)
    (tmp_path / "t.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="lock"):
        listen(tmp_path / "t", 0o777)
    assert not (tmp_path / "elsewhere").exists()


async def test_a_second_server_leaves_the_first_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, path):
        second = GrpcServer({}, accept=lambda _: None)  # type: ignore[arg-type, return-value]
        with pytest.raises(Conflict):
            await second.serve_unix(path, 0o777)
        client = await RawClient.connect(path)
        stream = client.call(headers(), framed(b"x"))
        client.flush()
        assert (await client.outcome(stream))[0]["grpc-status"] == "0"
        await client.close()


async def test_only_our_own_file_is_removed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, path):
        path.unlink()
        path.write_text("someone else's")
        await server.close(0)
        assert path.read_text() == "someone else's"
