"""The story that `trustfed demo` tells: each step done by real processes, measured, and printed as it happens.

1  a root; two trust domains enrol
2  nodes are attested; entries; SVIDs reach the workloads
3  grants both ways, offered by the hub, accepted by each owner; bundles arrive
4  workloads of the two domains call each other over mTLS
5  a forged certificate is refused
6  a service is exported, and reaches the other cluster's istiod through its feed
7  Envoys carry calls to it: two sidecars, two gateways, one of which dies
8  an authority is replaced, gated, under all these calls
9  SVIDs of both domains rotate under the calls
10 the hub and a cluster are killed, its agent starts again with nobody there, under the calls; all come back
11 bundles are published to an S3 store, verified by a reader, tampered with, refused
12 the grants end
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType

from trustfed.demo import house, openbao
from trustfed.demo.files import DemoFile
from trustfed.demo.founding import Founding
from trustfed.demo.house import House
from trustfed.demo.mesh import Mesh
from trustfed.demo.outage import Outage
from trustfed.demo.processes import end
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.demo.store import Store, start_s3
from trustfed.demo.trials import Trials
from trustfed.errors import TrustfedError


def run(directory: Path | None, *, once: bool, svid_ttl: timedelta, keys: str, brief: bool = False) -> bool:
    """Tell the story, or its beginning (`brief`); then, unless `once`, stay until Ctrl-C. Ends all that it started.

    True if every step held.
    """
    # SIGINT too: a shell without job control starts its background jobs deaf to it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    place = house.plan(directory, svid_ttl)
    screen = Screen()
    story = Story(place, screen, brief=brief)
    try:
        screen.title(f"trustfed demo in {place.directory}: every process is real, its log is in logs/")
        if keys == "openbao":
            openbao.start(place)
        start_s3(place)
        house.write_configurations(place)
        told = story.tell()
        seconds = time.monotonic() - screen.began
        held = screen.steps - screen.failed
        screen.title(f"{held} of {screen.steps} steps held, {seconds:.0f} s")
        if told and not once:
            story.stay()
        return told and not screen.failed
    except KeyboardInterrupt:
        if once:
            raise
        return not screen.failed
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # impatience must not leave half of it running
        screen.doing("stopping")
        story.close()
        if directory is None and not screen.failed:
            # Made for this run, and of use only to find out what went wrong.
            shutil.rmtree(place.directory, ignore_errors=True)


class Story:
    """The steps, on one house."""

    def __init__(self, place: House, screen: Screen, *, brief: bool = False) -> None:
        self._house, self._screen, self._brief = place, screen, brief
        self._founding, self._trials = Founding(place, screen), Trials(place, screen)
        self._outage, self._store, self._mesh = Outage(place, screen), Store(place, screen), Mesh(place, screen)
        self._file: DemoFile | None = None

    def tell(self) -> bool:
        """All steps in order; those that could not do without a failed one are left out. True if none was."""
        founding, trials = self._founding, self._trials
        beginning = (
            (founding.enrol, True),
            (founding.serve_identities, True),
            (founding.agree, True),
            (self._open, True),
            (trials.call, True),
            (trials.forge, False),
            (self._mesh.export, False),
            (self._mesh.carry, False),
        )
        rest = (
            (trials.replace_authority, False),
            (trials.rotate, False),
            (self._outage.survive, False),
            (self._store.publish, False),
            (lambda: trials.end_grants(founding.grants), False),
        )
        for step, must_hold in beginning if self._brief else beginning + rest:
            failed = self._screen.failed
            step()
            if must_hold and self._screen.failed > failed:
                self._screen.title(f"the steps that follow need this one; the logs are in {self._house.directory}/logs")
                return False
        return True

    def stay(self) -> None:
        """Grant anew what the story ended, say where everything is, and wait for Ctrl-C."""
        if not self._brief:
            self._grant_anew()
        if self._file is not None:
            self._file.write()
        self._screen.title(_where(self._house))
        while True:
            signal.pause()

    def close(self) -> None:
        """End every process, whoever started it last."""
        self._mesh.close()
        if self._file is not None:
            self._file.close()
        for name in end(self._house.processes):
            self._screen.title(f"{name} had to be killed")

    def _open(self) -> None:
        """Everything runs: from here on demo.json says where."""
        self._file = DemoFile(self._house, self._founding.root)

    def _grant_anew(self) -> None:
        began = time.time()
        step = Step(self._screen, "granting anew")
        try:
            self._founding.grant(step)
        except TrustfedError as error:
            self._screen.title(f"granting anew failed: {error.message}")
        else:
            self._screen.title(
                f"the grants are given anew, so that calls flow while you look around: {milliseconds(began)}"
            )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _where(place: House) -> str:
    west = place.clusters[0]
    command = "trustfed" if shutil.which("trustfed") else Path(sys.executable).with_name("trustfed")
    return f"""
it stays up until Ctrl-C; {place.directory}/demo.json names every process, socket and log
  hub       https://{place.hub.https} (API below /api/v1, bundles below /bundles; its root: {place.directory}/root.pem)
  published {place.hub.public}
  istiod    fs://{west.istio} or xds://{west.mcp} has what {west.name} imports

to try, in another terminal:
  export TRUSTFED_HUB_SOCKET={place.hub.admin} TRUSTFED_CLUSTER_SOCKET={west.admin}
  {command} grant list
  {command} authority list
  {command} svid watch --socket {west.api}
  curl --cacert {place.directory}/root.pem https://localhost:{place.hub.https.rpartition(":")[2]}/bundles/{west.name}
"""
