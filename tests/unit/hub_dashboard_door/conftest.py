from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.hub_dashboard_door.dashboard_house import DashboardHouse


@pytest_asyncio.fixture
async def house() -> AsyncIterator[DashboardHouse]:
    """A hub, and a browser that is logged out."""
    made = await DashboardHouse.make()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def peopled(house: DashboardHouse) -> DashboardHouse:
    """The same with the enrolled domain prod-us."""
    await house.hub.enrolled("prod-us")
    house.fleet.know("prod-us", owner="team")
    return house
