"""The hub and the protected publication: whose role is taken, which root is installed, and what is published of both."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import weakref
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bundle_publisher import manifests
from bundle_publisher.publish import Publisher
from bundle_publisher.targets.port import Stored
from bundle_publisher.tuf import delegated
from bundle_publisher.tuf import root as roots
from tests.fakes.targets import MemoryTarget
from tests.fakes.tuf_repository import Domain, Reader
from tests.fakes.waiting import until
from tests.unit.hub.hub_parts import ADMIN, DAY, HubParts, settle
from tests.unit.hub.newcomer import Newcomer
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.federation import cluster_document, envelope
from trustfed.federation.envelope import PublicationKey
from trustfed.hub.approvals import DomainRemoval
from trustfed.hub.domains import enrolled
from trustfed.hub.events import RolePublished
from trustfed.hub.protection import Protection
from trustfed.hub.public import admin_app
from trustfed.hub.publication import Publication
from trustfed.hub.rpc import MAX_MESSAGE, Federation
from trustfed.hub.turns import Turns, Waiting
from trustfed.proto import federation_pb2 as pb
from trustfed.spiffe.ids import TrustDomain

HOUR = timedelta(hours=1)


@pytest.fixture
async def domain(hub: HubParts) -> Domain:
    """A domain that is enrolled, with a role over its newest envelope that the hub has not seen."""
    made = Domain(await hub.enrolled("td-a"))
    await made.publish(hub.clock.now())
    return made


async def say(hub: HubParts, domain: Domain, **other: bytes) -> None:
    said = {
        "metadata": domain.part.role.data,
        "document": domain.part.cluster_document,
        "envelope": domain.part.envelope,
        "packed": manifests.pack(domain.mesh) if domain.mesh is not None else b"",
        **other,
    }
    await hub.operations.accept_role(
        domain.name, *(said[name] for name in ("metadata", "document", "envelope", "packed"))
    )


async def test_a_role_is_recorded_with_the_envelope_that_came_with_it(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain)
    held = hub.state.roles["td-a"]
    assert held.metadata == domain.part.role.data
    assert held.envelope == domain.envelope == hub.state.domains["td-a"].envelope
    position = hub.state.position
    await say(hub, domain)  # again, after a reconnect
    assert hub.state.position == position


async def test_a_later_envelope_leaves_the_role_with_the_one_that_it_lists(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain)
    await hub.operations.accept_envelope("td-a", await domain.newcomer.envelope())
    assert hub.state.roles["td-a"].envelope == domain.envelope != hub.state.domains["td-a"].envelope


def rendered(version: int, name: str = "td-a") -> bytes:
    return manifests.write(TrustDomain(name), version, [b'{"kind":"ServiceEntry","version":%d}' % version])


async def test_the_manifests_that_a_role_lists_reach_tuf_clients_and_plain_readers(
    hub: HubParts, tmp_path: Path
) -> None:
    ceremony, domain = Ceremony(hub), Domain(await hub.enrolled("td-a"))
    root, folder = await ceremony.root(), hub.manifests
    await ceremony.install(root)
    plain = MemoryTarget()
    publication = Publication(Publisher({"plain": plain}, hub.clock, lambda: 0.5), folder)
    publication.start(hub.state)
    publisher = asyncio.create_task(publication._publisher.run())  # type: ignore[union-attr]
    try:
        for version in (1, 2):
            domain.mesh = rendered(version)
            await domain.publish(hub.clock.now())
            await say(hub, domain)
            publication.on_event(RolePublished("td-a", b"", b"", 0), hub.state)
            await ceremony.protection.bring(ceremony.target)
            reader = Reader(tmp_path, root, ceremony.target.held)
            assert reader.read("mesh/td-a") == domain.mesh
            await until(lambda: plain.held.get("routes/td-a.yaml", Stored(b"", "")).data == domain.mesh)
        assert len(list((Path(hub._folder.name) / "manifests").iterdir())) == 1  # what no role lists goes
        # A restore of the hub lost the file: its cluster's next stream brings it, and the journal grows by nothing.
        folder.prune(())
        position = hub.state.position
        await say(hub, domain)
        assert hub.state.position == position
        assert folder.read(hashlib.sha256(domain.mesh or b"").hexdigest()) == domain.mesh
        # What a mesh became empty by is said, too; without one the plain file goes.
        domain.mesh = None
        await domain.publish(hub.clock.now())
        await say(hub, domain)
        publication.on_event(RolePublished("td-a", b"", b"", 0), hub.state)
        await until(lambda: "routes/td-a.yaml" not in plain.held and "routes/td-a.yaml.sha256" not in plain.held)
    finally:
        publisher.cancel()


async def _no_manifests(hub: HubParts, domain: Domain) -> None:
    domain.mesh = rendered(1)
    await domain.publish(hub.clock.now())
    await say(hub, domain, packed=b"")


async def _other_manifests(hub: HubParts, domain: Domain) -> None:
    domain.mesh = rendered(1)
    await domain.publish(hub.clock.now())
    await say(hub, domain, packed=manifests.pack(rendered(2)))


async def _unlisted_manifests(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain, packed=manifests.pack(rendered(2)))


async def _manifests_of_another_domain(hub: HubParts, domain: Domain) -> None:
    domain.mesh = rendered(1, "td-b")
    await domain.publish(hub.clock.now())
    await say(hub, domain)


async def _damaged_manifests(hub: HubParts, domain: Domain) -> None:
    domain.mesh = rendered(1)
    await domain.publish(hub.clock.now())
    await say(hub, domain, packed=b"damaged")


async def _another_key(hub: HubParts, domain: Domain) -> None:
    thief = Domain(await Newcomer.make("td-a"))
    part = await thief.publish(hub.clock.now() + timedelta(seconds=5))
    await say(hub, domain, metadata=part.role.data)


async def _another_domain(hub: HubParts, domain: Domain) -> None:
    other = Domain(await hub.enrolled("td-b"))
    part = await other.publish(hub.clock.now())
    await say(hub, domain, metadata=part.role.data)


async def _an_older_version(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain)
    await say(hub, domain, metadata=(await domain.sign_role(hub.clock.now(), version=domain.version - 1)).data)


async def _the_same_version_signed_again(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain)
    await say(hub, domain, metadata=(await domain.sign_role(hub.clock.now(), version=domain.version)).data)


async def _a_version_of_the_future(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain, metadata=(await domain.sign_role(hub.clock.now(), version=2**40)).data)


async def _an_expired_one(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain, metadata=(await domain.sign_role(hub.clock.now() - 31 * DAY)).data)


async def _one_that_lives_too_long(hub: HubParts, domain: Domain) -> None:
    await say(hub, domain, metadata=(await domain.sign_role(hub.clock.now() + DAY, version=domain.version + 1)).data)


async def _another_envelope(hub: HubParts, domain: Domain) -> None:
    old = domain.envelope
    await hub.operations.accept_envelope("td-a", old)
    newer = await domain.newcomer.envelope()
    await say(hub, domain, envelope=newer)


async def _another_document(hub: HubParts, domain: Domain) -> None:
    domain.https = ("thief.example:1",)
    await say(hub, domain, document=domain.document())


async def _a_document_of_another_domain(hub: HubParts, domain: Domain) -> None:
    domain.document = Domain(await hub.enrolled("td-b")).document  # type: ignore[method-assign]
    part = await domain.publish(hub.clock.now())
    await say(hub, domain, metadata=part.role.data, document=part.cluster_document)


async def _a_document_with_another_key(hub: HubParts, domain: Domain) -> None:
    thief = Domain(await Newcomer.make("td-a"))
    domain.document = thief.document  # type: ignore[method-assign]
    part = await domain.publish(hub.clock.now())
    await say(hub, domain, metadata=part.role.data, document=part.cluster_document, envelope=part.envelope)


async def _a_removed_domain(hub: HubParts, domain: Domain) -> None:
    await hub.alone(DomainRemoval("td-a", "gone"))
    await say(hub, domain)


@pytest.mark.parametrize(
    ("attempt", "kind", "message"),
    [
        (_another_key, Denied, "not by the publication key"),
        (_another_domain, Denied, "not by the publication key"),
        (_an_older_version, Denied, "was published"),
        (_the_same_version_signed_again, Denied, "was published"),
        (_a_version_of_the_future, Invalid, "a time that has not come"),
        (_an_expired_one, Denied, "expires at"),
        (_one_that_lives_too_long, Denied, "expires at"),
        (_another_envelope, Denied, "lists another envelope than its newest"),
        (_another_document, Denied, "lists another cluster document"),
        (_a_document_of_another_domain, Denied, "speaks of another trust domain"),
        (_a_document_with_another_key, Denied, "names another publication key"),
        (_a_removed_domain, Denied, "was removed"),
        (_no_manifests, Denied, "another file of manifests"),
        (_other_manifests, Denied, "another file of manifests"),
        (_unlisted_manifests, Denied, "another file of manifests"),
        (_manifests_of_another_domain, Invalid, "not the file of td-a's manifests"),
        (_damaged_manifests, Invalid, "damaged or too long"),
    ],
)
async def test_a_role_is_refused_when_it_is(
    hub: HubParts,
    domain: Domain,
    attempt: Callable[[HubParts, Domain], Awaitable[None]],
    kind: type[TrustfedError],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        await attempt(hub, domain)


async def test_of_a_removed_domain_only_the_version_is_kept_and_a_successor_goes_on_above_it(
    hub: HubParts, domain: Domain
) -> None:
    await say(hub, domain)
    await hub.alone(DomainRemoval("td-a", "gone"))
    assert hub.state.roles["td-a"] == type(hub.state.roles["td-a"])(domain.version)
    again = Domain(await _successor(hub, "td-a"))
    part = await again.publish(hub.clock.now())
    with pytest.raises(Denied, match="was published"):
        await say(hub, again, metadata=(await again.sign_role(hub.clock.now(), version=domain.version)).data)
    again.version = domain.version
    part = await again.publish(hub.clock.now(), envelope=False)
    await say(hub, again)
    assert hub.state.roles["td-a"].metadata == part.role.data


async def _successor(hub: HubParts, name: str) -> Newcomer:
    made = await Newcomer.make(name)
    made.sequence = enrolled_level(hub, name)
    token = await hub.operations.invite(ADMIN, made.trust_domain, "team", [], HOUR)
    from tests.unit.hub.hub_parts import request_of

    await hub.operations.enrol(await request_of(made, token))
    assert enrolled(hub.state, name).status == "enrolled"
    return made


def enrolled_level(hub: HubParts, name: str) -> int:
    return hub.state.domains[name].sequence


class Ceremony:
    """Three people with a key each, and a hub with an admin door and one target."""

    def __init__(self, hub: HubParts) -> None:
        self.hub, self.target = hub, MemoryTarget()
        self.people = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        self.begun = 0
        self.protection = Protection(lambda: hub.state, hub.keys, hub.clock, HOUR, self._begin, hub.manifests)
        self.app = admin_app(dataclasses.replace(hub.parts(), protection=self.protection), lambda: True)

    def _begin(self) -> None:
        self.begun += 1

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, client=("uid:0", 0))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            return await client.request(method, path, json=body)

    async def root(self, *, sign: int = 2, previous: bytes | None = None) -> bytes:
        keys = await self.protection.online_keys()
        public = [PublicationKey.of(key.public_key()) for key in self.people]
        made = roots.create(keys, public, 2, self.hub.clock.now() + 365 * DAY, previous=previous)
        for key in self.people[:sign]:
            made = roots.sign(made, key)
        return made

    async def install(self, root: bytes) -> httpx.Response:
        answer = await self.ask("POST", "/publication/root", {"document": root.decode()})
        await settle()
        return answer


async def test_from_the_keys_over_the_first_root_to_what_readers_get(
    hub: HubParts, domain: Domain, tmp_path: Path
) -> None:
    ceremony = Ceremony(hub)
    assert "publication root create" in ceremony.protection.status()["next"]
    assert (await ceremony.ask("GET", "/publication/root")).status_code == 404
    await ceremony.protection.bring(ceremony.target)
    assert not ceremony.target.held
    keys = (await ceremony.ask("GET", "/publication/keys")).json()
    assert keys == (await ceremony.ask("GET", "/publication/keys")).json()
    assert set(keys) == {"targets", "snapshot", "timestamp"}
    root = await ceremony.root()
    answer = await ceremony.install(root)
    assert (answer.status_code, answer.json()["root_version"], answer.json()["next"]) == (201, 1, None)
    assert answer.json()["domains_without_role"] == ["td-a"]
    assert (await ceremony.install(root)).status_code == 201  # once more changes nothing
    assert len(hub.state.tuf_roots) == 1
    await say(hub, domain)
    await ceremony.protection.bring(ceremony.target)
    assert Reader(tmp_path, root, ceremony.target.held).envelope("td-a") == domain.envelope
    assert ceremony.protection.timestamp_end() > hub.clock.now().timestamp()
    assert (await ceremony.ask("GET", "/publication/root")).json()["document"].encode() == root
    status = (await ceremony.ask("GET", "/publication")).json()["protected"]
    assert (status["domains"], status["domains_without_role"]) == (1, [])


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("too few signatures", 403, "lacks 1 signature"),
        ("not a root", 400, "not JSON"),
        ("a version too many", 409, "the first is missing"),
        ("another hub's keys", 409, "that this hub does not hold"),
    ],
)
async def test_a_root_is_not_installed_with(hub: HubParts, name: str, status: int, detail: str) -> None:
    ceremony = Ceremony(hub)
    root = await ceremony.root(sign=1 if name == "too few signatures" else 2)
    if name == "not a root":
        root = b"junk"
    if name == "a version too many":
        root = await ceremony.root(previous=root)
    if name == "another hub's keys":
        other = await HubParts.make()
        root = await Ceremony(other).root()
        await other.close()
    answer = await ceremony.install(root)
    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text
    assert not hub.state.tuf_roots


async def test_online_keys_are_replaced_by_a_root_that_names_others(
    hub: HubParts, domain: Domain, tmp_path: Path
) -> None:
    ceremony = Ceremony(hub)
    first = await ceremony.root()
    await ceremony.install(first)
    await say(hub, domain)
    await ceremony.protection.bring(ceremony.target)
    reader = Reader(tmp_path, first, ceremony.target.held)
    assert reader.envelope("td-a") == domain.envelope
    old = (await ceremony.ask("GET", "/publication/keys")).json()
    new = (await ceremony.ask("POST", "/publication/keys")).json()
    assert not set(old.values()) & set(new.values())
    await ceremony.protection.bring(ceremony.target)  # the old ones sign until a root names the new ones
    assert reader.envelope("td-a") == domain.envelope
    assert (await ceremony.install(await ceremony.root(previous=first))).status_code == 201
    await ceremony.protection.bring(ceremony.target)
    assert reader.envelope("td-a") == domain.envelope


async def test_a_root_that_ends_soon_is_told(hub: HubParts) -> None:
    ceremony = Ceremony(hub)
    await ceremony.install(await ceremony.root())
    hub.clock.move(340 * 86_400)
    assert "root rotate: the root ends soon" in ceremony.protection.status()["next"]
    hub.clock.move(30 * 86_400)
    assert "has expired" in ceremony.protection.status()["next"]


async def test_news_begins_a_round_and_clears_a_refusal(hub: HubParts, domain: Domain) -> None:
    from trustfed.hub.events import RolePublished

    ceremony = Ceremony(hub)
    event = RolePublished("td-a", b"", b"", 1)
    ceremony.protection.on_event(event)
    assert ceremony.begun == 0  # without a root there is nothing to begin
    await ceremony.install(await ceremony.root())
    ceremony.protection.refuse("td-a", "its version is too low")
    assert ceremony.protection.status()["refused"] == {"td-a": "its version is too low"}
    ceremony.protection.on_event(event)
    assert ceremony.begun == 1
    assert ceremony.protection.status()["refused"] == {}


async def test_two_roots_at_once_only_one_is_installed(hub: HubParts) -> None:
    ceremony = Ceremony(hub)
    one, two = await ceremony.root(), await ceremony.root()
    checked = [await ceremony.protection.check_root(root, hub.clock.now()) for root in (one, two)]
    await hub.operations.install_publication_root(ADMIN, one, *checked[0])
    with pytest.raises(Conflict, match="another root was installed"):
        await hub.operations.install_publication_root(ADMIN, two, *checked[1])


def test_the_largest_manifests_fit_into_one_message_with_the_largest_envelope() -> None:
    largest = (manifests.MAX_PACKED, envelope.MAX_BYTES, cluster_document.MAX_BYTES, delegated.MAX_BYTES)
    assert sum(largest) + 1_024 <= MAX_MESSAGE  # a message too large ends the stream, each time anew


async def test_a_role_may_list_the_manifests_that_are_held_without_bringing_them_again(
    hub: HubParts, domain: Domain
) -> None:
    domain.mesh = rendered(1)
    await domain.publish(hub.clock.now())
    await say(hub, domain)
    before = domain.part.role
    await domain.publish(hub.clock.now() + timedelta(seconds=5))
    assert domain.part.role.version > before.version and domain.part.role.mesh == before.mesh
    hub.clock.move(5)
    await say(hub, domain, packed=b"")
    assert hub.state.roles["td-a"].version == domain.part.role.version
    assert hub.manifests.read(before.mesh.sha256 if before.mesh else "") == domain.mesh
    domain.mesh = rendered(2)
    await domain.publish(hub.clock.now() + timedelta(seconds=10))
    hub.clock.move(10)
    with pytest.raises(Denied, match="lists another file of manifests"):
        await say(hub, domain, packed=b"")


async def test_manifests_that_are_held_wait_for_nothing_unless_their_file_is_lost_or_damaged(
    hub: HubParts, domain: Domain
) -> None:
    domain.mesh = rendered(1)
    await domain.publish(hub.clock.now())
    said = pb.Published(
        metadata=domain.part.role.data,
        cluster_document=domain.part.cluster_document,
        envelope=domain.part.envelope,
        manifests=manifests.pack(domain.mesh),
    )
    put: list[pb.Published] = []

    class Beside:
        def put(self, role: pb.Published) -> None:
            put.append(role)

    class View:
        domain = "td-a"

    door = Federation(hub.operations, hub.relay, None, hub.clock)  # type: ignore[arg-type]

    async def puts() -> int:
        put.clear()
        await door._heard(View(), Beside(), None, pb.FromCluster(published=said))  # type: ignore[arg-type]
        return len(put)

    assert await puts() == 1
    await say(hub, domain)
    assert await puts() == 0  # hundreds of streams that begin at once bring a megabyte each
    listed = hashlib.sha256(domain.mesh).hexdigest()
    (Path(hub._folder.name) / "manifests" / listed).write_bytes(bytes(len(domain.mesh)))
    assert hub.manifests.read(listed) is None
    assert await puts() == 1
    await say(hub, domain)
    assert hub.manifests.read(listed) == domain.mesh


async def test_a_role_that_was_taken_is_not_kept_in_memory(hub: HubParts) -> None:
    class Role:
        envelope = b"envelope"

    taken: list[weakref.ref[Role]] = []

    async def take(role: Role) -> None:
        taken.append(weakref.ref(role))

    waiting = Waiting(Turns(hub.clock), "td-a")
    job = asyncio.create_task(waiting.roles(take))  # type: ignore[arg-type]
    waiting.put(Role())  # type: ignore[arg-type]
    await settle()
    assert len(taken) == 1 and taken[0]() is None
    job.cancel()


async def test_only_a_few_files_of_manifests_are_unpacked_at_once(
    hub: HubParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = [Domain(await hub.enrolled(f"td-{number}")) for number in range(6)]
    for domain in domains:
        domain.mesh = rendered(1, domain.name)
        await domain.publish(hub.clock.now())
    held = most = 0
    unpack, keep = manifests.unpack, hub.manifests.keep

    def unpacked(data: bytes) -> bytes:
        nonlocal held, most
        held += 1
        most = max(most, held)
        return unpack(data)

    def kept(data: bytes) -> str:
        nonlocal held
        held -= 1
        return keep(data)

    monkeypatch.setattr(manifests, "unpack", unpacked)
    monkeypatch.setattr(hub.manifests, "keep", kept)
    await asyncio.gather(*(say(hub, domain) for domain in domains))
    assert most <= 2
    assert len(hub.state.roles) == 6
