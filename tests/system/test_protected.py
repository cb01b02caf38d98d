"""The protected publication by real processes: from the ceremony on the command line to python-tuf's client over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tuf.api import exceptions
from tuf.ngclient import Updater

from tests.fakes.tuf_repository import Domain
from tests.system.hub_world import Cluster, HubProcess
from tests.system.stack import Stack, until
from trustfed.cli.main import main
from trustfed.federation import cluster_document
from trustfed.federation.envelope import open_envelope
from trustfed.proto import federation_pb2 as pb
from trustfed.spiffe.ids import TrustDomain

WEST = TrustDomain("prod-us-west")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder over HTTP; its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Ceremony:
    """The command line of three people and an operator."""

    def __init__(self, stack: Stack, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = stack.folder, capsys
        patch.chdir(stack.folder)
        patch.setenv("TRUSTFED_HUB_SOCKET", str(stack.hub_admin.path))

    def run(self, *words: str, code: int = 0) -> str:
        done = main(["publication", *words])
        said = self._capsys.readouterr()
        assert done == code, said
        return said.out + said.err

    def first(self) -> bytes:
        self.run("keys", "--write", "online.json")
        people = ("alice", "bob")
        for name in people:
            self.run("root", "key", "--write", f"{name}.pem")
        keys = [word for name in people for word in ("--key", f"{name}.pem.pub")]
        self.run("root", "create", "--online", "online.json", *keys, "--threshold", "2", "--write", "1.root.json")
        for name in people:
            self.run("root", "sign", "1.root.json", "--key", f"{name}.pem")
        assert "root version 1 is installed" in self.run("root", "install", "1.root.json")
        return (self.folder / "1.root.json").read_bytes()


class Reader:
    """python-tuf's client as anybody would run it."""

    def __init__(self, folder: Path, url: str, root: bytes) -> None:
        self.folder, self.url, self.root = folder, url, root
        for name in ("metadata", "targets"):
            (folder / name).mkdir(parents=True)

    def read(self, path: str) -> bytes:
        updater = Updater(
            str(self.folder / "metadata"),
            self.url + "tuf/",
            str(self.folder / "targets"),
            self.url,
            bootstrap=self.root,
        )
        found = updater.get_targetinfo(path)
        return Path(updater.download_target(found)).read_bytes() if found else b""

    def level(self, key: object) -> tuple[int, int]:
        try:
            data = self.read(f"envelopes/{WEST}")
        except (exceptions.DownloadError, exceptions.RepositoryError):
            return (0, 0)
        return _level(data, key) if data else (0, 0)


def _level(data: bytes, key: object) -> tuple[int, int]:
    level = open_envelope(data, WEST, key).level  # type: ignore[arg-type]
    return level.epoch, level.sequence


def test_from_the_ceremony_to_a_reader_through_a_change_a_crash_and_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Stack(tmp_path / "stack") as stack, served(tmp_path / "stack" / "public") as url:
        ceremony = Ceremony(stack, monkeypatch, capsys)
        west = stack.cluster(WEST.name)
        said = ceremony.run("status")
        assert "no root is installed, so plain documents only" in said
        assert "next: trustfed publication keys --write online.json" in said
        root = ceremony.first()
        reader = Reader(tmp_path / "reader", url, root)

        document = until(lambda: _try(reader, f"clusters/{WEST}"), "the cluster document")
        found = cluster_document.read(document, WEST)
        assert found.grpc_addresses == (west.grpc,)
        assert found.https_addresses == (west.bundle_endpoint,)
        key = found.publication_key
        before = reader.level(key)
        assert before == _level(reader.read(f"envelopes/{WEST}"), key)

        began = time.monotonic()
        alone = {"reason": "a test of one person", "break_glass": True}
        west.admin.post("/authorities/prepare", {"kind": "x509", **alone})
        until(lambda: reader.level(key) > before, "the new envelope at the reader")
        assert time.monotonic() - began < 10  # measured: well below 2 s; the bound only tells a poll from a push

        stack.hub.kill()
        assert reader.level(key) > before  # the store serves on
        stack.hub.start()
        at = reader.level(key)
        held = {path.name for path in (tmp_path / "stack/public/tuf").iterdir()}

        ceremony.run("keys", "--new", "--write", "online-2.json")
        ceremony.run(
            "root", "rotate", "--previous", "1.root.json", "--online", "online-2.json", "--write", "2.root.json"
        )
        ceremony.run("root", "install", "2.root.json", code=3)  # nobody has signed it
        for name in ("alice", "bob"):
            ceremony.run("root", "sign", "2.root.json", "--key", f"{name}.pem", "--previous", "1.root.json")
        ceremony.run("root", "install", "2.root.json")
        until((tmp_path / "stack/public/tuf/2.root.json").exists, "root 2")
        until(lambda: reader.level(key) == at, "the reader under the new root")
        assert held <= {path.name for path in (tmp_path / "stack/public/tuf").iterdir()}

        status = json.loads(ceremony.run("status", "--output", "json"))["protected"]
        assert (status["root_version"], status["domains"], status["next"]) == (2, 1, None)
        assert "root version 2 until" in ceremony.run("status")
        assert json.loads(ceremony.run("root", "show", "--output", "json"))["version"] == 2


async def test_the_hubs_door_takes_a_role_and_a_refused_one_ends_no_stream(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path)
    assert hub.run("init").returncode == 0
    hub.start()
    try:
        cluster = await Cluster.enrolled(hub, "td-a")
        domain = Domain(cluster.domain)
        part = await domain.publish(datetime.now(UTC))
        said = pb.Published(metadata=part.role.data, cluster_document=part.cluster_document, envelope=part.envelope)
        forged = pb.Published(metadata=b"{}", cluster_document=part.cluster_document, envelope=part.envelope)
        async with cluster.stream() as stream:
            await stream.send(published=forged)
            level = pb.Level(trust_domain="td-a", epoch=1, sequence=cluster.domain.sequence)
            await stream.until("stored", level=level)  # the envelope that came with it is good
            found = hub.admin("GET", "/publication").json()["protected"]
            assert "must have exactly the members" in found["refused"]["td-a"]
            await stream.send(published=said)
            for _ in range(100):  # `stored` is said when bundles have reached a target, too
                found = hub.admin("GET", "/publication").json()["protected"]
                if found["domains"] and not found["refused"]:
                    break
                await asyncio.sleep(0.05)
            assert (found["domains"], found["refused"], found["domains_without_role"]) == (1, {}, [])
    finally:
        assert hub.stop() == 0


def _try(reader: Reader, path: str) -> bytes:
    with contextlib.suppress(exceptions.DownloadError, exceptions.RepositoryError):
        return reader.read(path)
    return b""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's proxy settings have no part in this."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
