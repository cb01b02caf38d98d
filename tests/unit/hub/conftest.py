from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.hub.hub_parts import HubParts


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[HubParts]:
    made = await HubParts.make()
    yield made
    await made.close()
