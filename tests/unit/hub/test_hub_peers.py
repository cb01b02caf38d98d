"""Who may speak on the clusters' door, certificate by certificate."""

from __future__ import annotations

import pytest

from tests.unit.hub.hub_parts import HubParts
from tests.unit.hub.newcomer import Newcomer
from trustfed.errors import Denied
from trustfed.hub.approvals import DomainRemoval
from trustfed.hub.peers import Peers, Unauthenticated


@pytest.mark.parametrize("shown", [None, b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
async def test_no_certificate_or_garbage_is_nobody(hub: HubParts, shown: bytes | None) -> None:
    with pytest.raises(Unauthenticated):
        Peers(lambda: hub.state).verify(shown, hub.clock.now())


async def test_a_cluster_is_known_until_its_bundle_or_its_time_says_otherwise(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    peers = Peers(lambda: hub.state)
    shown = (await west.svid(ttl=3600)).chain_pem()
    assert str(peers.verify(shown, hub.clock.now()).id) == "spiffe://west/trustfed/cluster"
    assert peers.verify(shown, hub.clock.now()) is peers.verify(shown, hub.clock.now())  # remembered
    await hub.operations.accept_envelope("west", await west.envelope(twins=[]))
    with pytest.raises(Unauthenticated, match="no authority"):
        peers.verify(shown, hub.clock.now())
    await hub.operations.accept_envelope("west", await west.envelope())
    peers.verify(shown, hub.clock.now())
    hub.clock.move(3601)
    with pytest.raises(Unauthenticated, match="expired"):
        peers.verify(shown, hub.clock.now())


@pytest.mark.parametrize("path", ["/payments/api", "/trustfed/node/n1", "/trustfed/hub"])
async def test_another_role_is_refused_whoever_signed_it(hub: HubParts, path: str) -> None:
    west = await hub.enrolled("west")
    with pytest.raises(Denied, match="may not speak"):
        Peers(lambda: hub.state).verify((await west.svid(path)).chain_pem(), hub.clock.now())


async def test_an_authority_of_another_domain_mints_nobody(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    # Same name, same SPIFFE ID, even an intermediate of the same root: but a key that the bundle of west does not hold.
    mallory = await Newcomer.make("west")
    signed = await hub.operations.sign_intermediate("west", mallory.authority, mallory.csr)
    mallory.intermediate = signed.intermediate.certificate
    peers = Peers(lambda: hub.state)
    with pytest.raises(Unauthenticated, match="no authority"):
        peers.verify((await mallory.svid()).chain_pem(), hub.clock.now())
    peers.verify((await west.svid()).chain_pem(), hub.clock.now())


async def test_unknown_and_removed_domains_are_refused(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    peers = Peers(lambda: hub.state)
    shown = (await west.svid()).chain_pem()
    peers.verify(shown, hub.clock.now())
    await hub.alone(DomainRemoval("west", "gone"))
    with pytest.raises(Denied, match="was removed") as refused:
        peers.verify(shown, hub.clock.now())
    assert not isinstance(refused.value, Unauthenticated)
    elsewhere = await HubParts.make()  # another federation
    stranger = await elsewhere.enrolled("stranger")
    await elsewhere.close()
    with pytest.raises(Denied, match="not registered"):
        peers.verify((await stranger.svid()).chain_pem(), hub.clock.now())
