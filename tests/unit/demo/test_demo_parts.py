"""The parts of the demo: what it prints, what it starts and ends, the forgery, and calls between workloads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority import authority_subject, make_twin
from ca.keys.open import KeysConfig, close_keys, open_keys
from trustfed.demo import forge, house, mtls, processes
from trustfed.demo.processes import Ended, Process
from trustfed.demo.screen import Screen
from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.runtime.sockets import listen_tcp
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

SLEEP = [sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(60)"]


def test_steps_that_hold_and_steps_that_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    with screen.step("first") as step:
        step.say("12 ms")
    with screen.step("second"):
        raise Unavailable("the hub is away", hint="start it")
    with screen.step("third") as step:
        step.require(False, "0 failed")
    out = capsys.readouterr().out
    assert out.splitlines() == [
        *("✓ 1 first", "    12 ms", "✗ 2 second", "    the hub is away (start it)"),
        *("✗ 3 third", "    did not hold: 0 failed"),
    ]
    assert (screen.steps, screen.failed) == (3, 2)


def test_waiting_ends_with_what_was_seen_last() -> None:
    screen = Screen()

    def away() -> None:
        raise Unavailable("nobody there")

    with screen.step("s") as step:
        assert step.wait("x", lambda: 7) == 7
        with pytest.raises(Unavailable, match="in vain: y: nobody there"):
            step.wait("y", away, 0.02)

        def gone() -> None:
            raise Ended("it is gone")

        with pytest.raises(Ended):  # a process that ended is not waited for
            step.wait("z", gone, 20)


def test_a_process_that_somebody_else_started_again_is_found_and_ended(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    one = Process("one", [*SLEEP, str(mark)], tmp_path / "log", str(mark))
    one.start()
    assert one.look() == one.pid is not None
    os.kill(one.pid or 0, signal.SIGKILL)
    assert one.child is not None
    one.child.wait(5)
    assert one.look() is None
    with pytest.raises(Ended, match="one ended"):
        one.check()
    again = subprocess.Popen(one.argv, stdout=subprocess.DEVNULL)
    try:
        assert one.look() == again.pid
        # Reaped here, as its own parent would: the demo only sends the signal.
        import threading

        threading.Thread(target=again.wait, daemon=True).start()
        assert processes.end([one]) == []
        assert again.wait(5) == -signal.SIGTERM
    finally:
        again.kill()


def test_a_command_that_fails_says_its_last_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import sys; sys.exit('no luck')", "hub", "init"]
    with pytest.raises(Unavailable, match="hub init failed: no luck"):
        processes.run(argv, tmp_path / "log")


def test_folders_are_new_and_short() -> None:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:  # pytest's own may be too long already
        _check_folders(Path(folder))


def _check_folders(tmp_path: Path) -> None:
    ttl = timedelta(seconds=20)
    place = house.plan(tmp_path / "d", ttl)
    house.write_configurations(place)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    with pytest.raises(Conflict, match="not empty"):
        house.plan(tmp_path / "d", ttl)
    with pytest.raises(Invalid, match="too long"):
        house.plan(tmp_path / ("d" * 100), ttl)
    with pytest.raises(Invalid, match="no good"):
        house.plan(tmp_path / "e", timedelta(seconds=1))


class World:
    """Two trust domains with file key stores, as the demo's clusters have them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.twins: dict[str, x509.Certificate] = {}

    async def domain(self, name: str) -> Path:
        """Make a domain; its cluster's configuration."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        config = folder / "cluster.toml"
        config.write_text(
            'data_dir = "data"\nadmin_socket = "s"\n[grpc]\nlisten = "127.0.0.1:1"\n'
            '[bundle_spiffe]\nlisten = "127.0.0.1:2"\n[keys]\nworkers = 0\ndirectory = "keys"\n'
        )
        keys = open_keys(KeysConfig(directory=folder / "keys", workers=0))
        await keys.create("x509-one")
        now = datetime.now(UTC)
        twin = await make_twin(
            TrustDomain(name),
            "one",
            "x509-one",
            keys,
            not_after=now.replace(microsecond=0) + timedelta(hours=1),
            now=now,
            randomness=os.urandom,
        )
        await close_keys(keys)
        self.twins[name] = x509.load_der_x509_certificate(twin)
        return config

    def context(self, pair: object, spiffe_id: str, *bundles: str) -> object:
        """What the `spiffe` library would give."""
        chain = [x509.load_der_x509_certificate(der) for der in pair.chain]  # type: ignore[attr-defined]
        svid = SimpleNamespace(spiffe_id=spiffe_id, cert_chain=chain, private_key=pair.key, leaf=chain[0])  # type: ignore[attr-defined]
        held = [
            SimpleNamespace(trust_domain=SimpleNamespace(name=name), x509_authorities={self.twins[name]})
            for name in bundles
        ]
        return SimpleNamespace(default_svid=svid, x509_bundle_set=SimpleNamespace(bundles=held))


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_the_forgery_is_genuine_and_refused(world: World) -> None:
    import asyncio

    config = await world.domain("thief")
    await world.domain("victim")
    twin = world.twins["thief"]
    assert twin.subject == authority_subject(TrustDomain("thief"), "one")
    pair = await asyncio.to_thread(forge.forge, config, "one", twin, "spiffe://victim/shop")
    leaf = x509.load_der_x509_certificate(pair.chain[0])
    leaf.verify_directly_issued_by(twin)
    assert isinstance(pair.key, ec.EllipticCurvePrivateKey) and leaf.public_key() == pair.key.public_key()
    for name in ("thief", "victim"):
        der = forge.authorities(_document(world.twins[name]))[0].public_bytes(_DER)
        with pytest.raises(Denied):
            verify_x509_svid(pair.chain, Bundle(TrustDomain(name), (der,)), datetime.now(UTC))


async def test_workloads_verify_each_other_and_refuse_the_impostor(world: World) -> None:
    import asyncio

    config_a, config_b = await world.domain("a"), await world.domain("b")
    pair_a = await asyncio.to_thread(forge.forge, config_a, "one", world.twins["a"], "spiffe://a/x")
    pair_b = await asyncio.to_thread(forge.forge, config_b, "one", world.twins["b"], "spiffe://b/y")
    a = mtls.read_identity(world.context(pair_a, "spiffe://a/x", "a", "b"), 1.0)
    b = mtls.read_identity(world.context(pair_b, "spiffe://b/y", "a", "b"), 1.0)
    a_id, b_id = SpiffeId.parse("spiffe://a/x"), SpiffeId.parse("spiffe://b/y")
    told: list[tuple[object, str]] = []
    listener = listen_tcp("127.0.0.1:0")
    host, port = listener.getsockname()
    now = [a]
    update = await mtls.serve(listener, lambda: now[0], b_id, lambda peer, why: told.append((peer, why)))
    assert await mtls.call(host, port, b, a_id) == mtls.Call(a_id, "one")
    assert told == [(b_id, "")]
    # The same server is not whom another caller wants.
    wrong = await mtls.call(host, port, b, SpiffeId.parse("spiffe://a/z"))
    assert isinstance(wrong, mtls.Refusal) and wrong.handshake and "must be spiffe://a/z" in wrong.reason
    # A forged a/x, signed by b's own authority: TLS pools both anchors and lets it pass, SPIFFE does not.
    forged = await asyncio.to_thread(forge.forge, config_b, "one", world.twins["b"], "spiffe://a/x")
    with forge.impostor(forged) as address:
        refused = await mtls.call("127.0.0.1", int(address.rpartition(":")[2]), b, a_id)
    assert isinstance(refused, mtls.Refusal) and refused.handshake
    assert "no authority of trust domain a has the name of its issuer" in refused.reason
    # The server's bundle of b goes: b is refused from the next connection on.
    now[0] = mtls.read_identity(world.context(pair_a, "spiffe://a/x", "a"), 2.0)
    update(now[0])
    gone = await mtls.call(host, port, b, a_id)
    assert isinstance(gone, mtls.Refusal)
    # And a caller without the server's bundle refuses by itself.
    lonely = mtls.read_identity(world.context(pair_b, "spiffe://b/y", "b"), 3.0)
    alone = await mtls.call(host, port, lonely, a_id)
    assert isinstance(alone, mtls.Refusal) and not alone.handshake and "verify failed" in alone.reason


def test_the_workload_keeps_clear_of_our_own_proto() -> None:
    """The library brings its own workload.proto; two of one name in one process clash."""
    code = "import sys, trustfed.demo.workload; sys.exit('trustfed.proto.workload_pb2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


def _document(twin: x509.Certificate) -> dict[str, object]:
    import base64

    return {"keys": [{"use": "x509-svid", "x5c": [base64.b64encode(twin.public_bytes(_DER)).decode()]}]}


_DER = Encoding.DER
