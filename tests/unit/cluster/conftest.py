from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.cluster.cluster_parts import ClusterParts


@pytest_asyncio.fixture
async def parts() -> AsyncIterator[ClusterParts]:
    made = await ClusterParts.make()
    yield made
    await made.close()
