"""Our reader on what the hub's real publisher makes (bundle_publisher.tuf), through changes, rotations and a dead hub."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from bundle_publisher import manifests
from tests.fakes.tuf_repository import TufRepository
from tests.unit.reading.reading_parts import MemorySource
from trustfed.errors import Denied, NotFound
from trustfed.federation import cluster_document
from trustfed.reading.location import Location
from trustfed.reading.order import Answer, Order, Wanted
from trustfed.reading.reader import read


def visit(
    made: TufRepository,
    state: Path,
    *,
    later: timedelta = timedelta(0),
    stale: timedelta = timedelta(0),
    mesh: bool = False,
) -> Answer:
    files = {name: stored.data for name, stored in made.target.held.items()}
    now = made.clock.now() + later
    order = Order(Location("memory"), made.roots[0], state, now, (Wanted("td-a", mesh=mesh),), accept_stale=stale)
    return read(order, MemorySource(files))


async def test_published_read_changed_rotated_and_left_alone(tmp_path: Path) -> None:
    made, state = await TufRepository.make(), tmp_path / "state"
    domain = await made.domain("td-a")
    await made.bring()
    found = visit(made, state).one("td-a")
    assert found.publication_key == domain.key.spki
    assert found.signed_at == made.clock.now()
    assert cluster_document.read(found.cluster, domain.newcomer.trust_domain).https_addresses == domain.https

    made.clock.move(60)
    await made.publish(domain)
    await made.bring()
    assert visit(made, state).one("td-a").role_version > found.role_version

    await made.rotate(online=True)
    await made.bring()
    assert visit(made, state).root_version == 2

    with pytest.raises(Denied, match="freeze refused"):
        visit(made, state, later=timedelta(hours=3))
    assert visit(made, state, later=timedelta(hours=3), stale=timedelta(hours=3)).stale == timedelta(hours=2)


async def test_the_manifests_of_a_mesh_are_read_as_their_domain_signed_them(tmp_path: Path) -> None:
    made, state = await TufRepository.make(), tmp_path / "state"
    domain = await made.domain("td-a")
    await made.bring()
    with pytest.raises(NotFound, match="does not list mesh/td-a"):
        visit(made, state, mesh=True).one("td-a")
    domain.mesh = mesh = manifests.write(domain.newcomer.trust_domain, 1, [b'{"kind":"Gateway"}'])
    made.clock.move(60)
    part = await domain.publish(made.clock.now())
    domain.part = dataclasses.replace(part, mesh=lambda: mesh)
    made.wanted = dataclasses.replace(made.wanted, parts={"td-a": domain.part})
    await made.bring()
    assert visit(made, state).one("td-a").mesh == b""
    assert visit(made, state, mesh=True).one("td-a").mesh == mesh
    name = domain.part.role.files[2]
    made.put(name, mesh.replace(b"Gateway", b"gateway"))
    with pytest.raises(Denied, match="tampering"):
        visit(made, tmp_path / "newcomer", mesh=True).one("td-a")
