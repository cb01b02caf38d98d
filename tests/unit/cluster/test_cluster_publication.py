"""A cluster's own part of the protected publication: when it is signed, that versions only rise, and what the hub gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata

from bundle_publisher import manifests
from bundle_publisher.tuf import delegated
from tests.unit.cluster.cluster_parts import TD, ClusterParts, settle
from trustfed.cluster import events as e
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.publication import OwnRole
from trustfed.errors import Unavailable
from trustfed.federation import cluster_document
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.mesh_digest import digest
from trustfed.spiffe.ids import TrustDomain

DOMAIN = TrustDomain(TD)
ADDRESSES = Addresses(("c.example:8443", "d.example:8443"), ("c.example:9443",))


def own(parts: ClusterParts, keys: object = None) -> OwnRole:
    made = OwnRole(parts.fold, keys or parts.keys, parts.clock)  # type: ignore[arg-type]
    made.open(ADDRESSES, ["join_token", "aws_iam"])
    return made


def key(parts: ClusterParts) -> PublicationKey:
    assert parts.state.domain is not None
    return PublicationKey(parts.state.domain.publication_key)


def signed(parts: ClusterParts) -> e.RoleSigned:
    assert parts.state.role is not None
    return parts.state.role


async def test_the_role_lists_the_newest_envelope_and_the_addresses_of_the_doors(parts: ClusterParts) -> None:
    role = own(parts)
    assert role.message() is None
    assert await role.sign()
    message = role.message()
    assert message is not None
    assert message is role.message()  # the same object: the stream does not send it twice
    said = message.published
    found = delegated.open_role(said.metadata, DOMAIN, key(parts))
    delegated.check_lists(found, said.envelope, said.cluster_document)
    assert said.envelope == parts.state.envelope
    assert found.signed_at == parts.now
    document = cluster_document.read(said.cluster_document, DOMAIN)
    assert (document.grpc_addresses, document.https_addresses) == (ADDRESSES.grpc, ADDRESSES.https)
    assert document.attestors == ("aws_iam", "join_token")
    assert Metadata.from_bytes(said.metadata).signed.version == int(parts.now.timestamp())


class Rendered:
    """What a mesh of one resource would be rendered to, and how often that was asked for."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def digest(self) -> bytes:
        return digest(dict.fromkeys(self.names, "v"))

    def lines(self) -> list[bytes]:
        return [json.dumps({"kind": "ServiceEntry", "name": name}).encode() for name in self.names]


def listed(parts: ClusterParts, role: OwnRole) -> bytes | None:
    """The manifests that the hub is sent, which the role must list."""
    message = role.message()
    assert message is not None
    said = message.published
    found = delegated.open_role(said.metadata, DOMAIN, key(parts))
    data = manifests.unpack(said.manifests) if said.manifests else None
    delegated.check_lists(found, said.envelope, said.cluster_document, data)
    return data


async def test_the_role_lists_what_is_rendered_for_the_istiods(parts: ClusterParts) -> None:
    role, mesh = own(parts), Rendered()
    role.of_mesh(mesh)
    assert await role.sign()
    assert listed(parts, role) is None  # no mesh, no file
    mesh.names = ("a", "b")
    assert await role.sign()
    first = listed(parts, role)
    assert first is not None and first.splitlines()[1:] == [b"---", mesh.lines()[0], b"---", mesh.lines()[1]]
    assert not await role.sign()
    parts.clock.move(86_401)
    assert await role.sign()  # signed anew, and the same bytes
    assert listed(parts, role) == first
    restarted = own(await parts.restart())
    restarted.of_mesh(mesh)
    assert not await restarted.sign()
    assert listed(parts, restarted) == first
    mesh.names = ()
    assert await restarted.sign()  # that there is nothing any more must be said, too
    last = listed(parts, restarted)
    assert last is not None and len(last.splitlines()) == 1
    assert manifests.read_version(last, DOMAIN) > manifests.read_version(first, DOMAIN)


async def test_a_mesh_that_changes_all_the_time_is_published_now_and_then(parts: ClusterParts) -> None:
    role, mesh = own(parts), Rendered()
    role.of_mesh(mesh)
    made = 0
    for number in range(20):
        mesh.names = (f"n{number}",)
        made += await role.sign()
    assert made == 6  # the first role is due anyway
    parts.clock.move(121)
    assert await role.sign()
    assert b'"n19"' in (listed(parts, role) or b"")


async def test_what_is_too_long_for_a_file_keeps_nothing_else_back(parts: ClusterParts) -> None:
    role, mesh = own(parts), Rendered("x" * manifests.MAX_BYTES)
    role.of_mesh(mesh)
    assert await role.sign()
    assert listed(parts, role) is None
    assert not await role.sign()


async def test_what_becomes_too_long_leaves_the_file_before_where_it_is(parts: ClusterParts) -> None:
    role, mesh = own(parts), Rendered("a")
    role.of_mesh(mesh)
    assert await role.sign()
    first = listed(parts, role)
    assert first is not None and not role.too_long()
    mesh.names = ("x" * manifests.MAX_BYTES,)
    assert await role.sign()
    assert listed(parts, role) == first
    assert role.too_long()
    assert not await role.sign()
    parts.clock.move(86_401)
    restarted = own(await parts.restart())  # the file cannot be made any more, and the hub has it
    restarted.of_mesh(mesh)
    assert await restarted.sign()
    message = restarted.message()
    assert message is not None and not message.published.manifests
    found = delegated.open_role(message.published.metadata, DOMAIN, key(parts))
    assert found.mesh == delegated.Listed.of(first)
    assert restarted.too_long()
    mesh.names = ("b",)
    assert await restarted.sign()
    last = listed(parts, restarted)
    assert last is not None and manifests.read_version(last, DOMAIN) > manifests.read_version(first, DOMAIN)
    assert not restarted.too_long()


async def test_versions_of_manifests_rise_also_after_a_role_without_and_a_clock_that_went_back(
    parts: ClusterParts,
) -> None:
    role, mesh = own(parts), Rendered("a")
    role.of_mesh(mesh)
    assert await role.sign()
    first = manifests.read_version(listed(parts, role) or b"", DOMAIN)
    mesh.names = ()
    assert await role.sign()
    parts.clock.move(-3_600)
    mesh.names = ("b",)
    assert await role.sign()
    assert manifests.read_version(listed(parts, role) or b"", DOMAIN) > first


async def test_nothing_is_signed_before_the_doors_are_open(parts: ClusterParts) -> None:
    assert not await OwnRole(parts.fold, parts.keys, parts.clock).sign()


async def test_it_is_signed_again_after_a_day_a_new_envelope_or_another_address_and_not_otherwise(
    parts: ClusterParts,
) -> None:
    role = own(parts)
    versions = []
    for again in (True, False):
        assert await role.sign() is again
    versions.append(signed(parts).version)
    parts.clock.move(86_399)
    assert not await role.sign()
    parts.clock.move(1)
    assert await role.sign()
    versions.append(signed(parts).version)
    await parts.record(e.EpochBegun(5, 1, parts.now))
    await parts.round()
    assert role.message() is None  # the role lists an envelope that is not the newest: the hub would refuse it
    assert await role.sign()
    versions.append(signed(parts).version)
    role.open(Addresses(("new.example:1",), ()), ["join_token"])
    assert await role.sign()
    versions.append(signed(parts).version)
    assert versions == sorted(set(versions))


async def test_versions_rise_also_within_a_second_and_when_the_clock_goes_back(parts: ClusterParts) -> None:
    role = own(parts)
    await role.sign()
    first = signed(parts).version
    role.open(Addresses(("new.example:1",), ()), ["join_token"])
    await role.sign()
    assert signed(parts).version == first + 1
    parts.clock.set_wall(parts.now - timedelta(minutes=40))
    await role.sign()  # signed in the future: signed anew
    assert signed(parts).version == first + 2
    assert signed(parts).signed_at == parts.now


async def test_a_moment_of_a_wrong_clock_takes_no_domain_out_of_the_publication(parts: ClusterParts) -> None:
    role, right = own(parts), parts.now
    await role.sign()
    parts.clock.set_wall(right + timedelta(days=3650))
    await role.sign()
    assert signed(parts).version == int(parts.now.timestamp())
    parts.clock.set_wall(right + timedelta(minutes=1))
    assert await role.sign()
    assert signed(parts).version == int(parts.now.timestamp())  # and no time that has not come, which the hub refuses
    assert not await role.sign()


async def test_a_restart_signs_nothing_and_sends_the_same_again(parts: ClusterParts) -> None:
    role = own(parts)
    await role.sign()
    sent = role.message()
    again = await parts.restart()
    try:
        restarted = own(again)
        assert not await restarted.sign()
        assert restarted.message() == sent
    finally:
        await again.close()


async def test_an_envelope_cut_while_it_is_signed_leaves_nothing_and_the_next_round_signs_the_newest(
    parts: ClusterParts,
) -> None:
    class Slow:
        async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
            await parts.record(e.EpochBegun(7, 1, parts.now))
            await parts.round()
            return await parts.keys.sign(name, messages)

    assert not await own(parts, Slow()).sign()
    assert parts.state.role is None
    assert await own(parts).sign()
    assert (signed(parts).epoch, signed(parts).sequence) == parts.state.level


async def test_the_loop_outlives_a_key_store_that_is_away_and_follows_new_envelopes(parts: ClusterParts) -> None:
    class Away:
        away = True

        async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
            if self.away:
                raise Unavailable("the key store is away")
            return await parts.keys.sign(name, messages)

    keys, told = Away(), []
    role = OwnRole(parts.fold, keys, parts.clock, lambda: told.append(1))  # type: ignore[arg-type]
    role.open(ADDRESSES, ["join_token"])
    running = asyncio.create_task(role.run())
    try:
        await settle()
        assert parts.state.role is None
        keys.away = False
        await parts.clock.advance(5, turns=40)
        assert signed(parts).version and len(told) == 1
        await parts.record(e.EpochBegun(9, 1, parts.now))
        await parts.round()
        role.on_event(e.BundlePublished(9, 1, (), b""))
        await settle(60)
        assert signed(parts).epoch == 9
        await parts.clock.advance(86_401, turns=40)
        assert len(told) == 3
    finally:
        running.cancel()


@pytest.mark.parametrize("name", ["root", "timestamp", "x" * 191])
def test_some_names_can_have_no_role(name: str) -> None:
    with pytest.raises(Exception, match="name"):
        delegated.check_name(TrustDomain(name))
