"""An S3 server of the demo's own (SeaweedFS): one bucket, a key that publishes and one that only reads."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustfed.demo.ports import free_ports
from trustfed.demo.processes import Process
from trustfed.demo.programs import installed
from trustfed.errors import Unavailable
from trustfed.runtime.files import write_atomic

BUCKET, PREFIX, REGION = "trustfed", "demo", "us-east-1"
READER = "demo-reader"
START_SECONDS = 60.0
GRPC_ABOVE = 10_000  # where each door of SeaweedFS has its gRPC door
DOORS = ("master", "volume", "filer", "s3", "admin")


@dataclass(frozen=True)
class S3:
    """Where it is, and whose secrets are where."""

    folder: Path
    ports: dict[str, int]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def url(self) -> str:
        """The published files."""
        return f"s3://{BUCKET}/{PREFIX}"

    @property
    def secret(self) -> Path:
        """The publisher's secret access key."""
        return self.folder / "publisher.secret"

    @property
    def credentials(self) -> Path:
        """Both keys, as the AWS SDK reads them."""
        return self.folder / "credentials"

    def target(self) -> str:
        """The hub's table for it."""
        return f"""\
[[publication.targets]]
name = "s3"
kind = "s3"
bucket = "{BUCKET}"
prefix = "{PREFIX}/"
region = "{REGION}"
endpoint_url = "{self.endpoint}"
allow_loopback_http = true
addressing = "path"
access_key_id = "publisher"
secret_access_key_file = "{self.secret}"
"""

    def client(self) -> Any:
        """A boto3 client of whoever may write in the bucket: who runs the store can change everything in it."""
        import boto3  # noqa: PLC0415  a third of a second, for those who have an S3 server only
        from botocore.config import Config  # noqa: PLC0415

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="publisher",
            aws_secret_access_key=self.secret.read_text(),
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=10),
        )

    def make_bucket(self, process: Process) -> None:
        """Wait for the server, make the bucket. Raises Unavailable."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        end = time.monotonic() + START_SECONDS
        with closing(self.client()) as s3:
            while True:
                process.check()
                try:
                    s3.create_bucket(Bucket=BUCKET)
                    s3.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")  # now it has somewhere to write, too
                    return
                except s3.exceptions.BucketAlreadyExists:
                    return
                except (BotoCoreError, ClientError) as error:
                    if time.monotonic() > end:
                        raise Unavailable(
                            f"the S3 server did not start: {error}", hint=f"its log is {process.log}"
                        ) from None
                    time.sleep(0.1)


def binary() -> str | None:
    """The server's program, where it is installed."""
    return installed("weed")


def prepare(folder: Path) -> S3:
    """Choose ports, make keys."""
    folder.mkdir(mode=0o700)
    made = S3(folder, dict(zip(DOORS, free_ports(len(DOORS), GRPC_ABOVE), strict=True)))
    keys = {"publisher": secrets.token_urlsafe(24), READER: secrets.token_urlsafe(24)}
    actions = {"publisher": ["Admin", "Read", "Write", "List"], READER: [f"Read:{BUCKET}", f"List:{BUCKET}"]}
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": key}], "actions": actions[name]}
        for name, key in keys.items()
    ]
    write_atomic(folder / "s3.json", json.dumps({"identities": identities}).encode())
    write_atomic(made.secret, keys["publisher"].encode())
    lines = (f"[{name}]\naws_access_key_id = {name}\naws_secret_access_key = {key}\n" for name, key in keys.items())
    write_atomic(made.credentials, "".join(lines).encode())
    return made


def argv(program: str, s3: S3) -> tuple[list[str], str]:
    """The command line, and the argument that no other process has."""
    mark = f"-dir={s3.folder}/data"
    (s3.folder / "data").mkdir(mode=0o700, exist_ok=True)
    options = [f"-{name}.port={port}" for name, port in s3.ports.items()]
    options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", mark, "-admin.ui=false", "-webdav=false"]
    options += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0"]
    options += [f"-s3.config={s3.folder}/s3.json", f"-s3.localSocket={s3.folder}/s3.sock", "-s3.autoCreateBucket=false"]
    return [program, "mini", *options], mark
