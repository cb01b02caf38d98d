"""The reader as a process: what it answers, and that it ends, whatever it is given."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import resource
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fakes.clocks import ManualClock
from tests.fakes.tuf_store import TufStore
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.reading import launch
from trustfed.reading.config import StoreConfig
from trustfed.reading.fallback import Need, StoreFallback
from trustfed.reading.location import AwsSettings, Location
from trustfed.reading.order import (
    Answer,
    Found,
    Order,
    SignIdentity,
    Wanted,
    read_answer,
    read_order,
    write_answer,
    write_error,
    write_order,
)
from trustfed.runtime.bounded_http import Limits
from trustfed.runtime.metrics import Registry

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    store = TufStore(datetime.now(UTC))
    store.add("west.test")
    store.publish()
    store.write(tmp_path / "store")
    return Order(
        Location(str(tmp_path / "store")), store.root, tmp_path / "state", datetime.now(UTC), (Wanted("west.test"),)
    )


def test_a_visit_by_a_process(order: Order) -> None:
    assert launch.read(order).one("west.test").envelope
    started = launch.start(aws=False)
    assert launch.read(order, started).one("west.test").role_version == 1
    assert started.returncode is not None, "it is gone"


def test_code_in_the_working_folder_is_not_run(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trustfed").mkdir()
    (tmp_path / "trustfed" / "__init__.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    assert launch.read(order).one("west.test").envelope


async def test_a_visit_without_blocking_the_loop(order: Order) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    answer = await launch.read_async(order)
    ticking.cancel()
    assert answer.one("west.test").envelope and ticks > 5


async def test_errors_come_as_what_they_are(order: Order) -> None:
    with pytest.raises(NotFound, match=r"nothing of trust domain north\.test"):
        launch.read(dataclasses.replace(order, domains=(Wanted("north.test"),))).one("north.test")
    with pytest.raises(Denied, match="freeze refused"):
        await launch.read_async(dataclasses.replace(order, now=order.now + timedelta(hours=2)))


async def test_a_silent_store_ends_in_time(order: Order) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        silent = dataclasses.replace(order, location=Location(url), limits=Limits(seconds=0.4, pause=0.2))
        with pytest.raises(Unavailable, match="slow retrieval refused"):
            await launch.read_async(silent)


def test_a_reader_that_hangs_is_ended(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE", 0.1)
    quick = dataclasses.replace(order, limits=Limits(seconds=0.1, pause=0.1))
    hanging = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="not read in time"):
        launch.read(quick, hanging)
    assert time.monotonic() - begun < 5 and hanging.returncode is not None


def test_a_reader_that_says_too_much_is_ended(order: Order) -> None:
    small = dataclasses.replace(order, max_bytes=1)
    with (
        subprocess.Popen(["yes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as endless,
        pytest.raises(TrustfedError),
    ):
        launch.read(small, endless)
    assert endless.returncode is not None


async def test_cancelled_it_leaves_no_process(order: Order) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        visit = asyncio.create_task(launch.read_async(dataclasses.replace(order, location=Location(url))))
        await asyncio.sleep(0.3)
        visit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await visit
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children if Path(f"/proc/{child}").exists()]
    assert not any(b"trustfed.reading" in name for name in names)


def no_room(*arguments: object, **more: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_no_room_for_a_process_is_an_answer_like_others(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever uses up the descriptors ends an agent, or a cluster, in the middle of a partition."""
    monkeypatch.setattr(subprocess, "Popen", no_room)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_room)
    with pytest.raises(Unavailable, match="reader cannot be started: too many open files"):
        launch.read(order)
    with pytest.raises(Unavailable, match="reader cannot be started: too many open files"):
        await launch.read_async(order)


async def test_nothing_that_goes_wrong_at_a_visit_ends_who_looks(order: Order, tmp_path: Path) -> None:
    clock, visits = ManualClock(), 0

    async def visit(_: Order) -> Answer:
        nonlocal visits
        visits += 1
        raise OSError(errno.ENOMEM, "Cannot allocate memory") if visits % 2 else RuntimeError("a fault of ours")

    async def take(found: Found) -> None:
        """Nothing comes."""

    root = tmp_path / "root.json"
    root.write_bytes(order.root)
    config, need = StoreConfig(order.location.url, root), Need(Wanted("west.test"), timedelta(minutes=1))
    counter = Registry().counter("visits_total", "visits", labels=("outcome",))
    fallback = StoreFallback(config, tmp_path, lambda now: [need], take, clock, lambda: 0.0, counter, visit)
    for _ in range(4):
        clock.move(1000)
        await fallback.look()
    assert visits == 4 and "internal error" in fallback.status()["error"]


def test_a_reader_leaves_no_core_file() -> None:
    """It holds AWS credentials, and is started before the agent has done anything."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    done = subprocess.run([sys.executable, "-c", _WITH_CORES, str(most)], input=b"", capture_output=True, timeout=30)
    assert done.stderr.split() == [b"0"], f"of at most {most}"


_WITH_CORES = """
import resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
from trustfed.reading import __main__
__main__.main()
sys.stderr.write(str(resource.getrlimit(resource.RLIMIT_CORE)[0]))
"""


@pytest.mark.parametrize("data", [b"", b"{}", b"nonsense", b"[1]", b"\xff" * 100])
def test_what_is_no_order(data: bytes) -> None:
    argv = [sys.executable, "-m", "trustfed.reading"]
    done = subprocess.run(argv, input=data, capture_output=True, timeout=30)
    assert done.returncode == 0 and done.stderr == b""
    assert json.loads(done.stdout)["error"]["kind"] == "Invalid"


def test_nothing_heavy_is_loaded_by_who_launches() -> None:
    code = (
        "import sys, trustfed.reading.launch, trustfed.reading.config, trustfed.reading.fallback; "
        "print([n for n in ('tuf', 'boto3', 'botocore', 'urllib3', 'securesystemslib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The two documents.


def an_order(tmp_path: Path) -> Order:
    aws = AwsSettings("eu-central-1", "p", "arn:aws:iam::123456789012:role/R", "s", "x", "/t", "https://sts.example")
    location = Location("s3://bucket/a/b", "https://s3.example", "virtual", "/ca.pem", aws)
    wanted = (Wanted("a.test"), Wanted("b.test", b"key", "00"))
    sign = SignIdentity("spiffe://a.test/trustfed/cluster", b"spki")
    return Order(location, b"root", tmp_path, NOW, wanted, timedelta(hours=3), Limits(9, 3, 7), 1000, sign)


def test_an_order_comes_as_it_was_given(tmp_path: Path) -> None:
    order = an_order(tmp_path)
    assert read_order(write_order(order)) == order
    plain = Order(Location("s3://b-1"), b"", tmp_path, NOW)
    assert read_order(write_order(plain)) == plain


def test_an_order_that_lacks_or_bends_something_is_refused(tmp_path: Path) -> None:
    whole = json.loads(write_order(an_order(tmp_path)))
    for member in whole:
        for value in (None, [1], {"x": 1}, "\0"):
            if (member, value) in (("sign", None), ("state", "\0")):
                continue
            bent = {**whole, member: value}
            with pytest.raises(Invalid):
                read_order(json.dumps(bent).encode())
        with pytest.raises(Invalid):
            read_order(json.dumps({name: item for name, item in whole.items() if name != member}).encode())


def test_an_answer_comes_as_it_was_given() -> None:
    found = Found("a.test", b"key", b"envelope", b"{}", 7, NOW)
    answer = Answer(3, NOW, timedelta(hours=1), (found,), {"b.test": Denied("no", hint="why")}, "payload")
    read = read_answer(write_answer(answer), 10_000)
    assert (read.found, read.stale, read.identity, read.root_version) == ((found,), timedelta(hours=1), "payload", 3)
    with pytest.raises(Denied, match="no"):
        read.one("b.test")
    for kind in (Denied, Invalid, NotFound, Unavailable):
        with pytest.raises(kind, match="words") as caught:
            read_answer(write_error(kind("words", hint="do")), 10_000)
        assert caught.value.hint == "do"
    for data in (b"{}", b"x", b"[]", write_answer(answer)[:-9]):
        with pytest.raises(TrustfedError):
            read_answer(data, 10_000)
