"""How nodes get in, and back in."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.lifecycle import Kind, Status
from tests.unit.cluster.cluster_parts import HOUR, TD, ClusterParts, NodeKey
from trustfed.cluster import authority_commands as commands
from trustfed.cluster import nodes
from trustfed.cluster.callers import Callers
from trustfed.cluster.rpc import NodeRpc
from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from trustfed.federation.enrolment import text
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain


async def test_the_same_key_gets_the_same_answer_and_no_other_key_gets_any(parts: ClusterParts) -> None:
    token, key = await parts.token(), NodeKey()
    first = await parts.admission.attest(key.attestation(token))
    assert await parts.admission.attest(key.attestation(token)) == first
    with pytest.raises(Denied, match="used by another key"):
        await parts.admission.attest(NodeKey().attestation(token))
    parts.clock.move(3601)
    with pytest.raises(Denied, match="expired"):
        await parts.admission.attest(key.attestation(token))


async def test_of_many_keys_at_once_one_gets_in(parts: ClusterParts) -> None:
    token, keys = await parts.token(), [NodeKey() for _ in range(8)]
    answers = await asyncio.gather(
        *(parts.admission.attest(key.attestation(token)) for key in keys for _ in range(2)), return_exceptions=True
    )
    good = [answer for answer in answers if isinstance(answer, dict)]
    assert len(good) == 2
    assert good[0] == good[1]
    assert all(isinstance(answer, Denied) for answer in answers if not isinstance(answer, dict))


async def test_a_token_of_before_a_new_attestation_is_worth_nothing(parts: ClusterParts) -> None:
    """Whoever has the old disk has the old token and the key that used it."""
    token, old = await parts.token(), NodeKey()
    await parts.admission.attest(old.attestation(token))
    await parts.node()
    with pytest.raises(Denied, match="attested again"):
        await parts.admission.attest(old.attestation(token))


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"proof": "AAAA"}, Denied, "did not make"),
        ({"proof": "?"}, Invalid, "base64"),
        ({"public_key": "AAAA"}, Invalid, "public_key is not"),
        ({"public_key": text(NodeKey().public)}, Denied, "did not make"),
        ({"software": "other"}, Denied, "did not make"),
        ({"attestor": "other"}, Denied, "did not make"),
        ({"payload": "trustfed-node-1-"}, Denied, "did not make"),
        ({"extra": "x"}, Invalid, "exactly the members"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
async def test_a_request_that_was_changed_after_it_was_signed(
    parts: ClusterParts, changes: dict[str, str], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        await parts.admission.attest(NodeKey().attestation(await parts.token(), changes=changes))


async def test_an_attestor_that_is_not_here(parts: ClusterParts) -> None:
    with pytest.raises(Invalid, match="node attestor 'tpm' is not known here"):
        await parts.admission.attest(NodeKey().attestation(await parts.token(), attestor="tpm"))


async def test_requests_that_are_none(parts: ClusterParts) -> None:
    for body in (b"", b"[]", b"{}", b"\xff", b"{" * 10_000, b"x" * 300_000):
        with pytest.raises(Invalid):
            await parts.admission.attest(body)
        with pytest.raises(Invalid):
            await parts.admission.renew(body)


async def test_a_cut_token_a_clusters_token_and_a_strange_key(parts: ClusterParts) -> None:
    token = await parts.token()
    for bad in (token[:-3], token.replace("-node-", "-cluster-"), "", "x" * 9000):
        with pytest.raises(Invalid):
            await parts.admission.attest(NodeKey().attestation(bad))
    with pytest.raises(Invalid, match="P-256"):
        await parts.admission.attest(NodeKey(ec.SECP384R1()).attestation(token))


async def test_a_banned_node_gets_in_no_more(parts: ClusterParts) -> None:
    token = await parts.token("n1")
    _, key = await parts.node("n1")
    await parts.decide(lambda s: nodes.ban(s, "n1", "stolen", parts.now))
    with pytest.raises(Denied, match="banned"):
        await parts.admission.renew(key.renewal(nonce(parts), NodeKey()))
    with pytest.raises(Denied, match="banned"):
        await parts.admission.attest(NodeKey().attestation(token))
    with pytest.raises(Conflict, match="banned"):
        await parts.token("n1")
    with pytest.raises(NotFound):
        nodes.ban(parts.state, "nobody", "x", parts.now)
    with pytest.raises(Invalid, match="reason"):
        nodes.ban(parts.state, "n1", "  ", parts.now)


async def test_a_ban_during_a_renewal_wins(parts: ClusterParts) -> None:
    _, key = await parts.node("n1")
    parts.presence.gone("n1")
    real = parts.issuance.node_svid

    async def slow(*given: str) -> object:
        made = await real(*given)  # type: ignore[arg-type]
        await parts.decide(lambda s: nodes.ban(s, "n1", "stolen", parts.now))
        return made

    parts.issuance.node_svid = slow  # type: ignore[method-assign,assignment]
    with pytest.raises(Denied, match="banned"):
        await parts.admission.renew(key.renewal(nonce(parts), NodeKey()))
    assert parts.presence.get("n1") is None


async def test_renewal_within_the_window_also_after_expiry(parts: ClusterParts) -> None:
    _, key = await parts.node()
    parts.clock.move(29 * 86_400)
    await parts.round()
    new = NodeKey()
    new.answer = await parts.admission.renew(key.renewal(nonce(parts), new))
    assert new.leaf != key.leaf
    parts.clock.move(2 * 86_400)
    await parts.round()
    with pytest.raises(Denied, match="beyond the window"):
        await parts.admission.renew(key.renewal(nonce(parts), NodeKey()))
    await parts.admission.renew(new.renewal(nonce(parts), NodeKey()))


async def test_a_renewal_names_its_predecessor_as_the_ledger_has_it(
    parts: ClusterParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A serial may begin with zeros, which are no part of the number."""
    serials = iter((bytes(15) + b"\x01", bytes(2) + b"\x02" * 14))
    monkeypatch.setattr(parts.issuance, "_randomness", lambda count: next(serials)[:count])
    _, key = await parts.node()
    await parts.admission.renew(key.renewal(nonce(parts), NodeKey()))
    (second,) = await parts.ledger.find("x509.issued", "0000" + "02" * 14)
    assert second.body["predecessor"] == "0" * 31 + "1"
    assert len(await parts.ledger.find("x509.issued", str(second.body["predecessor"]))) == 1


async def test_a_nonce_is_spent_once_and_only_by_a_nodes_key(parts: ClusterParts) -> None:
    _, key = await parts.node()
    fresh = nonce(parts)
    stranger = NodeKey()
    stranger.answer = key.answer
    with pytest.raises(Denied, match="proof"):
        await parts.admission.renew(stranger.renewal(fresh, NodeKey()))
    await parts.admission.renew(key.renewal(fresh, NodeKey()))
    with pytest.raises(Denied, match="nonce"):
        await parts.admission.renew(key.renewal(fresh, NodeKey()))
    late = nonce(parts)
    parts.clock.move(121)
    with pytest.raises(Denied, match="nonce"):
        await parts.admission.renew(key.renewal(late, NodeKey()))
    with pytest.raises(Denied, match="nonce"):
        await parts.admission.renew(key.renewal("bm9uY2U=", NodeKey()))


async def test_one_node_cannot_spend_the_nonces_of_all(parts: ClusterParts) -> None:
    _, greedy = await parts.node("n1")
    _, other = await parts.node("n2")
    for _ in range(10):
        await parts.admission.renew(greedy.renewal(nonce(parts), NodeKey()))
    kept = nonce(parts)
    with pytest.raises(Unavailable, match="10 times"):
        await parts.admission.renew(greedy.renewal(kept, NodeKey()))
    await parts.admission.renew(other.renewal(nonce(parts), NodeKey()))
    parts.clock.move(60)
    await parts.admission.renew(greedy.renewal(kept, NodeKey()))  # what was refused spent nothing


async def test_no_call_serves_an_svid_of_before_the_last_attestation(parts: ClusterParts) -> None:
    _, old = await parts.node()
    parts.clock.move(60)
    _, new = await parts.node()
    rpc = NodeRpc.__new__(NodeRpc)
    rpc._fold, rpc._clock = parts.fold, parts.clock
    rpc._inflight = {}
    rpc._on_shown = lambda _node, _svid: None
    (authority,) = [a for a in parts.all() if a.kind is Kind.X509]
    bundle = Bundle(TrustDomain(TD), (authority.twin,))
    rpc._callers = Callers(lambda: bundle, parts.clock)
    with pytest.raises(Denied, match="attested again"):
        rpc._caller(Connection(old.leaf))
    svid, node = rpc._caller(Connection(new.leaf))
    renewed = NodeKey()
    renewed.answer = await parts.admission.renew(new.renewal(nonce(parts), renewed))
    assert rpc._caller(Connection(renewed.leaf))[1] == node

    async def slow() -> str:
        parts.clock.move(60)
        await parts.node()
        return "signed meanwhile"

    with pytest.raises(Denied, match="attested again"):
        await rpc._one_of_few(svid, node, slow())


class Connection:
    """What grpcio tells of a connection with this client certificate."""

    def __init__(self, leaf: bytes) -> None:
        self._pem = x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._pem]}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


async def test_a_leaf_of_before_the_last_attestation(parts: ClusterParts) -> None:
    _, old = await parts.node()
    parts.clock.move(60)
    await parts.node()
    with pytest.raises(Denied, match="attested again"):
        await parts.admission.renew(old.renewal(nonce(parts), NodeKey()))


async def test_a_leaf_of_a_tainted_authority(parts: ClusterParts) -> None:
    _, key = await parts.node()
    authority = parts.one(Kind.X509, Status.ACTIVE)
    await parts.decide(lambda s: commands.taint(s, authority.id, False, parts.now))
    with pytest.raises(Denied, match="still believed"):
        await parts.admission.renew(key.renewal(nonce(parts), NodeKey()))


async def test_leaves_that_are_no_nodes_of_ours(parts: ClusterParts) -> None:
    other = await ClusterParts.make()
    _, theirs = await other.node()
    with pytest.raises(Denied, match="still believed"):
        await parts.admission.renew(theirs.renewal(nonce(parts), NodeKey()))
    await parts.node()
    _, ours = await parts.node("n2")
    workload = NodeKey()
    workload.answer = {"chain": [text(await _workload(parts, workload))]}
    with pytest.raises((Denied, Invalid)):
        await parts.admission.renew(workload.renewal(nonce(parts), NodeKey()))
    for bad in ("", "AAAA", text(base64.b64decode(ours.answer["chain"][0])[:-1])):
        ours.answer = {"chain": [bad]}
        with pytest.raises(Invalid):
            await parts.admission.renew(ours.renewal(nonce(parts), NodeKey()))
    await other.close()


async def test_a_full_cluster_takes_no_more_nodes() -> None:
    from trustfed.cluster.config import Policy

    parts = await ClusterParts.make(policy=Policy(max_nodes=1))
    await parts.node("n1")
    with pytest.raises(Unavailable, match="its limit"):
        await parts.node("n2")
    await parts.node("n1")
    await parts.close()


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(days=8)])
async def test_token_lives_are_bounded(parts: ClusterParts, ttl: timedelta) -> None:
    with pytest.raises(Invalid, match="out of bounds"):
        nodes.invite(parts.state, "h", "n1", (), ttl, parts.now)
    with pytest.raises(Invalid):
        nodes.invite(parts.state, "h", "n1", tuple(f"g{i}" for i in range(33)), HOUR, parts.now)


def nonce(parts: ClusterParts) -> str:
    return str(parts.admission.nonce()["nonce"])


async def _workload(parts: ClusterParts, key: NodeKey) -> bytes:
    from trustfed.proto import node_pb2 as pb

    await parts.entry(id="web")
    slot = pb.X509Slot(entry_id="web", slot="x509", public_key=key.public)
    answer = await parts.issuance.x509(parts.state.nodes["n1"], pb.IssueX509Request(slots=[slot]))
    return bytes(answer.results[0].chain[0])
