from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.hub_mesh.mesh_hub import MeshHub


@pytest_asyncio.fixture
async def world() -> AsyncIterator[MeshHub]:
    made = await MeshHub.make()
    yield made
    await made.close()
