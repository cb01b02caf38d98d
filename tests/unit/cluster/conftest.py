from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.fakes.cluster import Domain
from tests.fakes.foreign_peer import ForeignPeer, svid
from tests.unit.cluster.cluster_parts import ClusterParts
from tests.unit.cluster.foreign_house import CA, TDF, House


@pytest_asyncio.fixture
async def parts() -> AsyncIterator[ClusterParts]:
    made = await ClusterParts.make()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def house(parts: ClusterParts) -> House:
    return House(parts)


@pytest.fixture
def web() -> Iterator[ForeignPeer]:
    with ForeignPeer(Domain(TDF), CA.server()) as made:
        yield made


@pytest.fixture
def spiffe() -> Iterator[ForeignPeer]:
    domain = Domain(TDF)
    with ForeignPeer(domain, svid(domain)) as made:
        yield made
