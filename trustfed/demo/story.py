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
12 the dashboard shows a fleet: these two clusters, and simulated ones with faults
13 an agent and a cluster are killed, and the dashboard says so
14 a pack of evidence is verified by two programs, and refused by both after one bit changed
15 the grants end
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType

from trustfed.demo import house, openbao
from trustfed.demo.browser import login_link
from trustfed.demo.files import DemoFile
from trustfed.demo.fleet.scenes import scenes
from trustfed.demo.founding import Founding
from trustfed.demo.house import House
from trustfed.demo.mesh import Mesh
from trustfed.demo.outage import Outage
from trustfed.demo.processes import end
from trustfed.demo.proof import Proof
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.demo.seeing import Seeing
from trustfed.demo.store import Store, start_s3
from trustfed.demo.trials import Trials
from trustfed.errors import TrustfedError

LINK_SECONDS = 1_800
"""A login link lives for an hour: while the demo stays up there is always one with half of that left."""


def run(
    directory: Path | None, *, once: bool, svid_ttl: timedelta, keys: str, brief: bool = False, fleet: int = 12
) -> bool:
    """Tell the story, or its beginning (`brief`); then, unless `once`, stay until Ctrl-C. Ends all that it started.

    Beside the two real clusters there are `fleet` simulated ones.

    True if every step held.
    """
    scenes(fleet)  # before anything is made: raises Invalid for a number that cannot be
    # SIGINT too: a shell without job control starts its background jobs deaf to it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    place = house.plan(directory, svid_ttl)
    screen = Screen()
    story = Story(place, screen, brief=brief, fleet=fleet)
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

    def __init__(self, place: House, screen: Screen, *, brief: bool = False, fleet: int = 0) -> None:
        self._house, self._screen, self._brief = place, screen, brief
        self._founding, self._trials = Founding(place, screen), Trials(place, screen)
        self._outage, self._store, self._mesh = Outage(place, screen), Store(place, screen), Mesh(place, screen)
        self._seeing, self._proof = Seeing(place, screen, self._founding.root, fleet), Proof(place, screen)
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
            (self._seeing.look, False),
            (self._seeing.move, False),
            (self._proof.verify, False),
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
        self._let_in()
        self._screen.title(_where(self._house, self._founding.root))
        while True:
            time.sleep(LINK_SECONDS)
            with contextlib.suppress(TrustfedError):  # the hub may be killed just now
                self._let_in()

    def close(self) -> None:
        """End every process, whoever started it last."""
        self._mesh.close()
        if self._file is not None:
            self._file.close()
        for name in end(self._house.processes):
            self._screen.title(f"{name} had to be killed")

    def _open(self) -> None:
        """Everything runs: from here on demo.json says where. The fleet comes up beside the steps that follow."""
        self._seeing.start()
        self._file = DemoFile(self._house, self._founding.root)
        self._let_in()

    def _let_in(self) -> None:
        """A fresh link that opens the dashboard."""
        self._house.login = login_link(self._house.hub.admin, "demo", "admin")
        if self._file is not None:
            self._file.write()

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


def _where(place: House, root: Path) -> str:
    west = place.clusters[0]
    command = "trustfed" if shutil.which("trustfed") else Path(sys.executable).with_name("trustfed")
    return f"""
it stays up until Ctrl-C; {place.directory}/demo.json names every process, socket and log
  dashboard {place.dashboard}
  log in    {place.login}
            once, within the hour; `trustfed hub login` makes another. The hub's certificate comes from this demo's own
            root: let the browser go on, or import {root}
  to see    the fleet, worst first: two real clusters, and simulated ones: a dead cluster, a late rotation, a rollover
            that one node holds up, a serial nobody issued, a silent node, a wrong clock, a withheld figure. Kill an agent
            or a cluster by its pid in demo.json, and watch
  hub       https://{place.hub.https} (API below /api/v1, bundles below /bundles; its root: {root})
  published {place.hub.public}
  istiod    fs://{west.istio} or xds://{west.mcp} has what {west.name} imports

to try, in another terminal:
  export TRUSTFED_HUB_SOCKET={place.hub.admin} TRUSTFED_CLUSTER_SOCKET={west.admin}
  {command} grant list
  {command} authority list
  {command} svid watch --socket {west.api}
  curl --cacert {root} https://localhost:{place.hub.https.rpartition(":")[2]}/bundles/{west.name}
"""
