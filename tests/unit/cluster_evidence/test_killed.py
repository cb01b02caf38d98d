"""A process that is killed while it takes reports: what it answered is on record, and nothing is there twice."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.unit.cluster_evidence.evidence_house import Agent, House

SCRIPT = Path(__file__).with_name("killed.py")


async def test_exactly_once_after_kill_9(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    async with asyncio.timeout(30):
        answered = 0
        while answered < 60:
            line = await child.stdout.readline()
            answered = int(line) if line.strip().isdigit() else 0
        child.kill()
        rest = await child.stdout.read()
        await child.wait()
    answered = max([answered, *(int(line) for line in rest.split(b"\n")[:-1] if line.isdigit())])
    house = await House.open(tmp_path)
    try:
        agent = Agent(house, epoch=b"k" * 16)
        mark = house.records.folded.mark("n1", agent.epoch.hex())
        assert mark >= answered
        agent.told()
        # The agent does not know what became of its last reports: it sends from the last answer on.
        agent.sequence = answered
        facts = [agent.fact("offset", offset_ms=number) for number in range(4)]
        assert await agent.say(*facts) == max(mark, answered + 4) + 1
        sequences = [fact.body["sequence"] for fact in await house.facts()]
        assert sequences == list(range(1, max(mark, answered + 4) + 1))
    finally:
        await house.close()
