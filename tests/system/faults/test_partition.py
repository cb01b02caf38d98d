"""A partition that is shorter than what every SVID has left to live: nobody who works notices, nor who starts anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography import x509

from tests.system.faults.invariants import split
from tests.system.faults.partition import Partition
from tests.system.faults.world import World
from tests.system.stack import Agent, until
from tests.unit.agent.world import Workload

# Two minutes of life and 45 seconds of cut, scaled: SVIDs are replaced at half life, so at least 0.45 of it is left.
TTL, CUT = 30, 11.0
RESTART_SECONDS = 10.0
"""Below 1 s where nothing else runs (`make bench`); here other tests share the machine."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("partition") / "w", svid_ttl=TTL) as made:
        yield made


def test_no_call_fails_through_a_partition(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    report = Partition(world, 2.0, CUT).run()
    with capsys.disabled():
        print("\n" + report.text())
    assert report.violations == []
    for phase in (report.before, report.during, report.after):
        assert all(phase.made[kind] > 0 for kind in ("call", "new workload", "JWT-SVID"))


def test_an_agent_that_starts_with_nobody_there_serves_what_it_had(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = world.agents[0]
    until(lambda: agent.admin.get("/status")["sync"]["connected"], "the stream to the cluster")
    time.sleep(1.0)  # what was acknowledged is in the cache well before that
    before = svid(agent)
    for process in (world.processes["hub"], *(cluster.process for cluster in world.clusters), agent.process):
        process.kill()
    began = time.monotonic()
    agent.process.start(wait=False)
    after = until(lambda: svid(agent), "an SVID", RESTART_SECONDS)
    took = time.monotonic() - began
    with capsys.disabled():
        print(f"\nstarted with everything else away: the first SVID after {took:.2f} s")
    assert after.serial_number == before.serial_number and after.not_valid_after_utc > datetime.now(UTC)


def svid(agent: Agent) -> x509.Certificate | None:
    """The first leaf that the agent gives to a new workload; None while it gives none."""

    async def ask() -> x509.Certificate | None:
        workload = Workload(agent.socket)
        try:
            answer = await workload.x509()
            return x509.load_der_x509_certificate(split(answer.svids[0].x509_svid)[0])
        except Exception:  # it is not up yet
            return None
        finally:
            workload.close()

    return asyncio.run(ask())
