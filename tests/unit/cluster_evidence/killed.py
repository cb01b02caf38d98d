"""A process that takes reports until it is killed: `python killed.py DIRECTORY`, one line for each answer that was given."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.unit.cluster_evidence.evidence_house import Agent, House


async def main(directory: Path) -> None:
    house = await House.open(directory)
    agent = Agent(house, epoch=b"k" * 16)
    agent.told()
    await house.issue(1)
    saving = asyncio.create_task(_saving(house))
    sys.stdout.write("ready\n")
    while not saving.done():
        await agent.say(agent.fact("loaded"), agent.fact("offset", offset_ms=agent.sequence))
        sys.stdout.write(f"{agent.sequence}\n")
        sys.stdout.flush()


async def _saving(house: House) -> None:
    while True:
        await house.records.save()
        await asyncio.sleep(0.001)


asyncio.run(main(Path(sys.argv[1])))
