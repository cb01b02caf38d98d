"""A dashboard over a large fleet, to be measured from outside: the product's application behind its TLS door.

`python -m bench.evidence_fleet` prints a login link, then moves its clock by as many seconds as each line of its input says,
and ends with its input. The clock stands still between: the counters' five minutes turn when they are told to.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from tests.fakes.fleet_scene import Scene
from tests.system.dashboard_world import House, self_signed
from tests.unit.hub.hub_parts import HubParts
from trustfed.hub.access import Caller

CLUSTERS, IDENTITIES = 500, 100_000


async def serve(folder: Path) -> None:
    """Clusters with each kind of fault, and for the rest some that do well."""
    hub = await HubParts.make()
    house = House(hub, folder, self_signed(folder))
    scene, moved = _scene(house.now_ms), 0
    scene.fill(house.fleet)
    await scene.enrol(hub)
    await house.open()
    try:
        link, _ = await house.logins.link(Caller("uid:0", "admin"), "bench", "viewer", timedelta(minutes=30))
        print(link, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            hub.clock.move(float(line))
            moved += int(1000 * float(line))
            for said in scene.standings:  # who was heard is heard again
                if said.trust_domain in scene.connected:
                    house.fleet.tell_standing(said.trust_domain, replace(said, as_of_ms=said.as_of_ms + moved))
                    house.fleet.stream(said.trust_domain, True, scene.heard_ms[said.trust_domain] + moved)
            print("moved", flush=True)
    finally:
        await house.close()


def _scene(now_ms: int) -> Scene:
    scene = Scene.make(now_ms, healthy=0)
    draw, well = random.Random(6), CLUSTERS - len(scene.domains)  # noqa: S311 - a scene, the same each time
    for number in range(well):
        said = scene.well(f"team-{number:03d}.example", f"team {number % 20}", draw)
        scene.standings[-1] = replace(said, identities=IDENTITIES // well + 1)
    return scene


if __name__ == "__main__":
    with TemporaryDirectory(prefix="tf-fleet-") as directory:
        asyncio.run(serve(Path(directory)))
