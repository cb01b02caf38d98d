"""The whole way of an order: a form of the dashboard, the hub's journal, a real stream, the cluster's own rules, and back."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest_asyncio

from ca.lifecycle import Kind, Status
from tests.fakes.waiting import until as waited
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from tests.unit.cluster_evidence.test_orders import World as Cluster
from tests.unit.hub.hub_parts import ADMIN
from tests.unit.hub_dashboard_door.dashboard_house import DashboardHouse
from tests.unit.hub_evidence.evidence_house import EvidenceHouse, until
from trustfed.cluster import enrolment
from trustfed.cluster.config import Policy
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.fleet_link import FleetLink
from trustfed.cluster.evidence.kept import open_kept
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.witnessing import Witnessing
from trustfed.cluster.identity import OwnIdentity
from trustfed.evidence.standing import Authority, Standing
from trustfed.evidence.store import ChangedRows
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.roots import reopen
from trustfed.hub.dashboard.views import VIEWS
from trustfed.hub.enrol import EnrolRequest
from trustfed.journal.memory import MemoryJournal, MemoryLedger
from trustfed.journal.merkle.witness_files import WitnessFiles
from trustfed.spiffe.ids import TrustDomain

TAKEN = ("rotate", "republish", "pause")


class NoRows:
    """An evidence store in which nothing happened."""

    store_id = "store-1"

    async def changed_since(self, cursor: int, limit: int) -> ChangedRows:
        return ChangedRows(cursor, [], [], whole=False)


async def enrolled(house: EvidenceHouse) -> ClusterParts:
    """A cluster with its own journal and keys, enrolled at this hub as its program does it, but for the HTTPS between."""
    policy, hub = Policy(svid_ttl_max=timedelta(hours=1)), house.hub
    parts = await ClusterParts.make(enrolled=False, journal=MemoryJournal(), ledger=MemoryLedger(), policy=policy)
    await enrolment.make_keys(parts.fold, parts.keys, parts.authorities, TrustDomain(TD), parts.clock)
    token = await hub.operations.invite(ADMIN, TrustDomain(TD), "team", [], timedelta(hours=1))
    document, authority = await enrolment._request(parts.fold, parts.keys, token)
    sent = {name: base64.b64decode(document[name]) for name in ("publication_key", "csr", "envelope")}
    key = PublicationKey(sent["publication_key"])
    request = EnrolRequest(token.secret_hash(), key, authority, sent["csr"], sent["envelope"])
    admitted = await hub.operations.enrol(request)
    intermediate = base64.b64encode(admitted.intermediate.certificate).decode()
    answer: dict[str, object] = {"hub": {"grpc": house.address}, "suffixes": [], "intermediate": intermediate}
    documents = hub.state.root_documents
    await enrolment._adopt(
        parts.fold, parts.authorities, answer, authority, token, documents, reopen(documents[-1]), parts.clock
    )
    return parts


class Federation:
    """One hub with its dashboard, one cluster with its stream to it."""

    def __init__(self, house: EvidenceHouse, dashboard: DashboardHouse, cluster: Cluster) -> None:
        self.house, self.dashboard, self.cluster = house, dashboard, cluster
        self.running: asyncio.Task[None] | None = None

    async def connect(self, folder: Path) -> None:
        parts = self.cluster.parts
        alarms = Alarms(parts.clock, parts.registry)
        kept = self.kept = await open_kept(folder / "kept.db")
        journal, ledger = parts.journal, parts.ledger
        assert isinstance(journal, MemoryJournal) and isinstance(ledger, MemoryLedger)
        own = ClusterLogs(
            parts.fold,
            lambda: ledger.position,
            journal.log,
            ledger.log,
            parts.keys,
            kept,
            300,
            None,
            alarms,
            parts.clock,
            parts.registry,
        )
        await own.start()
        witnessing = Witnessing(own, WitnessFiles(folder / "held"), kept, "hub.example", alarms, parts.registry)
        identity = OwnIdentity(TrustDomain(TD), parts.issuance, parts.policy.node_ttl, parts.clock)
        await identity.renew()
        x509 = parts.one(Kind.X509, Status.ACTIVE)
        authority = Authority(x509.id, "x509", "active", "ec-p256", "file", 1, 2, 1)

        async def standing() -> bytes:
            now = int(parts.clock.now().timestamp() * 1000)
            return msgspec.json.encode(Standing(TD, now, identities=7, authorities=(authority,), orders=TAKEN))

        async def answer(kind: str, body: bytes) -> bytes:
            return b"{}"

        link = FleetLink(
            lambda: parts.state,
            identity,
            NoRows,
            own,
            witnessing,
            standing,
            answer,
            self.cluster.orders.take,
            parts.clock,
            parts.registry,
        )
        self.running = asyncio.create_task(link.run())
        await until(lambda: self.house.evidence.fleet.standing(TD) is not None)

    async def close(self) -> None:
        if self.running is not None:
            self.running.cancel()
            with suppress(asyncio.CancelledError):
                await self.running
        await self.kept.close()
        await self.cluster.parts.close()
        self.dashboard.news.close()
        await self.dashboard.client.aclose()
        await self.dashboard.sessions.close()
        self.dashboard._folder.cleanup()


@pytest_asyncio.fixture
async def federation(house: EvidenceHouse, tmp_path: Path) -> AsyncIterator[Federation]:
    parts = await enrolled(house)
    dashboard = DashboardHouse(house.hub, VIEWS)
    for name in ("orders", "fleet"):
        object.__setattr__(dashboard.parts, name, getattr(house.evidence, name))
    made = Federation(house, dashboard, Cluster(parts, TAKEN))
    await made.connect(tmp_path)
    yield made
    await made.close()


async def test_an_order_goes_from_a_form_to_the_cluster_and_its_outcome_comes_back(federation: Federation) -> None:
    dashboard, cluster = federation.dashboard, federation.cluster
    await dashboard.enter(dashboard, "operator")
    done = await dashboard.send(f"/actions/rotate?domain={TD}", "/actions/rotate", reason="the drill of March")
    assert done.status_code == 303, done.text
    (order,) = federation.house.hub.state.evidence.orders_of(TD)  # the form waited for the cluster's word
    assert (order.outcome, order.error, order.made.proposed_by) == ("done", "", "uid:1000/alice")
    taken, rotation = (await cluster.events())[-2:]
    assert (taken.kind, taken.actor, taken.reason) == ("order.taken", "hub:hub.example", "the drill of March")
    assert (taken.body["id"], taken.body["proposed_by"]) == (order.made.id, "uid:1000/alice")
    assert rotation.kind == "rotation.ordered"
    listed = await dashboard.get(done.headers["location"])
    assert "the drill of March" in listed.text and "done" in listed.text
    again = await dashboard.send(f"/actions/republish?domain={TD}", "/actions/republish", reason="a lost envelope")
    assert again.status_code == 303 and cluster.republished == 1
    wrong = f"/actions/rotate?domain={TD}&entries=none-such"
    assert (await dashboard.send(wrong, "/actions/rotate", reason="a wrong entry")).status_code == 303
    refused = federation.house.hub.state.evidence.orders_of(TD)[-1]
    assert (refused.outcome, cluster.republished) == ("not_found", 1) and "none-such" in refused.error


async def test_what_moves_an_authority_takes_two_people_and_both_are_on_the_clusters_record(
    federation: Federation,
) -> None:
    dashboard, cluster, other = federation.dashboard, federation.cluster, federation.dashboard.browser()
    await dashboard.enter(dashboard, "admin")
    await dashboard.enter(other, "admin", "carol", "uid:1001")
    page = f"/actions/pause?domain={TD}&kind=x509"
    proposed = await dashboard.send(page, "/actions/pause", reason="wait for the audit")
    assert proposed.status_code == 303, proposed.text
    proposal = proposed.headers["location"]
    assert not federation.house.hub.state.evidence.orders_of(TD) and not cluster.parts.state.evidence.paused
    approved = await other.send(proposal, f"{proposal}/approve")
    assert approved.status_code == 303, approved.text
    await waited(lambda: "x509" in cluster.parts.state.evidence.paused)
    await until(lambda: federation.house.hub.state.evidence.orders_of(TD)[-1].outcome == "done")
    taken = next(event for event in reversed(await cluster.events()) if event.kind == "order.taken")
    assert (taken.body["proposed_by"], taken.body["approved_by"]) == ("uid:1000/alice", "uid:1001/carol")
