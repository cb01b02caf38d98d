"""The two conversations, without a socket: subscriptions, nonces, acceptance and refusal, what is sent again and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from agent.sds.config import SdsConfig
from agent.sds.names import DEFAULT, EVERY_DOMAIN, MAX_NAMES, SECRET_TYPE, check_names, wanted
from agent.sds.protocol import Incremental, StateOfTheWorld
from agent.sds.secrets import Prepared
from trustfed.errors import Invalid
from trustfed.proto import envoy_pb2 as pb
from trustfed.spiffe.ids import SpiffeId, TrustDomain

CONFIG = SdsConfig()
WEB = "spiffe://east.test/web"


def secret(name: str, version: str) -> Prepared:
    return Prepared(name, pb.Secret(name=name), version, None, ("e1", "0a") if name != "ROOTCA" else ("", ""))


def asks(*names: str, nonce: str = "", version: str = "", **more: Any) -> pb.DiscoveryRequest:
    return pb.DiscoveryRequest(
        resource_names=names, response_nonce=nonce, version_info=version, type_url=SECRET_TYPE, **more
    )


def refuses(text: str = "no") -> pb.Status:
    return pb.Status(code=13, message=text)


def answer(message: bytes | None) -> pb.DiscoveryResponse:
    assert message is not None
    return pb.DiscoveryResponse.FromString(message)


def delta(message: bytes | None) -> pb.DeltaDiscoveryResponse:
    assert message is not None
    return pb.DeltaDiscoveryResponse.FromString(message)


def changes(*names: str, nonce: str = "", gone: tuple[str, ...] = (), **more: Any) -> pb.DeltaDiscoveryRequest:
    return pb.DeltaDiscoveryRequest(
        resource_names_subscribe=names, resource_names_unsubscribe=gone, response_nonce=nonce, **more
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("default", DEFAULT),
        ("ROOTCA", EVERY_DOMAIN),
        ("ALL", EVERY_DOMAIN),
        (WEB, SpiffeId.parse(WEB)),
        ("spiffe://west.test", TrustDomain("west.test")),
    ],
)
def test_each_name_asks_for_one_thing(name: str, what: object) -> None:
    assert wanted(name, CONFIG) == what


def test_names_can_be_called_otherwise() -> None:
    other = SdsConfig("mine", "anchors", "everyone")
    assert (wanted("mine", other), wanted("anchors", other), wanted("everyone", other)) == (
        DEFAULT,
        EVERY_DOMAIN,
        EVERY_DOMAIN,
    )
    with pytest.raises(Invalid, match="no secret is called 'default'"):
        wanted("default", other)
    for bad in (("a", "a", "b"), ("", "b", "c"), ("spiffe://a/b", "c", "d"), ("a\n", "b", "c"), ("x" * 257, "b", "c")):
        with pytest.raises(Invalid):
            SdsConfig(*bad)


@pytest.mark.parametrize("name", ["", "*", "default ", "file-cert:/etc/key.pem", "spiffe://east.test/a//b", "x" * 3000])
def test_a_name_that_is_no_secrets_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        check_names([name], CONFIG)
    with pytest.raises(Invalid):
        StateOfTheWorld(CONFIG).take(asks("default", name))
    with pytest.raises(Invalid):
        Incremental(CONFIG).take(changes(name))


def test_too_many_names_are_refused() -> None:
    names = [f"{WEB}/{number}" for number in range(MAX_NAMES + 1)]
    with pytest.raises(Invalid, match=f"{MAX_NAMES + 1} secrets in one stream"):
        StateOfTheWorld(CONFIG).take(asks(*names))
    added = Incremental(CONFIG)
    added.take(changes(*names[:-1]))
    with pytest.raises(Invalid):
        added.take(changes(names[-1]))
    with pytest.raises(Invalid, match="initial versions"):
        Incremental(CONFIG).take(pb.DeltaDiscoveryRequest(initial_resource_versions=dict.fromkeys(names, "1")))


def test_another_type_is_refused_and_none_stands_for_secrets() -> None:
    cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    with pytest.raises(Invalid, match=r"envoy\.config\.cluster\.v3\.Cluster"):
        StateOfTheWorld(CONFIG).take(pb.DiscoveryRequest(type_url=cluster))
    with pytest.raises(Invalid):
        Incremental(CONFIG).take(pb.DeltaDiscoveryRequest(type_url=cluster))
    untyped = StateOfTheWorld(CONFIG)
    untyped.take(pb.DiscoveryRequest(resource_names=["default"]))
    assert answer(untyped.offer({"default": secret("default", "v1")})).type_url == SECRET_TYPE


def test_a_subscription_is_answered_and_only_a_change_again() -> None:
    talk = StateOfTheWorld(CONFIG)
    # A junk nonce on the first request, as some clients send it, is no acceptance.
    assert talk.take(asks("default", nonce="junk", node=pb.Node(id="proxy\n1" + "x" * 500))) is None
    assert talk.proxy == ("proxy 1" + "x" * 500)[:128]
    assert talk.offer({"default": None}) is None
    first = answer(talk.offer({"default": secret("default", "v1")}))
    assert (first.version_info, first.nonce, len(first.resources)) == ("v1", "1", 1)
    assert talk.offer({"default": secret("default", "v1")}) is None
    answered = talk.take(asks("default", nonce="1", version="v1"))
    assert answered is not None and answered.error is None and answered.secrets[0].version == "v1"
    assert talk.take(asks("default", nonce="1", version="v1")) is None  # once
    second = answer(talk.offer({"default": secret("default", "v2")}))
    assert (second.version_info, second.nonce) == ("v2", "2")


def test_a_stale_nonce_says_nothing() -> None:
    talk = StateOfTheWorld(CONFIG)
    talk.take(asks("default"))
    talk.offer({"default": secret("default", "v1")})
    talk.offer({"default": secret("default", "v2")})
    assert talk.take(asks("ROOTCA", nonce="1", version="v1")) is None
    assert talk.take(asks("ROOTCA", nonce="9")) is None
    assert talk.names == ("default",)
    answered = talk.take(asks("default", nonce="2"))
    assert answered is not None and answered.secrets[0].version == "v2"


def test_what_was_refused_comes_again_only_when_it_changed() -> None:
    talk = StateOfTheWorld(CONFIG)
    talk.take(asks("default"))
    talk.offer({"default": secret("default", "v1")})
    answered = talk.take(asks("default", nonce="1", error_detail=refuses("bad\x1b[31m key\n" + "x" * 1000)))
    assert answered is not None and answered.error is not None
    assert answered.error.startswith("bad [31m key") and answered.error.isprintable() and len(answered.error) <= 500
    assert talk.offer({"default": secret("default", "v1")}) is None
    assert answer(talk.offer({"default": secret("default", "v2")})).nonce == "2"
    answered = talk.take(asks("default", nonce="2", error_detail=pb.Status(code=3)))
    assert answered is not None and answered.error == "no reason given (code 3)"


def test_other_names_are_answered_at_once_and_with_all_that_is_there() -> None:
    talk, held = StateOfTheWorld(CONFIG), {"default": secret("default", "v1"), "ROOTCA": secret("ROOTCA", "r1")}
    talk.take(asks("default"))
    talk.offer(held)
    talk.take(asks("default", "ROOTCA", "default", nonce="1", version="v1"))
    both = answer(talk.offer(held))
    assert [pb.Secret.FromString(one.value).name for one in both.resources] == ["default", "ROOTCA"]
    assert both.version_info not in ("v1", "r1")
    answered = talk.take(asks("ROOTCA", nonce="2"))
    assert answered is not None and len(answered.secrets) == 2
    assert [pb.Secret.FromString(one.value).name for one in answer(talk.offer(held)).resources] == ["ROOTCA"]
    talk.take(asks(nonce="3"))
    assert talk.names == () and talk.offer({}) is None  # unsubscribed from all: the stream stays


def test_who_comes_back_with_a_version_is_answered_again_and_is_known_to_hold_it() -> None:
    talk = StateOfTheWorld(CONFIG)
    talk.take(asks("default", version="v1"))
    assert talk.had("default") and not talk.lost("default")
    assert answer(talk.offer({"default": secret("default", "v1")})).version_info == "v1"
    assert talk.lost("default")


def test_delta_sends_what_is_added_changed_and_gone() -> None:
    talk, held = Incremental(CONFIG), {"default": secret("default", "v1"), "ROOTCA": secret("ROOTCA", "r1")}
    assert talk.take(changes("default", node=pb.Node(id="p"))) is None
    first = delta(talk.offer(held))
    assert [(one.name, one.version) for one in first.resources] == [("default", "v1")]
    assert first.resources[0].resource.type_url == SECRET_TYPE
    talk.take(changes("ROOTCA"))  # before the first response is answered
    second = delta(talk.offer(held))
    assert [one.name for one in second.resources] == ["ROOTCA"] and second.nonce == "2"
    for nonce, name in (("2", "ROOTCA"), ("1", "default")):  # in any order
        answered = talk.take(changes(nonce=nonce))
        assert answered is not None and [one.name for one in answered.secrets] == [name]
    assert talk.take(changes(nonce="1")) is None and talk.take(changes(nonce="7")) is None
    assert talk.offer(held) is None
    third = delta(talk.offer({**held, "default": None}))
    assert list(third.removed_resources) == ["default"] and not third.resources
    assert talk.offer({**held, "default": None}) is None
    assert [one.version for one in delta(talk.offer({**held, "default": secret("default", "v2")})).resources] == ["v2"]
    talk.take(changes(gone=("default",)))
    assert talk.names == ("ROOTCA",) and talk.offer(held) is None


def test_delta_sends_again_what_is_subscribed_again() -> None:
    talk, held = Incremental(CONFIG), {"default": secret("default", "v1")}
    talk.take(changes("default"))
    talk.offer(held)
    talk.take(changes("default"))
    assert len(delta(talk.offer(held)).resources) == 1


def test_delta_spares_what_the_peer_holds_and_takes_away_what_it_may_not_hold() -> None:
    talk = Incremental(CONFIG)
    talk.take(changes("default", WEB, initial_resource_versions={"default": "v1", WEB: "w1", "ROOTCA": "r1"}))
    assert talk.had(WEB) and not talk.had("ROOTCA")
    sent = delta(talk.offer({"default": secret("default", "v1"), WEB: None}))
    assert list(sent.removed_resources) == [WEB] and not sent.resources
    assert talk.offer({"default": secret("default", "v1"), WEB: None}) is None


def test_delta_refusal_names_what_was_refused() -> None:
    talk = Incremental(CONFIG)
    talk.take(changes("default"))
    talk.offer({"default": secret("default", "v1")})
    answered = talk.take(changes(nonce="1", error_detail=refuses("why")))
    assert answered is not None and (answered.error, answered.secrets[0].name) == ("why", "default")
    assert talk.offer({"default": secret("default", "v1")}) is None
