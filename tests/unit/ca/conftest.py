from __future__ import annotations

import pytest

from tests.unit.ca.material import Domain, make_domain


@pytest.fixture
async def domain() -> Domain:
    return await make_domain()
