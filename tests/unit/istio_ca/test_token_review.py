"""The TokenReview driver and ztunnel's pods, against an API server of our own over HTTPS that faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.istio_mesh import AUDIENCE, ApiServer, Issuer, api_server, slowly
from trustfed.cluster.istio_ca.accounts import Account
from trustfed.cluster.istio_ca.kubernetes import KubernetesApi, KubernetesPods, TokenReviewer
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable

TOKEN = Issuer().token()
ZTUNNEL = Account("istio-system", "ztunnel", "ztunnel-0", "uid-ztunnel")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("api")) as made:
        yield made


@pytest.fixture
def api(shared: ApiServer) -> ApiServer:
    shared.tokens, shared.pods, shared.asked, shared.fault = {}, [], [], lambda: None
    shared.server.token_file.write_text("own-token\n")
    return shared


def reviewer(api: ApiServer, seconds: float = 5.0) -> TokenReviewer:
    return TokenReviewer(KubernetesApi(api.server, seconds), (AUDIENCE,))


async def test_the_api_server_says_whose_token_it_is(api: ApiServer) -> None:
    api.know(TOKEN, "shop", "web")
    account = await reviewer(api).review(TOKEN)
    assert (account.key, account.pod, account.pod_uid, account.node) == ("shop/web", "web-0", "uid-web", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"authenticated": False},
        {"authenticated": "true"},
        {"error": "half believed"},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": None},
        {"audiences": "istio-ca-2"},
        {"user": {"username": "system:node:node-1"}},
        {"user": {}},
    ],
    ids=repr,
)
async def test_what_is_not_authenticated_for_us_is_refused(api: ApiServer, changes: dict[str, Any]) -> None:
    api.know(TOKEN, "shop", "web", **changes)
    with pytest.raises(Denied):
        await reviewer(api).review(TOKEN)


async def test_an_unknown_token_is_refused_and_no_garbage_is_passed_on(api: ApiServer) -> None:
    with pytest.raises(Denied, match="does not know this"):
        await reviewer(api).review(TOKEN)
    asked = len(api.asked)
    for garbage in ("", "x" * 100_000, "a.b.c"):
        with pytest.raises(Invalid):
            await reviewer(api).review(garbage)
    assert len(api.asked) == asked


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, b"{}"), "status 500"),
        ((503, b"not json"), "status 503"),
        ((403, b"{}"), "status 403"),
        ((201, b"<html>"), "nonsense"),
        ((201, b"[]"), "nonsense"),
        ((201, b"{}"), "without a status"),
        ((201, b'{"status": "yes"}'), "without a status"),
        ((201, b'{"status": {"authenticated": false, "authenticated": true}}'), "nonsense"),
        ((302, b"https://metadata.example/"), "failed|status 302"),
        ((201, b" " * (2 << 20) + b"{}"), "too much"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_broken_api_server_refuses_nobody_for_good(
    api: ApiServer, answer: tuple[int, bytes], said: str
) -> None:
    api.know(TOKEN, "shop", "web")
    api.fault = lambda: answer
    with pytest.raises(Unavailable, match=said):
        await reviewer(api).review(TOKEN)
    api.fault = lambda: None
    assert (await reviewer(api).review(TOKEN)).key == "shop/web"


async def test_a_slow_api_server_is_given_up(api: ApiServer) -> None:
    api.know(TOKEN, "shop", "web")
    api.fault = slowly(0.5)
    with pytest.raises(Unavailable, match=r"failed|in time|cannot be reached"):
        await reviewer(api, 0.1).review(TOKEN)


async def test_who_the_server_is_and_who_we_are_is_checked(api: ApiServer, tmp_path: Path) -> None:
    api.know(TOKEN, "shop", "web")
    api.server.token_file.write_text("stale")
    review = reviewer(api)
    with pytest.raises(Unavailable, match="status 401"):
        await review.review(TOKEN)
    api.server.token_file.write_text("own-token")  # rotated: read anew for each call
    assert (await review.review(TOKEN)).key == "shop/web"
    with api_server(tmp_path) as other:
        wrong = TokenReviewer(KubernetesApi(replace(api.server, ca_file=other.server.ca_file)), (AUDIENCE,))
        with pytest.raises(Unavailable, match="is another one"):
            await wrong.review(TOKEN)


async def test_a_ztunnel_is_on_the_node_of_its_own_pod(api: ApiServer) -> None:
    api.run("istio-system", "ztunnel", "node-1")
    api.run("shop", "web", "node-1")
    api.run("shop", "old", "node-1", phase="Succeeded")
    pods = KubernetesPods(KubernetesApi(api.server))
    assert await pods.node_of(ZTUNNEL) == "node-1"
    assert await pods.runs_on("node-1", "shop", "web")
    assert not await pods.runs_on("node-2", "shop", "web")
    assert not await pods.runs_on("node-1", "shop", "old")
    assert not await pods.runs_on("node-1", "bank", "web")


@pytest.mark.parametrize(
    "caller",
    [
        replace(ZTUNNEL, pod_uid="uid-of-a-deleted-one"),
        replace(ZTUNNEL, pod="ztunnel-7"),
        replace(ZTUNNEL, name="other"),
        replace(ZTUNNEL, pod=""),
        replace(ZTUNNEL, pod_uid=""),
    ],
    ids=repr,
)
async def test_a_token_of_a_pod_that_is_gone_names_no_node(api: ApiServer, caller: Account) -> None:
    api.run("istio-system", "ztunnel", "node-1")
    with pytest.raises(Denied):
        await KubernetesPods(KubernetesApi(api.server)).node_of(caller)


async def test_pods_that_the_server_invents_count_for_nothing(api: ApiServer) -> None:
    pods = KubernetesPods(KubernetesApi(api.server))
    for items in (b"7", b"[7]", b'[{"spec": 1}]', b'[{"metadata": {}, "spec": {"nodeName": "node-1"}}]'):
        api.fault = lambda items=items: (200, b'{"items": ' + items + b"}")  # type: ignore[misc]
        assert not await pods.runs_on("node-1", "shop", "web")
    api.fault = lambda: (500, b"")
    with pytest.raises(TrustfedError):
        await pods.runs_on("node-1", "shop", "web")
