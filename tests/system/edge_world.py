"""An edge node's surroundings: a store in a real S3, roles by a real STS, and a cluster that attests by the real attestor.

Hub and cluster are fakes in this process, so that a test can take the cluster away and be the domain that signs; agent and
reader are processes of their own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from asyncio import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fakes.cluster import FakeCluster
from tests.fakes.seaweed import NOBODY, READER_ROLE, Credentials, seaweed
from tests.fakes.tuf_store import TufStore
from tests.unit.agent.world import Workload, admin, eventually
from trustfed.cluster.attestation.aws_iam import AwsIam, AwsIamConfig, AwsIamRule
from trustfed.runtime.clock import SystemClock

ROOT = Path(__file__).resolve().parents[2]
RULE = AwsIamRule("arn:aws:sts::000000000000:assumed-role/EdgeReader/*", "edge-{session}", ("edge",))


class EdgeCluster(FakeCluster):
    """Attests by aws_iam; the node's name is the one that the attestor says."""

    def __init__(self, name: str = "edge.test") -> None:
        super().__init__(name, "none")
        self.attestor = AwsIam(AwsIamConfig(seaweed().endpoint, (RULE,)), self.home.trust_domain, SystemClock())

    async def _answer(self, path: str, body: bytes) -> object:
        request = json.loads(body) if path == "/v1/node/attest" else {}
        if request.get("attestor") != "aws_iam":
            return await super()._answer(path, body)
        public_key = base64.b64decode(request["public_key"])
        key_hash = "sha256:" + hashlib.sha256(public_key).hexdigest()
        arn = await self.attestor.verify(request["payload"], key_hash)
        self.node = RULE.name(arn)
        return self._admitted(public_key)


class EdgeStore:
    """A TUF store in a bucket of its own, below a prefix."""

    def __init__(self) -> None:
        self.tuf = TufStore(datetime.now(UTC))
        self.bucket = seaweed().bucket()
        self.url = f"s3://{self.bucket}/trust/prod"

    def put(self, cluster: FakeCluster, *others: Any) -> None:
        """The cluster's domain, and other domains, sign and are published."""
        for domain in (cluster.home, *others):
            addresses = (f"127.0.0.1:{cluster.door_port}",) if domain is cluster.home else ("127.0.0.1:9",)
            self.tuf.add(domain.name, domain=domain, addresses=addresses)
        self.publish()

    def publish(self) -> None:
        self.tuf.publish(datetime.now(UTC))
        self.upload()

    def upload(self) -> None:
        """All files as they are."""
        s3 = seaweed().client()
        for name, data in self.tuf.files.items():
            s3.put_object(Bucket=self.bucket, Key=f"trust/prod/{name}", Body=data)


class EdgeAgent:
    """`python -m agent serve` with nothing but a store, a root and AWS credentials."""

    def __init__(self, folder: Path, url: str, root: bytes, domain: str, session: str, **settings: object) -> None:
        self.folder, self.data, self.socket = folder, folder / "data", folder / "w.sock"
        (folder / "root.json").write_bytes(root)
        table: dict[str, object] = {
            "url": url,
            "root_file": "root.json",
            "trust_domain": domain,
            "endpoint_url": seaweed().endpoint,
            "sts_endpoint_url": seaweed().endpoint,
            "role_arn": READER_ROLE,
            "role_session_name": session,
            **settings,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in table.items()]
        (folder / "agent.toml").write_text(
            'data_dir = "data"\nsocket = "w.sock"\n[store]\n' + "\n".join(lines) + '\n[attest]\nkind = "aws_iam"\n'
        )
        self.process: subprocess.Process | None = None
        self.begun = 0.0

    async def start(self, who: Credentials = NOBODY, join: Path | None = None) -> None:
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": who.key,
            "AWS_SECRET_ACCESS_KEY": who.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.begun = time.monotonic()
        self.process = await subprocess.create_subprocess_exec(
            *(sys.executable, "-m", "agent", "serve", "--config", str(self.folder / "agent.toml")),
            *(("--join", f"@{join}") if join else ()),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def first_svid(self) -> tuple[float, bytes]:
        """Seconds from the process's start to its first SVID, and that answer."""

        async def there() -> bool:
            assert self.process is not None
            if self.process.returncode is not None:
                raise AssertionError((await self.ended())[1])
            return self.socket.exists()

        await eventually(there, 30)
        workload = Workload(self.socket)
        try:
            while True:
                try:
                    answer = await workload.x509()
                    return time.monotonic() - self.begun, answer.svids[0].x509_svid
                except Exception:
                    if time.monotonic() - self.begun > 30:
                        raise
        finally:
            workload.close()

    async def status(self) -> dict[str, Any]:
        return dict((await admin(self.data / "admin.sock", "/status"))[1])

    def resident(self) -> float:
        """Megabytes."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    async def ended(self) -> tuple[int, str]:
        """Exit code and log, once it has ended."""
        assert self.process is not None
        _, log = await self.process.communicate()
        return self.process.returncode or 0, log.decode()

    async def stop(self) -> str:
        """Its log."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        return (await self.ended())[1]
