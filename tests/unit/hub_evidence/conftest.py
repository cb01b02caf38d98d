from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.clocks import ManualClock
from tests.unit.hub_evidence.evidence_house import EvidenceHouse
from trustfed.hub.evidence.fleet import Fleet


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fleet(clock: ManualClock) -> Fleet:
    return Fleet(clock)


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[EvidenceHouse]:
    made = await EvidenceHouse.make(tmp_path)
    yield made
    await made.close()
