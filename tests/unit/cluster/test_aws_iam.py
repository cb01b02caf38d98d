"""aws_iam: what others were talked into (another question, host, header, answer) is refused; STS here is a real one or a liar."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from tests.fakes.aws_sessions import session, signed
from tests.fakes.clocks import ManualClock
from tests.fakes.http_answers import Handler, answering
from tests.fakes.seaweed import PUBLISHER_ROLE, READER, READER_ROLE, Credentials, seaweed
from tests.unit.cluster.cluster_parts import TD, ClusterParts, NodeKey
from trustfed.cluster.attestation.aws_iam import AwsIam, AwsIamConfig, AwsIamRule
from trustfed.cluster.attestation.join_token import JoinToken
from trustfed.cluster.attestation.sts import read_arn
from trustfed.cluster.config import ClusterConfig, Door
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.federation import caller_identity
from trustfed.federation.names import cluster_id
from trustfed.runtime.config import build
from trustfed.spiffe.ids import TrustDomain

ROLE = "arn:aws:sts::000000000000:assumed-role/EdgeReader/*"
SERVER = str(cluster_id(TrustDomain(TD)))
KEY = NodeKey()
KEY_HASH = "sha256:" + hashlib.sha256(KEY.public).hexdigest()
NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)


def attestor(*rules: AwsIamRule, endpoint: str = "", clock: ManualClock | None = None) -> AwsIam:
    config = AwsIamConfig(endpoint or seaweed().endpoint, rules or (AwsIamRule(ROLE, "edge-{session}"),))
    return AwsIam(config, TrustDomain(TD), clock or ManualClock(datetime.now(UTC)))


def well_formed(now: datetime = NOW, **change: str | None) -> str:
    """A payload in the right form that nobody signed; `change` with _ for -."""
    headers: dict[str, str | None] = {
        "authorization": f"AWS4-HMAC-SHA256 Credential=AKID/{now:%Y%m%d}/us-east-1/sts/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-trustfed-binding;x-trustfed-nonce, Signature=" + "0" * 64,
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        "x-trustfed-binding": caller_identity.binding(SERVER, KEY.public),
        "x-trustfed-nonce": "0" * 32,
    }
    headers |= {name.replace("_", "-"): value for name, value in change.items()}
    return json.dumps({name: value for name, value in headers.items() if value is not None})


# The form.


def test_the_form_is_read() -> None:
    found = caller_identity.read(well_formed(), SERVER, KEY_HASH, NOW)
    assert set(found.headers) == {"authorization", "x-amz-date", "x-trustfed-binding", "x-trustfed-nonce"}


@pytest.mark.parametrize(
    "name",
    ["host", "content-type", "accept", "x-amz-target", "content-length", "transfer-encoding", "X-Amz-Date", "url"],
)
def test_any_other_header_is_refused(name: str) -> None:
    said = {**json.loads(well_formed()), name: "x"}
    with pytest.raises(Invalid, match="must have exactly the headers"):
        caller_identity.read(json.dumps(said), SERVER, KEY_HASH, NOW)


@pytest.mark.parametrize("name", ["method", "body", "url", "headers"])
def test_method_address_and_body_are_not_the_machines_to_say(name: str) -> None:
    said = {**json.loads(well_formed()), name: "POST"}
    with pytest.raises(Invalid, match="must have exactly"):
        caller_identity.read(json.dumps(said), SERVER, KEY_HASH, NOW)


@pytest.mark.parametrize("name", ["authorization", "x-amz-date", "x-trustfed-binding", "x-trustfed-nonce"])
@pytest.mark.parametrize("value", ["", "a\r\nHost: evil", "a\n", "é", " a", "\0", 1, ["a"], None])
def test_a_header_that_is_not_one_line_of_text(name: str, value: object) -> None:
    said = {**json.loads(well_formed()), name: value}
    with pytest.raises((Invalid, Denied)):
        caller_identity.read(json.dumps(said), SERVER, KEY_HASH, NOW)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        ("/sts/", "/iam/"),
        ("x-trustfed-binding;", ""),
        ("host;", ""),
        ("content-type;", ""),
        ("x-trustfed-nonce", "x-trustfed-nonce;x-trustfed-nonce"),
        ("content-type;host", "accept;content-type;host"),
        ("content-type;host", "host;content-type"),
        ("Signature=" + "0" * 64, "Signature=" + "0" * 63),
        ("Signature=" + "0" * 64, "Signature=" + "0" * 64 + ", SignedHeaders=host"),
        ("aws4_request, ", "aws4_request,"),
        ("Credential=AKID", "Credential=A/B"),
    ],
)
def test_an_authorization_in_another_form(old: str, new: str) -> None:
    said = json.loads(well_formed())
    assert old in said["authorization"]
    said["authorization"] = said["authorization"].replace(old, new)
    with pytest.raises(Invalid, match="authorization"):
        caller_identity.read(json.dumps(said), SERVER, KEY_HASH, NOW)


def test_a_token_that_is_sent_must_be_signed() -> None:
    with pytest.raises(Invalid, match="x-amz-security-token"):
        caller_identity.read(well_formed(x_amz_security_token="abc"), SERVER, KEY_HASH, NOW)


def test_two_members_of_one_name() -> None:
    doubled = well_formed()[:-1] + ', "x-amz-date": "20300501T120000Z"}'
    with pytest.raises(Invalid, match="twice"):
        caller_identity.read(doubled, SERVER, KEY_HASH, NOW)


@pytest.mark.parametrize("minutes", [-6, 6, -1500])
def test_a_request_of_another_time(minutes: int) -> None:
    payload = well_formed(NOW + timedelta(minutes=minutes))
    with pytest.raises(Denied, match="from now"):
        caller_identity.read(payload, SERVER, KEY_HASH, NOW)


def test_a_scope_of_another_day() -> None:
    said = json.loads(well_formed())
    said["authorization"] = said["authorization"].replace("20300501", "20300430")
    with pytest.raises(Invalid, match="another day"):
        caller_identity.read(json.dumps(said), SERVER, KEY_HASH, NOW)


def test_another_key_or_another_cluster() -> None:
    with pytest.raises(Denied, match="another cluster or another key"):
        caller_identity.read(well_formed(), SERVER, "sha256:" + "0" * 64, NOW)
    with pytest.raises(Denied, match="another cluster or another key"):
        caller_identity.read(well_formed(), "spiffe://other.test/trustfed/cluster", KEY_HASH, NOW)


# Against a real STS.


async def test_a_session_is_the_node_of_its_name() -> None:
    one = attestor(AwsIamRule(ROLE, "edge-{session}", ("edge",)))
    arn = await one.verify(signed(session("i-0abc"), KEY.public, TD), KEY_HASH)
    parts = await ClusterParts.make()
    admission = one.admit(parts.state, arn, KEY_HASH, parts.now)
    assert (admission.node, admission.groups) == ("edge-i-0abc", ("edge",))
    await parts.close()


async def test_a_user_is_the_node_that_its_rule_names() -> None:
    one = attestor(AwsIamRule("arn:aws:iam::000000000000:user/reader", "edge-7"))
    arn = await one.verify(signed(READER, KEY.public, TD), KEY_HASH)
    parts = await ClusterParts.make()
    assert one.admit(parts.state, arn, KEY_HASH, parts.now).node == "edge-7"
    await parts.close()


async def test_another_role_is_not_admitted() -> None:
    with pytest.raises(Denied, match="no rule here admits"):
        await attestor().verify(signed(session("n1", PUBLISHER_ROLE), KEY.public, TD), KEY_HASH)


async def test_a_wrong_secret_and_an_unknown_key() -> None:
    held = session("n1")
    for who in (Credentials(held.key, "wrong", held.token), Credentials("NOBODYATALL", "x")):
        with pytest.raises(Denied, match="STS does not know who signed"):
            await attestor().verify(signed(who, KEY.public, TD), KEY_HASH)


async def test_a_binding_put_onto_anothers_signature_is_refused_by_sts() -> None:
    rival = NodeKey()
    said = json.loads(signed(session("n1"), KEY.public, TD))
    said["x-trustfed-binding"] = caller_identity.binding(SERVER, rival.public)
    with pytest.raises(Denied, match="STS does not know who signed"):
        await attestor().verify(json.dumps(said), "sha256:" + hashlib.sha256(rival.public).hexdigest())


async def test_a_signature_that_was_good_is_no_good_under_another_binding() -> None:
    """What STS said of one request is remembered for that request only: not for whoever shows its signature."""
    one, rival = attestor(), NodeKey()
    payload = signed(session("n1"), KEY.public, TD)
    assert (await one.verify(payload, KEY_HASH)).endswith("/n1")
    for change in (
        {"x-trustfed-binding": caller_identity.binding(SERVER, rival.public)},
        {"x-trustfed-nonce": "0" * 32},
    ):
        said, key = {**json.loads(payload), **change}, KEY if "x-trustfed-nonce" in change else rival
        with pytest.raises(Denied, match="STS does not know who signed"):
            await one.verify(json.dumps(said), "sha256:" + hashlib.sha256(key.public).hexdigest())


async def test_a_request_signed_for_another_sts_is_refused() -> None:
    payload = signed(session("n1"), KEY.public, TD, "https://sts.eu-central-1.amazonaws.com")
    with pytest.raises(Denied, match="STS does not know who signed"):
        await attestor().verify(payload, KEY_HASH)


# Who is who.


@pytest.fixture
async def parts() -> AsyncIterator[ClusterParts]:
    rules = AwsIamRule(ROLE, "edge-{session}"), AwsIamRule(PUBLISHERS, "edge-p{session}")
    made = await ClusterParts.make(attestors={"aws_iam": attestor(*rules), "join_token": JoinToken()})
    yield made
    await made.close()


PUBLISHERS = "arn:aws:sts::000000000000:assumed-role/Publisher/*"


async def attest(parts: ClusterParts, name: str, key: NodeKey, role: str = READER_ROLE) -> dict[str, object]:
    payload = await asyncio.to_thread(lambda: signed(session(name, role), key.public, TD))
    return await parts.admission.attest(key.attestation(payload, attestor="aws_iam"))


async def test_a_new_disk_attests_again_with_a_new_key(parts: ClusterParts) -> None:
    first, second = NodeKey(), NodeKey()
    await attest(parts, "n1", first)
    parts.clock.move(60)
    assert (await attest(parts, "n1", second))["node"] == "edge-n1"
    assert parts.state.nodes["edge-n1"].key_hash == "sha256:" + hashlib.sha256(second.public).hexdigest()


async def test_a_name_that_another_role_has_is_not_taken_over(parts: ClusterParts) -> None:
    await attest(parts, "pn1", NodeKey())
    with pytest.raises(Denied, match="node edge-pn1 is arn:aws:sts::000000000000:assumed-role/EdgeReader/pn1"):
        await attest(parts, "n1", NodeKey(), PUBLISHER_ROLE)


async def test_a_name_that_a_token_invites_is_not_taken_by_a_session(parts: ClusterParts) -> None:
    """Entries are often written before the node comes; whoever has the role must not come in its place."""
    token = await parts.token("edge-db")
    with pytest.raises(Denied, match="node edge-db was invited by a join token"):
        await attest(parts, "db", NodeKey())
    assert (await parts.admission.attest(NodeKey().attestation(token)))["node"] == "edge-db"
    await parts.token("edge-late", ttl=timedelta(seconds=120))
    parts.clock.move(121)  # nobody came
    assert (await attest(parts, "late", NodeKey()))["node"] == "edge-late"


def test_two_roles_have_no_names_in_common() -> None:
    rules = AwsIamRule(ROLE, "edge-{session}"), AwsIamRule(PUBLISHERS, "edge-{session}")
    with pytest.raises(Invalid, match="two rules name their nodes edge-"):
        attestor(*rules)


@pytest.mark.parametrize("name", ["N1", "n_1", "n1.", "a=b", "n@1"])
async def test_a_session_name_that_is_no_nodes_name_is_not_bent_into_one(parts: ClusterParts, name: str) -> None:
    with pytest.raises(Denied, match="names no node"):
        await attest(parts, name, NodeKey())


@pytest.mark.parametrize(
    ("arn", "node"),
    [
        ("arn:aws:sts::000000000000:assumed-role/*", "e-{session}"),
        ("arn:aws:sts::*:assumed-role/R/*", "{session}"),
        ("arn:aws:sts::000000000000:assumed-role/R*/*", "{session}"),
        ("arn:aws:sts::000000000000:assumed-role/R/s*", "{session}"),
        ("arn:aws:iam::000000000000:role/R", "n"),
        ("arn:aws:iam::000000000000:user/*", "n"),
        ("arn:aws:iam::000000000000:user/reader", "{session}"),
        (ROLE, "same"),
        (ROLE, "{session}"),
        (ROLE, "Edge-{session}"),
        ("*", "{session}"),
    ],
)
def test_a_rule_that_says_too_much_or_too_little(arn: str, node: str) -> None:
    with pytest.raises(Invalid):
        AwsIamRule(arn, node)


def test_a_role_whose_name_begins_like_another() -> None:
    rule = AwsIamRule(ROLE, "edge-{session}")
    assert rule.admits("arn:aws:sts::000000000000:assumed-role/EdgeReader/n1")
    for other in ("EdgeReader2/n1", "EdgeReader", "xEdgeReader/n1"):
        assert not rule.admits(f"arn:aws:sts::000000000000:assumed-role/{other}")
    assert not rule.admits("arn:aws:sts::000000000001:assumed-role/EdgeReader/n1")


def test_it_is_configured_in_toml(tmp_path: Any) -> None:
    table = {
        "data_dir": "d",
        "grpc": {"listen": "127.0.0.1:1"},
        "bundle_spiffe": {"listen": "127.0.0.1:2"},
        "attestation": {
            "aws_iam": {
                "sts_endpoint": "https://sts.example",
                "rules": [{"arn": ROLE, "node": "edge-{session}", "groups": ["edge"]}],
            }
        },
    }
    config = build(table, ClusterConfig, folder=tmp_path)
    assert config.attestation.aws_iam is not None and config.attestation.aws_iam.rules[0].groups == ("edge",)
    table["attestation"]["aws_iam"]["sts_endpoint"] = "http://sts.example"  # type: ignore[index]
    with pytest.raises(Invalid, match="not protected by TLS"):
        build(table, ClusterConfig, folder=tmp_path)
    assert isinstance(config.grpc, Door)


# What an STS, or who stands in its place, may answer.

GOOD = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    b"<Arn>arn:aws:sts::123456789012:assumed-role/R/n1</Arn><UserId>AROA:n1</UserId><Account>123456789012</Account>"
    b"</GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
)
ARN = b"arn:aws:sts::123456789012:assumed-role/R/n1"


def test_the_answer_is_read() -> None:
    assert read_arn(GOOD) == ARN.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"GetCallerIdentityResponse": {"GetCallerIdentityResult": {"Arn": "' + ARN + b'"}}}',
        GOOD.replace(b"<GetCallerIdentityResponse", b"<!DOCTYPE a><GetCallerIdentityResponse"),
        b'<!DOCTYPE a [<!ENTITY e "' + ARN + b'">]>' + GOOD.replace(ARN, b"&e;"),
        GOOD.replace(ARN, b"&undefined;"),
        b'<?xml-stylesheet href="x"?>' + GOOD,
        GOOD.replace(b"<Arn>", b"<Arn>" + ARN + b"</Arn><Arn>"),
        GOOD.replace(b"<Arn>", b'<Arn a="b">'),
        GOOD.replace(b"<Arn>", b"<Arn><b>x</b>"),
        GOOD.replace(b' xmlns="https://sts.amazonaws.com/doc/2011-06-15/"', b""),
        GOOD.replace(b"2011-06-15", b"2012-06-15"),
        GOOD.replace(b"GetCallerIdentityResult", b"AssumeRoleResult"),
        GOOD + GOOD,
        GOOD[:-5],
        GOOD.replace(b"<Arn>", b"<Arn>\xff"),
        b"<a>" * 10_000,
    ],
    ids=range(17),
)
def test_another_answer(data: bytes) -> None:
    with pytest.raises(Unavailable):
        read_arn(data)


@pytest.mark.parametrize(
    "arn",
    [
        b"",
        b"arn:aws:iam::123456789012:root",
        b"arn:aws:sts::123456789012:federated-user/x",
        ARN + b"\n",
        b" " + ARN,
        ARN + b"/more",
        b"arn:aws:sts::1234:assumed-role/R/n1",
    ],
    ids=range(7),
)
def test_another_caller(arn: bytes) -> None:
    with pytest.raises(Denied):
        read_arn(GOOD.replace(ARN, arn))


def test_a_comment_hides_nothing() -> None:
    """Others read the text before a comment only: "n1<!-- -->x" was n1."""
    assert read_arn(GOOD.replace(ARN, ARN + b"<!-- -->x")) == ARN.decode() + "x"


def an_sts(answer: Callable[[Handler], None]) -> AbstractContextManager[str]:
    return answering(answer, "HTTP/1.0")


def say(handler: Handler, status: int, body: bytes, kind: str = "text/xml") -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Location", "http://127.0.0.1:1/")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


async def judged(answer: Callable[[Handler], None]) -> str:
    rule = AwsIamRule("arn:aws:sts::123456789012:assumed-role/R/*", "edge-{session}")
    with an_sts(answer) as endpoint:
        return await attestor(rule, endpoint=endpoint, clock=ManualClock(NOW)).verify(well_formed(), KEY_HASH)


async def test_what_is_sent_is_ours_but_for_five_headers() -> None:
    seen: dict[str, object] = {}

    def answer(handler: Handler) -> None:
        seen.update(handler.headers.items(), path=handler.path)
        seen["body"] = handler.rfile.read(int(cast(str, handler.headers["Content-Length"])))
        say(handler, 200, GOOD)

    assert await judged(answer) == ARN.decode()
    assert (seen["path"], seen["body"]) == ("/", b"Action=GetCallerIdentity&Version=2011-06-15")
    assert str(seen["Host"]).startswith("127.0.0.1:")
    assert {name.lower() for name in seen} == {
        *("host", "accept-encoding", "content-type", "user-agent", "content-length", "path", "body"),
        *("authorization", "x-amz-date", "x-trustfed-binding", "x-trustfed-nonce"),
    }


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda h: say(h, 302, b""), Denied, "redirect"),
        (lambda h: say(h, 200, GOOD, "application/json"), Unavailable, "not XML"),
        (lambda h: say(h, 403, b"<Code>ExpiredToken</Code>"), Denied, "ExpiredToken"),
        (lambda h: say(h, 500, b"secret words"), Unavailable, "HTTP 500"),
        (lambda h: say(h, 200, b" " * 100_000), Invalid, "endless data"),
        (lambda h: h.wfile.write(b"nonsense\r\n\r\n"), Unavailable, "cannot be reached"),
    ],
    ids=["redirect", "json", "expired", "failing", "endless", "no HTTP"],
)
async def test_an_sts_that_misbehaves(answer: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        await judged(answer)
    assert "secret words" not in str(caught.value)


async def test_the_same_request_is_asked_about_once() -> None:
    asked = []

    def answer(handler: Handler) -> None:
        asked.append(1)
        say(handler, 200, GOOD)

    rule = AwsIamRule("arn:aws:sts::123456789012:assumed-role/R/*", "edge-{session}")
    with an_sts(answer) as endpoint:
        one = attestor(rule, endpoint=endpoint, clock=ManualClock(NOW))
        assert [await one.verify(well_formed(), KEY_HASH) for _ in range(3)] == [ARN.decode()] * 3
    assert asked == [1]


async def test_many_at_once_wait_or_are_sent_away() -> None:
    go = threading.Event()

    def answer(handler: Handler) -> None:
        go.wait(5)
        say(handler, 200, GOOD)

    rule = AwsIamRule("arn:aws:sts::123456789012:assumed-role/R/*", "edge-{session}")
    with an_sts(answer) as endpoint:
        one = attestor(rule, endpoint=endpoint, clock=ManualClock(NOW))
        payloads = [well_formed(x_trustfed_nonce=f"{n:032x}").replace("0" * 64, f"{n:064x}") for n in range(70)]
        asked = [
            asyncio.create_task(one.verify(payload, KEY_HASH, f"192.0.2.{n}")) for n, payload in enumerate(payloads)
        ]
        await asyncio.sleep(0.05)
        go.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 6
    assert sum(answer == ARN.decode() for answer in answers) == 64


def requests(first: int, count: int) -> list[str]:
    return [well_formed(x_trustfed_nonce=f"{n:032x}") for n in range(first, first + count)]


async def test_one_address_of_which_much_is_refused_takes_neither_sts_nor_the_others_turns() -> None:
    asked = 0

    def answer(handler: Handler) -> None:
        nonlocal asked
        asked += 1
        refused = int(handler.headers["x-trustfed-nonce"], 16) < 1000
        say(handler, 403, b"<Code>InvalidClientTokenId</Code>") if refused else say(handler, 200, GOOD)

    rule = AwsIamRule("arn:aws:sts::123456789012:assumed-role/R/*", "edge-{session}")
    clock = ManualClock(NOW)
    with an_sts(answer) as endpoint:
        one = attestor(rule, endpoint=endpoint, clock=clock)
        flood = [one.verify(payload, KEY_HASH, f"2001:db8::{n:x}") for n, payload in enumerate(requests(0, 200))]
        honest = [
            one.verify(payload, KEY_HASH, f"2001:db8:0:{n:x}::1") for n, payload in enumerate(requests(1000, 30), 1)
        ]
        answers = await asyncio.gather(*flood, *honest, return_exceptions=True)
        assert answers[200:] == [ARN.decode()] * 30
        assert asked == 20 + 30, "STS was asked twenty times for the /64 that refusals came from"
        assert {type(each) for each in answers[:200]} == {Denied, Unavailable}
        clock.move(60)
        more = await asyncio.gather(
            *(one.verify(payload, KEY_HASH, "2001:db8::1") for payload in requests(300, 40)), return_exceptions=True
        )
        assert asked == 50 + 10 and sum(isinstance(each, Denied) for each in more) == 10


async def test_what_is_admitted_is_no_refusal_and_many_may_come_from_one_address() -> None:
    rule = AwsIamRule("arn:aws:sts::123456789012:assumed-role/R/*", "edge-{session}")
    with an_sts(lambda handler: say(handler, 200, GOOD)) as endpoint:
        one = attestor(rule, endpoint=endpoint, clock=ManualClock(NOW))
        for payload in requests(0, 60):
            assert await one.verify(payload, KEY_HASH, "192.0.2.1") == ARN.decode()


async def test_a_refused_request_is_not_asked_about_again() -> None:
    asked = []

    def answer(handler: Handler) -> None:
        asked.append(1)
        say(handler, 403, b"<Code>InvalidClientTokenId</Code>")

    rule = AwsIamRule("arn:aws:sts::123456789012:assumed-role/R/*", "edge-{session}")
    with an_sts(answer) as endpoint:
        one = attestor(rule, endpoint=endpoint, clock=ManualClock(NOW))
        for _ in range(30):
            with pytest.raises(Denied, match="InvalidClientTokenId"):
                await one.verify(well_formed(), KEY_HASH, "192.0.2.1")
    assert asked == [1]


async def test_an_identity_that_no_rule_admits_counts_as_refused() -> None:
    """Everybody has an AWS account."""
    with an_sts(lambda handler: say(handler, 200, GOOD)) as endpoint:
        one = attestor(AwsIamRule(ROLE, "edge-{session}"), endpoint=endpoint, clock=ManualClock(NOW))
        kinds = []
        for payload in requests(0, 25):
            with pytest.raises((Denied, Unavailable)) as caught:
                await one.verify(payload, KEY_HASH, "192.0.2.1")
            kinds.append(caught.type)
    assert kinds == [Denied] * 20 + [Unavailable] * 5
