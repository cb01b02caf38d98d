"""One suite for every driver that says whose a service-account token is: the issuer's keys, and the Kubernetes API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.clocks import ManualClock
from tests.fakes.istio_mesh import AUDIENCE, ISSUER, ApiServer, Issuer, api_server
from trustfed.cluster.istio_ca.jwks import JwksReviewer
from trustfed.cluster.istio_ca.kubernetes import KubernetesApi, TokenReviewer
from trustfed.cluster.istio_ca.service_tokens import Expected, Reviewer
from trustfed.errors import Denied, Invalid, Unavailable


@dataclass
class Driver:
    """One driver, a token that it knows, one for another audience, and its source to be broken and mended."""

    reviewer: Reviewer
    good: str
    elsewhere: str
    breaks: Callable[[bool], None]
    clock: ManualClock


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("api")) as made:
        yield made


@pytest.fixture(params=["jwks", "token_review"])
def driver(request: pytest.FixtureRequest, api: ApiServer, tmp_path: Path) -> Driver:
    clock, issuer = ManualClock(), Issuer()
    good, elsewhere = issuer.token(now=clock.now()), issuer.token(now=clock.now(), aud="vault")
    if request.param == "token_review":
        api.know(good, "shop", "web")
        api.know(elsewhere, "shop", "web", audiences=["vault"])

        def fail(broken: bool) -> None:
            api.fault = lambda: (503, b"") if broken else None

        fail(False)
        return Driver(TokenReviewer(KubernetesApi(api.server), (AUDIENCE,)), good, elsewhere, fail, clock)
    broken = [False]

    def read() -> bytes:
        if broken[0]:
            raise Unavailable("the issuer cannot be reached")
        return issuer.jwks()

    def cut(on: bool) -> None:
        broken[0] = on

    return Driver(JwksReviewer(read, Expected(ISSUER, (AUDIENCE,)), clock), good, elsewhere, cut, clock)


async def test_a_good_token_names_account_and_pod(driver: Driver) -> None:
    account = await driver.reviewer.review(driver.good)
    assert (account.key, account.pod, account.pod_uid) == ("shop/web", "web-0", "uid-web")


async def test_a_token_for_another_audience_is_denied(driver: Driver) -> None:
    with pytest.raises(Denied, match="for another audience"):
        await driver.reviewer.review(driver.elsewhere)


async def test_a_token_of_another_issuer_is_denied(driver: Driver) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    stranger = Issuer("k9", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(Denied):
        await driver.reviewer.review(stranger.token(now=driver.clock.now()))


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 20_000, "é.é.é"])
async def test_what_is_no_token_is_invalid(driver: Driver, token: str) -> None:
    with pytest.raises(Invalid):
        await driver.reviewer.review(token)


async def test_who_cannot_be_asked_blames_nobody_and_is_asked_again(driver: Driver) -> None:
    driver.breaks(True)
    with pytest.raises(Unavailable):
        await driver.reviewer.review(driver.good)
    driver.breaks(False)
    driver.clock.move(60)
    assert (await driver.reviewer.review(driver.good)).key == "shop/web"
