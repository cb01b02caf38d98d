"""The plugged-in CA: prepared, gated, handed over, rolled over in order, tainted, gone; it never signs for us."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import new_authority_id
from ca.external import make_external
from ca.keys.memory import MemoryKeys
from ca.lifecycle import Consumer, Kind, Level, Status
from tests.fakes.istio_mesh import request_for
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from tests.unit.istio_ca.test_istio_service import WEB, World
from trustfed.cluster import authority_commands
from trustfed.cluster.istio_ca import external
from trustfed.cluster.istio_ca.inside import Inside
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation.envelope import Envelope
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

DAY, LEAF = timedelta(days=1), 24 * 3600
DOMAIN = TrustDomain(TD)


class Mesh:
    """A cluster with one live reader of its bundle, and the key that istiod will have."""

    def __init__(self, parts: ClusterParts) -> None:
        self.parts, self.reader_has_all = parts, True
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}

    @property
    def readers(self) -> list[Consumer]:
        level = self.parts.level() if self.reader_has_all else Level(0, 0)
        return [Consumer("node n1", level)]

    async def begin(self, **changes: Any) -> str:
        id_ = new_authority_id(os.urandom)
        given = {"not_after": (self.parts.now + 90 * DAY).replace(microsecond=0), "now": self.parts.now, **changes}
        self.keys[id_], twin = make_external(DOMAIN, id_, randomness=os.urandom, **given)
        await self.parts.decide(lambda s: external.prepare(s, id_, twin, LEAF, "istiod signs", self.parts.now))
        await self.settle()
        return id_

    async def settle(self) -> None:
        """Everything that is due; the reader acknowledges what it is given, if it does at all."""
        while await self.parts.authorities.advance(self.readers):
            for authority in self.parts.all():
                if authority_commands.uncertified(authority):
                    await self.parts.authorities.certify_one(authority, self.parts)

    async def live(self, days: float) -> None:
        """Time passes, and the domain's own authorities roll over in it."""
        for _ in range(int(days * 4)):
            self.parts.clock.move(6 * 3600)
            await self.settle()

    def missing(self) -> tuple[str, ...]:
        from ca.lifecycle import waiting_for

        following = external.course(self.parts.state, (), self.parts.now).following
        policy = self.parts.authorities.lifecycle_policy()
        if not following:
            return ()
        return waiting_for(self.parts.state.authorities[following], self.readers, policy, self.parts.now)

    def course(self) -> external.Course:
        return external.course(self.parts.state, self.missing(), self.parts.now)

    async def anchor(self, id_: str, confirmed: bool = False) -> None:
        await self.parts.decide(lambda s: external.anchored(s, id_, self.missing(), confirmed, self.parts.now))

    async def export(self, id_: str) -> None:
        await self.parts.decide(lambda s: external.exported(s, id_, self.missing(), self.parts.now))
        await self.parts.decide(lambda s: external.swapped(s, id_, self.parts.now))

    def anchors(self) -> tuple[bytes, ...]:
        return World(self.parts).anchors()

    def twin(self, id_: str) -> bytes:
        return self.parts.state.authorities[id_].twin


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[Mesh]:
    parts = await ClusterParts.make()
    made = Mesh(parts)
    await made.settle()
    yield made
    await parts.close()


async def test_it_is_an_anchor_first_and_signs_only_once_every_reader_has_it(mesh: Mesh) -> None:
    mesh.reader_has_all = False
    id_ = await mesh.begin()
    assert mesh.twin(id_) in mesh.anchors()
    assert (mesh.course().step, mesh.course().waits_for) == ("publishing", ("node n1",))
    for step in (mesh.export(id_), mesh.anchor(id_)):
        with pytest.raises(Conflict, match="waits for: node n1"):
            await step
    mesh.reader_has_all = True
    assert mesh.course().next == "export"
    await mesh.export(id_)
    assert (mesh.course().step, mesh.course().signing) == ("settled", id_)
    position = mesh.parts.fold.position
    await mesh.export(id_)
    assert mesh.parts.fold.position == position


async def test_it_never_signs_for_us_and_its_key_is_in_no_key_store(mesh: Mesh) -> None:
    id_ = await mesh.begin()
    with pytest.raises(Conflict, match="is external"):
        await mesh.parts.decide(
            lambda s: authority_commands.activate(s, id_, lambda a: a.not_after, "x", mesh.parts.now, ())
        )
    await mesh.export(id_)
    assert isinstance(mesh.parts.keys, MemoryKeys)
    with pytest.raises(NotFound):
        await mesh.parts.keys.public_key(mesh.parts.state.authorities[id_].key_name)
    leaf = await World(mesh.parts).leaf(csr=request_for(WEB))
    assert leaf.issuer.rfc4514_string() != f"CN={TD} authority {id_}"


async def test_the_domains_own_authorities_go_on_beside_it(mesh: Mesh) -> None:
    id_ = await mesh.begin()
    await mesh.export(id_)
    first = mesh.parts.one(Kind.X509, Status.ACTIVE).id
    await mesh.live(4)
    own = mesh.parts.one(Kind.X509, Status.ACTIVE)
    assert own.id != first
    assert mesh.parts.state.authorities[id_].status is Status.ACTIVE
    assert {mesh.twin(id_), own.twin} <= set(mesh.anchors())


async def test_a_roll_over_takes_its_steps_in_order(mesh: Mesh) -> None:
    old = await mesh.begin()
    await mesh.export(old)
    new = await mesh.begin()
    assert {mesh.twin(old), mesh.twin(new)} <= set(mesh.anchors())
    assert mesh.course().next == "anchor"
    with pytest.raises(Conflict, match="cannot take this step yet"):
        await mesh.export(new)
    await mesh.anchor(new)
    await mesh.anchor(new)
    assert (mesh.course().step, mesh.course().next) == ("swapping", "")
    with pytest.raises(Conflict, match="proxies to hold both anchors"):
        await mesh.export(new)
    mesh.parts.clock.move(LEAF)
    await mesh.settle()
    await mesh.export(new)
    course = mesh.course()
    assert (course.step, course.signing, course.leaving) == ("reissuing", new, (old,))
    assert course.until == mesh.parts.now + timedelta(seconds=LEAF) + external.LOADED
    await mesh.live(0.75)
    assert mesh.twin(old) in mesh.anchors()
    await mesh.live(0.5)
    assert mesh.parts.state.authorities[old].status is Status.REMOVED
    assert mesh.twin(old) not in mesh.anchors()
    assert (mesh.course().step, mesh.course().signing) == ("settled", new)


async def test_what_the_old_key_signed_runs_out_only_once_the_files_are_replaced(mesh: Mesh) -> None:
    old = await mesh.begin()
    with pytest.raises(Conflict, match="was not exported yet"):
        await mesh.parts.decide(lambda s: external.swapped(s, old, mesh.parts.now))
    await mesh.export(old)
    new = await mesh.begin()
    await mesh.anchor(new, confirmed=True)
    await mesh.parts.decide(lambda s: external.exported(s, new, mesh.missing(), mesh.parts.now))
    await mesh.live(5)
    assert (mesh.course().step, mesh.course().next) == ("swapping", "swap")
    assert mesh.twin(old) in mesh.anchors()
    await mesh.parts.decide(lambda s: external.swapped(s, new, mesh.parts.now))
    await mesh.live(0.75)
    assert mesh.twin(old) in mesh.anchors()
    await mesh.live(0.75)
    assert mesh.twin(old) not in mesh.anchors()


async def test_an_operator_may_say_that_the_proxies_have_it(mesh: Mesh) -> None:
    old = await mesh.begin()
    await mesh.export(old)
    new = await mesh.begin()
    await mesh.anchor(new)
    await mesh.anchor(new, confirmed=True)
    await mesh.export(new)
    assert mesh.course().signing == new


async def test_a_restart_in_the_middle_goes_on_where_it_was(mesh: Mesh) -> None:
    old = await mesh.begin()
    await mesh.export(old)
    new = await mesh.begin()
    await mesh.anchor(new)
    before = mesh.course()
    mesh.parts = await mesh.parts.restart()
    assert mesh.course() == before
    mesh.parts.clock.move(LEAF)
    await mesh.settle()
    await mesh.export(new)
    assert mesh.course().step == "reissuing"


async def test_one_roll_over_at_a_time_and_one_that_was_never_used_can_be_given_up(mesh: Mesh) -> None:
    id_ = await mesh.begin()
    with pytest.raises(Conflict, match="being rolled in already"):
        await mesh.begin()
    await mesh.parts.decide(lambda s: external.abandon(s, id_, "the key was lost", mesh.parts.now))
    await mesh.settle()
    assert mesh.twin(id_) not in mesh.anchors()
    assert mesh.course().step == "none"
    again = await mesh.begin()
    await mesh.export(again)
    with pytest.raises(Conflict, match="signs already"):
        await mesh.parts.decide(lambda s: external.abandon(s, again, "x", mesh.parts.now))


async def test_a_tainted_one_stays_for_its_leaves_and_a_revoked_one_goes_at_once(mesh: Mesh) -> None:
    id_ = await mesh.begin()
    await mesh.export(id_)
    await mesh.parts.decide(lambda s: authority_commands.taint(s, id_, False, mesh.parts.now))
    await mesh.live(0.5)
    assert mesh.twin(id_) in mesh.anchors()
    assert mesh.parts.one(Kind.X509, Status.ACTIVE).tainted_at is None
    await mesh.parts.decide(lambda s: authority_commands.revoke(s, id_, mesh.parts.now))
    await mesh.settle()
    assert mesh.twin(id_) not in mesh.anchors()
    assert mesh.course().step == "none"


async def test_at_its_end_it_leaves_by_itself(mesh: Mesh) -> None:
    id_ = await mesh.begin(not_after=(mesh.parts.now + 2 * DAY + timedelta(minutes=1)).replace(microsecond=0))
    await mesh.export(id_)
    await mesh.live(3.5)
    assert mesh.parts.state.authorities[id_].status is Status.REMOVED


async def test_what_it_signs_is_verified_by_peers_and_believed_by_no_door_of_ours(mesh: Mesh) -> None:
    id_ = await mesh.begin()
    await mesh.export(id_)
    leaf = istiods_leaf(mesh, id_, f"spiffe://{TD}/ns/shop/sa/web")
    bundle = World(mesh.parts).bundle()
    for chain in ([leaf], [leaf, mesh.twin(id_)]):
        assert verify_x509_svid(chain, bundle, mesh.parts.now).id == SpiffeId.parse(f"spiffe://{TD}/ns/shop/sa/web")
    node = istiods_leaf(mesh, id_, f"spiffe://{TD}/trustfed/node/n1")

    def envelope() -> Envelope:
        from trustfed.cluster.grants import held_envelope

        state = mesh.parts.state
        assert state.domain is not None
        if not made or made[0] is not state.envelope:
            made[:] = [state.envelope, held_envelope(state.envelope, TD, state.domain.publication_key)]
        return made[1]

    made: list[Any] = []
    inside = Inside(envelope, mesh.parts.fold)
    assert inside.bundle() is inside.bundle()
    with pytest.raises(Denied):
        verify_x509_svid([node], inside.bundle(), mesh.parts.now)
    assert mesh.twin(id_) not in inside.anchors()
    assert inside.anchors()


@pytest.mark.parametrize("path", ["/trustfed/cluster", "/trustfed/node/n1", "/trustfed/istio-ca", "/trustfed"])
async def test_what_it_signs_for_our_own_processes_is_believed_by_nobody(mesh: Mesh, path: str) -> None:
    id_ = await mesh.begin()
    await mesh.export(id_)
    bundle = World(mesh.parts).bundle()  # as agents, feeds, hubs and peers hold it
    leaf = istiods_leaf(mesh, id_, f"spiffe://{TD}{path}")
    for chain in ([leaf], [leaf, mesh.twin(id_)]):
        with pytest.raises(Denied, match="is external"):
            verify_x509_svid(chain, bundle, mesh.parts.now)


def istiods_leaf(mesh: Mesh, id_: str, uri: str) -> bytes:
    """A workload certificate as istiod makes it: RSA key, key encipherment, no subject."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    from tests.fakes.istio_mesh import rsa_key

    ca = x509.load_der_x509_certificate(mesh.twin(id_))
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .public_key(rsa_key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(mesh.parts.now - timedelta(minutes=2))
        .not_valid_after(mesh.parts.now + DAY)
        .add_extension(x509.KeyUsage(True, False, True, False, False, False, False, False, False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(mesh.keys[id_].public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
    )
    return made.sign(mesh.keys[id_], hashes.SHA256()).public_bytes(Encoding.DER)


async def test_only_what_this_domain_makes_becomes_an_anchor(mesh: Mesh) -> None:
    now, end = mesh.parts.now, (mesh.parts.now + 90 * DAY).replace(microsecond=0)
    id_, other = (new_authority_id(os.urandom) for _ in range(2))

    def twin(domain: str = TD, authority: str = id_, **changes: Any) -> bytes:
        given = {"not_after": end, "now": now, **changes}
        return make_external(TrustDomain(domain), authority, randomness=os.urandom, **given)[1]

    def refused(der: bytes, authority: str = id_, leaf: int = LEAF, why: str = "w") -> str:
        with pytest.raises((Invalid, Conflict)) as caught:
            external.prepare(mesh.parts.state, authority, der, leaf, why, now)
        return caught.value.message

    good = twin()
    assert external.prepare(mesh.parts.state, id_, good, LEAF, "w", now)
    assert "is not what this domain makes" in refused(twin("td-b"))
    assert "is not what this domain makes" in refused(twin(authority=other))
    broken = bytearray(good)
    broken[-1] ^= 1
    assert "not signed with its own key" in refused(bytes(broken))
    assert "made at" in refused(twin(now=now - timedelta(hours=1)))
    assert "would end at" in refused(twin(not_after=(now + DAY).replace(microsecond=0)))
    assert "longest certificate life" in refused(good, leaf=10)
    assert "needs a reason" in refused(good, why=" ")
    assert "exists already" in refused(good, authority=mesh.parts.one(Kind.X509, Status.ACTIVE).id)
    assert refused(b"\x30\x00")
    intermediate = mesh.parts.one(Kind.X509, Status.ACTIVE)
    assert refused(intermediate.twin), "a twin of ours has another id"
    with pytest.raises(Invalid, match="would live until"):
        twin(not_after=now + 400 * DAY)
