"""Many agents at one cluster: streams of enrolled nodes, in a few processes, that all come back in the same moment.

Each node is enrolled for the purpose (bench.node) and speaks the production client (trustfed.runtime.grpc_client): hello with
its position, everything up to the cluster's position now, then one batch of SVIDs, as an agent does whose SVIDs fell due
while it was away. Each begins at a moment of its own within `spread` seconds, as agents do; with 0 all begin at once, which
agents never do.

    python -m bench.herd ADDRESS SERVER_ID ENTRY,… FOLDER …    one worker: "ready", then "go POSITION SPREAD" → a line of JSON
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from bench.procs import BenchError
from trustfed.errors import TrustfedError
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.grpc_client import VerifiedChannel, stream, unary
from trustfed.runtime.https_client import exactly
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import KeyPair, client_context
from trustfed.spiffe.ids import SpiffeId

SERVICE = "/trustfed.node.v1.Node/"
WORKERS = 4
LIMIT = 120.0
PAUSE = 0.02  # between two requests of the caller who is no part of it


@dataclass(frozen=True)
class Taken:
    """Seconds until the last node was current and had its SVIDs; how long somebody else's requests took meanwhile."""

    slowest: float
    median: float
    snapshots: int
    others_p99_ms: float
    others: int


@dataclass(frozen=True)
class Place:
    """The cluster's gRPC door, who it must be, and ids of entries that every node may serve."""

    address: str
    server: str
    entries: Sequence[str]


def reconnect(
    nodes: Sequence[Path], place: Place, other: Path, change: Callable[[], int], spread: float = 0.0
) -> Taken:
    """All nodes connect and go; `change()` alters the cluster and returns its position; all come back within `spread`.

    `nodes` and `other` are folders with svid.pem, key.pem and bundle.pem. Raises BenchError.
    """
    with _workers(nodes, place) as workers:
        for worker in workers:
            _expect(worker, "ready")
        position = change()
        ended = threading.Event()
        measured: list[float] = []
        caller = threading.Thread(target=lambda: asyncio.run(_steadily(_Node(other), place, ended, measured)))
        caller.start()
        try:
            while len(measured) < 5 and caller.is_alive():  # it is connected before the others come
                time.sleep(PAUSE)
            measured.clear()
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(f"go {position} {spread}\n")
                worker.stdin.flush()
            found = [json.loads(_line(worker)) for worker in workers]
        finally:
            ended.set()
            caller.join()
    errors = [error for one in found for error in one["errors"]]
    if errors:
        raise BenchError(f"{len(errors)} nodes did not come back, the first: {errors[0]}")
    seconds = sorted(second for one in found for second in one["seconds"])
    if not measured:
        raise BenchError("nobody else was served at all")
    measured.sort()
    snapshots = sum(one["snapshots"] for one in found)
    p99 = measured[int(0.99 * (len(measured) - 1))] * 1000
    return Taken(seconds[-1], seconds[len(seconds) // 2], snapshots, p99, len(measured))


@contextmanager
def _workers(nodes: Sequence[Path], place: Place) -> Iterator[list[subprocess.Popen[str]]]:
    workers = []
    try:
        for number in range(WORKERS):
            share = [str(node) for node in nodes[number::WORKERS]]
            argv = [sys.executable, "-m", "bench.herd", place.address, place.server, ",".join(place.entries), *share]
            workers.append(
                subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=Path(__file__).resolve().parents[1],
                )
            )
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise BenchError(f"a worker of the herd ended with {worker.wait(5)}")
    return line.strip()


def _expect(worker: subprocess.Popen[str], word: str) -> None:
    if (said := _line(worker)) != word:
        raise BenchError(f"a worker of the herd said {said[:200]!r}, not {word!r}")


class _Node:
    """One enrolled node."""

    def __init__(self, folder: Path) -> None:
        chain = x509.load_pem_x509_certificates((folder / "svid.pem").read_bytes())
        key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        anchors = x509.load_pem_x509_certificates((folder / "bundle.pem").read_bytes())
        keypair = KeyPair(tuple(one.public_bytes(Encoding.DER) for one in chain), key)
        self.context = client_context(keypair, [one.public_bytes(Encoding.DER) for one in anchors], alpn=("h2",))
        self.position, self.instance, self.snapshots = 0, "", 0
        self._levels: dict[str, pb.Level] = {}

    def channel(self, place: Place) -> VerifiedChannel:
        host, port = parse_address(place.address)
        return VerifiedChannel(host, port, self.context, exactly(SpiffeId.parse(place.server)))

    async def come(self, place: Place, position: int, keys: Sequence[bytes]) -> None:
        """Connect, take everything up to `position`, have one SVID issued for each key, and go."""
        channel = self.channel(place)
        try:
            async with stream(channel, SERVICE + "Sync", pb.FromAgent, pb.FromCluster) as opened:
                hello = pb.AgentHello(
                    protocol_min=1, protocol_max=1, position=self.position, cluster_instance=self.instance
                )
                await opened.send_message(pb.FromAgent(hello=hello))
                await self._take(opened, position)
                if keys:
                    await _issue(channel, place, keys)
        finally:
            channel.close()

    async def _take(self, opened: Any, position: int) -> None:
        first = (await opened.recv_message()).hello
        self.instance = first.cluster_instance
        self.snapshots += first.snapshot
        ended = not first.snapshot
        at = self.position
        while not ended or at < position:
            message = await opened.recv_message()
            kind = message.WhichOneof("message")
            ended = ended or kind == "snapshot_end"
            at = max(at, message.position)
        self.position = at


async def _issue(channel: VerifiedChannel, place: Place, keys: Sequence[bytes]) -> None:
    slots = [
        pb.X509Slot(entry_id=entry, slot="x509", public_key=key)
        for entry, key in zip(place.entries, keys, strict=False)
    ]
    answer = await unary(channel, SERVICE + "IssueX509", pb.IssueX509Request(slots=slots), pb.IssueX509Response, LIMIT)
    failed = [result.error for result in answer.results if result.error]
    if failed or len(answer.results) != len(slots):
        raise BenchError(f"SVIDs were not issued: {failed[:1]}")


async def _steadily(node: _Node, place: Place, ended: threading.Event, measured: list[float]) -> None:
    """Somebody else, who asks for one SVID after the other."""
    channel, (key,) = node.channel(place), public_keys(1)
    try:
        while not ended.is_set():
            began = time.perf_counter()
            await _issue(channel, place, [key])
            measured.append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE)
    finally:
        channel.close()


def public_keys(count: int) -> list[bytes]:
    """New public keys, as an agent sends them."""
    keys = (ec.generate_private_key(ec.SECP256R1()) for _ in range(count))
    return [key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]


async def _work(place: Place, folders: Sequence[str]) -> None:
    nodes = [_Node(Path(folder)) for folder in folders]
    keys = public_keys(len(place.entries))
    # A few at a time: this is not what is measured.
    few = asyncio.Semaphore(8)

    async def settle(node: _Node) -> None:
        async with few:
            await node.come(place, 0, ())

    await asyncio.gather(*(settle(node) for node in nodes))
    before = sum(node.snapshots for node in nodes)
    print("ready", flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    _, at, spread = line.split()
    position, began = int(at), time.perf_counter()
    seconds, errors = [], []

    async def back(node: _Node) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                await asyncio.sleep(float(spread) * random.SystemRandom().random())
                await node.come(place, position, keys)
            seconds.append(time.perf_counter() - began)
        except (TrustfedError, BenchError, TimeoutError, OSError, AttributeError) as error:
            errors.append(f"{type(error).__name__} {error}"[:300])

    await asyncio.gather(*(back(node) for node in nodes))
    snapshots = sum(node.snapshots for node in nodes) - before
    print(json.dumps({"seconds": seconds, "errors": errors, "snapshots": snapshots}), flush=True)


if __name__ == "__main__":
    asyncio.run(_work(Place(sys.argv[1], sys.argv[2], sys.argv[3].split(",")), sys.argv[4:]))
