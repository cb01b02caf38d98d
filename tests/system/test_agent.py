"""The agent as a real process: killed while it enrols, twice on one folder, its size, and a real SPIFFE client."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from agent.identity import IdentityFile
from tests.fakes.cluster import FakeCluster, Hangup
from tests.unit.agent.world import ME, Workload, admin, eventually, until
from trustfed.runtime.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """`python -m agent serve` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.socket, self.admin = folder / "data", folder / "w.sock", folder / "data" / "admin.sock"
        (folder / "agent.toml").write_text('data_dir = "data"\nsocket = "w.sock"\n')
        self.running: asyncio.subprocess.Process | None = None

    async def start(self, *more: str, token: str | None = None) -> asyncio.subprocess.Process:
        arguments = [*more]
        if token is not None:
            write_atomic(self.folder / "token", token.encode())
            arguments += ["--join", f"@{self.folder / 'token'}"]
        self.running = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent",
            "serve",
            "--config",
            str(self.folder / "agent.toml"),
            *arguments,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self.running

    async def ready(self) -> None:
        async def check() -> bool:
            assert self.running is not None
            if self.running.returncode is not None:
                raise AssertionError((await self.running.stderr.read()).decode())  # type: ignore[union-attr]
            try:
                return (await admin(self.admin, "/ready"))[0] == 200
            except OSError:
                return False

        await eventually(check, 20)

    async def kill(self, number: int = signal.SIGKILL) -> tuple[int, str]:
        """End it; exit code and log."""
        assert self.running is not None
        if self.running.returncode is None:
            self.running.send_signal(number)
        _, log = await asyncio.wait_for(self.running.communicate(), 20)
        return self.running.returncode or 0, log.decode()

    def resident(self) -> float:
        """Megabytes."""
        assert self.running is not None
        text = Path(f"/proc/{self.running.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024


@asynccontextmanager
async def a_process(folder: Path) -> AsyncIterator[Process]:
    made = Process(folder)
    try:
        yield made
    finally:
        if made.running is not None and made.running.returncode is None:
            await made.kill()


@pytest.fixture
async def cluster() -> Any:
    async with FakeCluster() as made:
        made.put("e1", "/web", [ME])
        yield made


async def test_killed_at_each_step_of_enrolment_the_same_key_goes_on(cluster: FakeCluster, tmp_path: Path) -> None:
    token, reached, keys = cluster.token(), asyncio.Event(), set()

    async def hang(*request: dict[str, str]) -> None:
        keys.update(one["public_key"] for one in request)
        reached.set()
        await asyncio.sleep(30)
        raise Hangup

    async with a_process(tmp_path) as process:
        for step in (cluster.faults.envelope, cluster.faults.attest, cluster.faults.after_attest):
            reached.clear()
            step.append(hang)  # type: ignore[arg-type]
            await process.start(token=token)
            await asyncio.wait_for(reached.wait(), 20)
            assert (process.data / "node.key").stat().st_mode & 0o777 == 0o600
            await process.kill()
            assert not (process.data / "identity.json").exists()
        await process.start(token=token)
        await process.ready()
        assert len(keys) == 1 and len(cluster.answers) == 1
        assert not (process.data / "node.key").exists()
        assert (process.data / "identity.json").stat().st_mode & 0o777 == 0o600
        await process.kill()
        # Enrolled: no token is needed any more, and one that is given is ignored.
        await process.start(token="not a token")
        await process.ready()
        code, log = await process.kill(signal.SIGTERM)
        assert code == 0 and token not in log and not process.socket.exists()


@pytest.mark.parametrize("fault", ["cut", "altered", "cluster", "oversize", "expired", "binary", "empty"])
async def test_bad_token_is_one_clear_line(cluster: FakeCluster, tmp_path: Path, fault: str) -> None:
    good = cluster.token()
    token = {
        "cut": good[:-9],
        "altered": good[:-1] + ("A" if good[-1] != "A" else "B"),
        "cluster": good.replace("-node-", "-cluster-"),
        "oversize": "x" * 10_000,
        "expired": cluster.token(timedelta(seconds=-5)),
        "binary": "\x00\xff",
        "empty": "",
    }[fault]
    async with a_process(tmp_path) as process:
        running = await process.start(token=token)
        _, raw = await asyncio.wait_for(running.communicate(), 20)
        log = raw.decode()
        assert running.returncode in (2, 3) and "Traceback" not in log
        assert "token" in log and (len(token) < 50 or token[20:60] not in log)
        assert not (process.data / "identity.json").exists()


async def test_a_token_that_others_can_read_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    token = cluster.token()
    (tmp_path / "open").write_text(token)
    (tmp_path / "open").chmod(0o644)
    async with a_process(tmp_path) as process:
        running = await process.start("--join", f"@{tmp_path / 'open'}")
        _, raw = await asyncio.wait_for(running.communicate(), 20)
        assert running.returncode == 2 and b"open to others" in raw and b"chmod 600" in raw
        assert token.encode() not in raw and not (process.data / "identity.json").exists()


async def test_used_token_and_no_token_are_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    token = cluster.token()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with a_process(tmp_path / "one") as one, a_process(tmp_path / "two") as two:
        await one.start(token=token)
        await one.ready()
        running = await two.start(token=token)
        _, log = await asyncio.wait_for(running.communicate(), 20)
        assert running.returncode == 3 and b"another key" in log
        running = await two.start()
        _, log = await asyncio.wait_for(running.communicate(), 20)
        assert running.returncode == 6 and b"not enrolled" in log


async def test_second_process_on_the_same_folder_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    async with a_process(tmp_path) as first:
        await first.start(token=cluster.token())
        await first.ready()
        second = await Process(tmp_path).start()
        _, log = await asyncio.wait_for(second.communicate(), 20)
        assert second.returncode == 5 and b"in use by process" in log
        workload = Workload(first.socket)
        assert (await workload.x509()).svids
        workload.close()


async def test_check_says_whether_the_configuration_is_good(tmp_path: Path) -> None:
    process = Process(tmp_path)
    running = await process.start("--check")
    assert await running.wait() == 0
    (tmp_path / "agent.toml").write_text('data_dir = "data"\nsokcet = "w.sock"\n')
    running = await process.start("--check")
    _, log = await running.communicate()
    assert running.returncode == 2 and b"did you mean socket" in log
    running = await process.start("--join", "trustfed-node-1-AAAA")
    _, log = await running.communicate()
    assert running.returncode == 2 and b"AAAA" not in log


async def test_expired_node_comes_back_by_nonce(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.node_ttl = timedelta(seconds=1)
    async with a_process(tmp_path) as process:
        await process.start(token=cluster.token())
        await until((process.data / "identity.json").exists, 20)
        await process.kill()
        identity = IdentityFile(process.data).load()
        assert identity is not None
        await asyncio.sleep(1.1)
        cluster.node_ttl = timedelta(hours=1)
        cluster.log.clear()
        await process.start()
        await process.ready()
        assert "POST /v1/node/renew" in cluster.log
        renewed = IdentityFile(process.data).load()
        assert renewed is not None and renewed.svid.serial != identity.svid.serial


async def test_banned_node_does_not_come_back(cluster: FakeCluster, tmp_path: Path) -> None:
    """It learns of its ban when it renews, serves nothing from then on, and says what a person must do."""
    cluster.node_ttl = timedelta(seconds=1)
    async with a_process(tmp_path) as process:
        await process.start(token=cluster.token())
        await process.ready()
        await process.kill()
        await asyncio.sleep(1.1)
        cluster.banned = "stolen"
        await process.start()

        async def banned() -> bool:
            try:
                return bool((await admin(process.admin, "/status"))[1]["banned"])
            except OSError:
                return False

        await eventually(banned, 20)
        status, answer = await admin(process.admin, "/ready")
        assert status == 503 and "banned" in answer["reason"]
        workload = Workload(process.socket)
        with pytest.raises(GRPCError) as refused:
            await workload.x509()
        workload.close()
        assert refused.value.status is Status.PERMISSION_DENIED

        async def sealed() -> bool:
            cache = (await admin(process.admin, "/status"))[1]["cache"]
            return bool(cache["written_at"]) and not cache["behind"]

        await eventually(sealed, 20)
        _, log = await process.kill()
        assert "banned" in log and "trustfed node token" in log
        # The ban is sealed: a restart with the cluster away serves nothing either.
        await cluster.stop()
        await process.start()
        await eventually(banned, 20)
        assert (await admin(process.admin, "/status"))[1]["counts"]["svids"] == 0


async def test_another_server_at_the_address_gets_no_token(cluster: FakeCluster, tmp_path: Path) -> None:
    async with FakeCluster() as other:
        token = cluster.token(address=f"https://127.0.0.1:{other.door_port}")
        async with a_process(tmp_path) as process:
            running = await process.start(token=token)
            _, log = await asyncio.wait_for(running.communicate(), 20)
            assert running.returncode == 3 and b"pinned" in log
            assert other.log == ["GET /envelope"]


async def test_resident_memory_with_hundred_entries(cluster: FakeCluster, tmp_path: Path) -> None:
    for number in range(100):
        cluster.put(f"m{number}", f"/m/{number}", [f"unix:uid:{10_000 + number}"])
    async with a_process(tmp_path) as process:
        await process.start(token=cluster.token())
        await process.ready()
        workload = Workload(process.socket)
        await eventually(lambda: asyncio.sleep(0.1, process.resident() <= 45), 8)
        for _ in range(300):
            await workload.x509()
        workload.close()
        # What a burst needs is given back within seconds (trustfed.runtime.memory); how high it goes is the bench's to say.
        await eventually(lambda: asyncio.sleep(0.1, process.resident() <= 45), 8)


CLIENT = """
import json, sys
from spiffe import WorkloadApiClient, X509Source, TrustDomain
with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    context = client.fetch_x509_context()
    jwt = client.fetch_jwt_svid(audience={"me"})
    valid = client.validate_jwt_svid(jwt.token, audience="me")
    bundles = client.fetch_jwt_bundles()
    bundle = bundles.get_bundle_for_trust_domain(TrustDomain("east.test"))
    print(json.dumps({
        "id": str(context.default_svid.spiffe_id),
        "ids": [str(svid.spiffe_id) for svid in context.x509_svids],
        "jwt": str(jwt.spiffe_id), "valid": str(valid.spiffe_id), "keys": len(bundle.jwt_authorities),
    }))
"""


async def test_python_spiffe_library_is_served(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("e2", "/second", [ME])
    async with a_process(tmp_path) as process:
        await process.start(token=cluster.token())
        await process.ready()
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CLIENT,
            f"unix://{process.socket}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await asyncio.wait_for(client.communicate(), 30)
        assert client.returncode == 0, errors.decode()
        assert json.loads(out) == {
            "id": "spiffe://east.test/web",
            "ids": ["spiffe://east.test/web", "spiffe://east.test/second"],
            "jwt": "spiffe://east.test/web",
            "valid": "spiffe://east.test/web",
            "keys": 1,
        }


async def test_damaged_identity_is_named(tmp_path: Path) -> None:
    async with a_process(tmp_path) as process:
        process.data.mkdir(mode=0o700)
        (process.data / "identity.json").write_text("{}")
        (process.data / "identity.json").chmod(0o600)
        running = await process.start()
        _, log = await asyncio.wait_for(running.communicate(), 20)
        assert running.returncode == 2 and b"identity.json cannot be used" in log
