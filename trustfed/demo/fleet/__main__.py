"""A fleet of simulated clusters in one process, against a real hub.

    python -m trustfed.demo.fleet --hub ADMIN_SOCKET --folder DIR [--count N] [--seed TEXT]

Each enrols by a one-time token that this process asks the hub's admin socket for, and tells its evidence over a stream of
its own that it marks as simulated. What is killed is started again by the same command and goes on from its folders.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import secrets
import sys
from pathlib import Path

from trustfed.demo.door import ask
from trustfed.demo.fleet.cluster import SimulatedCluster
from trustfed.demo.fleet.scenes import Scene, scenes
from trustfed.errors import NotFound, TrustfedError
from trustfed.federation.token import EnrolmentToken
from trustfed.runtime import logs, process
from trustfed.runtime.files import read_private, write_atomic

log = logs.get("demo.fleet")

AT_ONCE = 4
"""Clusters that begin at the same time: more of them only wait for each other's turn of the processor."""
RETRY_SECONDS = 2.0
NICE = 10
"""It is scenery: what is real on this machine goes first."""


class Fleet:
    """All of them; one that fails is tried again and takes no other with it."""

    def __init__(self, hub: Path, folder: Path, count: int, seed: str) -> None:
        self._hub, self._folder, self._seed = hub, folder, seed
        self._scenes = scenes(count)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self, stop: asyncio.Event) -> None:
        """Play until `stop`."""
        playing = [asyncio.create_task(self._play(scene, stop)) for scene in self._scenes]
        log.info("simulated clusters begin", count=len(playing))
        await stop.wait()
        _, late = await asyncio.wait(playing, timeout=5) if playing else (set(), set())
        for task in late:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)

    async def _play(self, scene: Scene, stop: asyncio.Event) -> None:
        while not stop.is_set():
            cluster = SimulatedCluster(scene, self._folder / scene.name, self._seed)
            if cluster.gone:
                return
            try:
                async with self._turns:
                    await cluster.open()
                    if not cluster.enrolled:
                        await cluster.enrol(await self._token(scene))
                await cluster.run(stop)
            except TrustfedError as error:
                log.error("a simulated cluster ended", domain=scene.name, error=error.message, hint=error.hint)
            except Exception as error:  # the others go on
                log.exception("a simulated cluster broke", error=error, domain=scene.name)
            finally:
                await cluster.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await stop.wait()

    async def _token(self, scene: Scene) -> EnrolmentToken:
        """The cluster's token: it is kept until it was used, for a process that is killed in between."""
        path = self._folder / scene.name / "enrolment.token"
        try:
            text = read_private(path, 8192).decode()
        except NotFound:
            order = {"name": scene.name, "owner": scene.owner, "dns_suffixes": [], "simulated": True}
            text = (await asyncio.to_thread(ask, self._hub, "POST", "/domains", order))["token"]
            await asyncio.to_thread(write_atomic, path, text.encode(), 0o600)
        return EnrolmentToken.decode(text, "cluster")


def main(argv: list[str]) -> int:
    """Run the fleet until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m trustfed.demo.fleet", description=__doc__)
    parser.add_argument("--hub", required=True, type=Path, help="the hub's admin socket")
    parser.add_argument("--folder", required=True, type=Path, help="where the clusters' folders are, or will be")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", default="", help="plays the same again; default: another each time")
    options = parser.parse_args(argv)
    logs.configure("warning")
    os.nice(NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        fleet = Fleet(options.hub, options.folder, options.count, options.seed or secrets.token_hex(8))
    except TrustfedError as error:
        parser.error(f"{error.message} ({error.hint})")
    return process.run(fleet.run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
