"""What every node attestor must hold to, together with the decision behind it (trustfed.cluster.nodes.attest)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
import pytest_asyncio

from tests.fakes.attestors import Vouched, vouch
from tests.fakes.aws_sessions import signed_session
from tests.fakes.seaweed import seaweed
from tests.unit.cluster.cluster_parts import TD, ClusterParts, NodeKey
from trustfed.cluster import nodes
from trustfed.cluster.attestation.aws_iam import AwsIam, AwsIamConfig, AwsIamRule
from trustfed.cluster.attestation.join_token import JoinToken
from trustfed.cluster.attestation.port import NodeAttestor
from trustfed.cluster.config import Policy
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.runtime.clock import SystemClock
from trustfed.spiffe.ids import TrustDomain

MAX_EVIDENCE = 256


class Driver:
    """An attestor, and how a machine comes by a proof for it."""

    def __init__(
        self, parts: ClusterParts, attestor: NodeAttestor, prove: Callable[[str, NodeKey], Awaitable[str]]
    ) -> None:
        self.parts, self.attestor, self.prove = parts, attestor, prove

    async def request(self, name: str, key: NodeKey) -> bytes:
        return self.signed(await self.prove(name, key), key)

    def signed(self, payload: str, key: NodeKey) -> bytes:
        return key.attestation(payload, attestor=self.attestor.name)


def key_hash(key: NodeKey) -> str:
    return "sha256:" + hashlib.sha256(key.public).hexdigest()


def aws_iam() -> AwsIam:
    """By a real STS: every session of the role is the node of its name."""
    rule = AwsIamRule("arn:aws:sts::000000000000:assumed-role/EdgeReader/*", "edge-{session}")
    return AwsIam(AwsIamConfig(seaweed().endpoint, (rule,)), TrustDomain(TD), SystemClock())


@pytest_asyncio.fixture(params=[JoinToken, Vouched, AwsIam], ids=lambda kind: kind.name)
async def driver(request: pytest.FixtureRequest) -> AsyncIterator[Driver]:
    attestors: dict[str, NodeAttestor] = {"join_token": JoinToken(), "vouched": Vouched()}
    if request.param is AwsIam:
        attestors["aws_iam"] = aws_iam()
    parts = await ClusterParts.make(policy=Policy(max_nodes=2), attestors=attestors)

    async def token(name: str, key: NodeKey) -> str:
        return await parts.token(name)

    async def vouched(name: str, key: NodeKey) -> str:
        return vouch(name, key_hash(key))

    async def session(name: str, key: NodeKey) -> str:
        return await asyncio.to_thread(signed_session, name.removeprefix("edge-"), key.public, TD)

    name = request.param.name
    yield Driver(parts, attestors[name], {"join_token": token, "vouched": vouched, "aws_iam": session}[name])
    await parts.close()


async def test_a_proof_admits_and_the_same_key_gets_the_same_answer(driver: Driver) -> None:
    key = NodeKey()
    body = await driver.request("edge-n1", key)
    first = await driver.parts.admission.attest(body)
    assert first["node"] == "edge-n1"
    assert await driver.parts.admission.attest(body) == first
    node = driver.parts.state.nodes["edge-n1"]
    assert (node.attestor, node.key_hash) == (driver.attestor.name, key_hash(key))


async def test_another_key_cannot_use_the_proof(driver: Driver) -> None:
    key = NodeKey()
    payload = await driver.prove("edge-n1", key)
    await driver.parts.admission.attest(driver.signed(payload, key))
    with pytest.raises(Denied):
        await driver.parts.admission.attest(driver.signed(payload, NodeKey()))
    assert driver.parts.state.nodes["edge-n1"].key_hash == key_hash(key)


async def test_of_two_keys_at_once_one_gets_in_by_one_proof(driver: Driver) -> None:
    keys = [NodeKey(), NodeKey()]
    payload = await driver.prove("edge-n1", keys[0])
    answers = await asyncio.gather(
        *(driver.parts.admission.attest(driver.signed(payload, key)) for key in keys), return_exceptions=True
    )
    assert sorted(type(answer) is dict for answer in answers) == [False, True]
    assert all(isinstance(answer, dict | Denied) for answer in answers)


async def test_a_banned_name_gets_in_no_more_and_stays_banned(driver: Driver) -> None:
    first, second = NodeKey(), NodeKey()
    late = await driver.request("edge-n1", second)
    body = await driver.request("edge-n1", first)
    await driver.parts.admission.attest(body)
    await driver.parts.decide(lambda s: nodes.ban(s, "edge-n1", "stolen", driver.parts.now))
    signed = len(await driver.parts.ledger.read(0, 1000))
    for again in (body, late):
        with pytest.raises(Denied, match="banned"):
            await driver.parts.admission.attest(again)
    assert driver.parts.state.nodes["edge-n1"].banned == "stolen"
    assert len(await driver.parts.ledger.read(0, 1000)) == signed, "nothing is signed for a banned name"


async def test_a_name_that_another_attestor_admitted_is_not_taken_over(driver: Driver) -> None:
    other = "join_token" if driver.attestor.name == "vouched" else "vouched"
    key = NodeKey()
    body = await driver.request("edge-n1", key)
    rival = NodeKey()
    payload = vouch("edge-n1", key_hash(rival)) if other == "vouched" else await driver.parts.token("edge-n1")
    await driver.parts.admission.attest(rival.attestation(payload, attestor=other))
    with pytest.raises(Denied, match="was admitted by"):
        await driver.parts.admission.attest(body)
    assert driver.parts.state.nodes["edge-n1"].key_hash == key_hash(rival)


async def test_the_limit_of_nodes_holds_for_many_at_once(driver: Driver) -> None:
    names = [(f"n{i}", NodeKey()) for i in range(5)]
    bodies = [await driver.request(name, key) for name, key in names]
    answers = await asyncio.gather(*(driver.parts.admission.attest(body) for body in bodies), return_exceptions=True)
    assert sum(isinstance(answer, dict) for answer in answers) == 2
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 3
    assert len(driver.parts.state.nodes) == 2


@pytest.mark.parametrize("payload", ["", "/", "\0", "n1", "n1/" + "é" * 64, "A" * 9_000, "trustfed-node-1-"], ids=len)
async def test_what_is_no_proof_is_refused(driver: Driver, payload: str) -> None:
    with pytest.raises((Invalid, Denied)):
        await driver.attestor.verify(payload, key_hash(NodeKey()))


async def test_a_proof_that_was_changed_is_refused(driver: Driver) -> None:
    key = NodeKey()
    payload = await driver.prove("edge-n1", key)
    for changed in (payload[:-1], payload + "A", payload[1:], payload[:-6] + payload[-6:][::-1]):
        with pytest.raises((Invalid, Denied)):
            await driver.parts.admission.attest(driver.signed(changed, key))
    assert "edge-n1" not in driver.parts.state.nodes


async def test_evidence_is_short_and_is_not_the_proof(driver: Driver) -> None:
    key = NodeKey()
    payload = await driver.prove("n" * 60, key)
    evidence = await driver.attestor.verify(payload, key_hash(key))
    assert payload not in evidence
    assert len(evidence) <= MAX_EVIDENCE


async def test_admit_is_pure(driver: Driver) -> None:
    key = NodeKey()
    evidence = await driver.attestor.verify(await driver.prove("edge-n1", key), key_hash(key))
    state, now = driver.parts.state, driver.parts.now + timedelta(seconds=1)
    answers = {driver.attestor.admit(state, evidence, key_hash(key), now) for _ in range(3)}
    assert len(answers) == 1
    assert driver.parts.state is state
