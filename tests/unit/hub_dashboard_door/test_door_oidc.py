"""Login by a real OpenID provider (OpenBao's): the whole way, and each way in which an answer is not that of this login."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
import pytest_asyncio

from tests.fakes.clocks import ManualClock
from tests.fakes.openbao import OpenBao
from tests.unit.hub.hub_parts import HubParts
from tests.unit.hub_dashboard_door.dashboard_house import ORIGIN, Browser, DashboardHouse
from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.hub.access import Caller
from trustfed.hub.approvals import NEXT_ROOT
from trustfed.hub.dashboard import oidc_provider
from trustfed.hub.dashboard.compose import HubDashboard
from trustfed.hub.dashboard.oidc import Oidc
from trustfed.hub.dashboard.oidc_config import OidcConfig
from trustfed.hub.dashboard.oidc_provider import Provider
from trustfed.hub.dashboard.security_headers import HEADERS
from trustfed.hub.evidence.fleet import Fleet
from trustfed.journal import audit
from trustfed.runtime.config import SecretFile

CALLBACK = f"{ORIGIN}/dashboard/oidc/callback"


class Realm:
    """OpenBao as an OpenID provider with two clients, and alice (in hub-admins) and bob (in no group)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bao = folder, OpenBao(tls=folder)
        self.bao.start()
        call = self.bao.call
        call("POST", "identity/oidc/key/k", {"allowed_client_ids": "*", "algorithm": "ES256"})
        client = {"redirect_uris": CALLBACK, "assignments": "allow_all", "key": "k", "id_token_ttl": "5m"}
        call("POST", "identity/oidc/client/hub", client)
        call("POST", "identity/oidc/client/other", client)
        groups = '{"groups": {{identity.entity.groups.names}}}'
        call("POST", "identity/oidc/scope/groups", {"template": groups})
        call("POST", "identity/oidc/provider/p", {"allowed_client_ids": "*", "scopes_supported": "groups"})
        rules = 'path "identity/oidc/provider/p/authorize" { capabilities = ["read", "update"] }'
        call("PUT", "sys/policies/acl/authorize", {"policy": rules})
        call("POST", "sys/auth/userpass", {"type": "userpass"})
        self.tokens: dict[str, str] = {}
        entities: dict[str, str] = {}
        for name in ("alice", "bob"):
            call("POST", f"auth/userpass/users/{name}", {"password": "pw", "token_policies": "authorize"})
            auth = call("POST", f"auth/userpass/login/{name}", {"password": "pw"})["auth"]
            self.tokens[name], entities[name] = auth["client_token"], auth["entity_id"]
        call("POST", "identity/group", {"name": "hub-admins", "member_entity_ids": [entities["alice"]]})

    def client(self, name: str) -> dict[str, Any]:
        return dict(self.bao.call("GET", f"identity/oidc/client/{name}")["data"])

    def config(self, client: str = "hub", **changes: Any) -> OidcConfig:
        secret = self.folder / f"{client}.secret"
        secret.write_text(self.client(client)["client_secret"])
        secret.chmod(0o600)
        given: dict[str, Any] = {
            "issuer": f"{self.bao.url}/v1/identity/oidc/provider/p",
            "client_id": self.client(client)["client_id"],
            "roles": {"hub-admins": "admin"},
            "client_secret_file": SecretFile(secret),
            "scopes": ("openid", "groups"),
            "ca_file": self.folder / "vault-ca.pem",
            "allow_networks": ("127.0.0.0/8",),
        }
        return OidcConfig(**{**given, **changes})

    async def authorize(self, address: str, user: str = "alice", **changes: str) -> dict[str, str]:
        """What the provider's own page does when a person agrees: a code for this login."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert query["code_challenge_method"] == "S256" and query["response_type"] == "code"

        def ask() -> dict[str, str]:
            answer = httpx.get(
                f"{self.bao.url}/v1/identity/oidc/provider/p/authorize",
                params={**query, **changes},
                headers={"X-Vault-Token": self.tokens[user]},
                verify=self.bao._trusted(),
                trust_env=False,
            )
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        return await asyncio.to_thread(ask)


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    made = Realm(tmp_path_factory.mktemp("openbao"))
    yield made
    made.bao.kill()


def _oidc(config: OidcConfig, clock: ManualClock) -> Oidc:
    return Oidc(config, Provider(config, clock), clock, os.urandom, CALLBACK, b"a key of this hub")


@pytest.fixture
def wall() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest_asyncio.fixture
async def inn(realm: Realm, wall: ManualClock) -> AsyncIterator[DashboardHouse]:
    house = await DashboardHouse.make(oidc=_oidc(realm.config(), wall))
    yield house
    await house.close()


async def _begin(browser: Browser, following: str = "/dashboard/search?q=prod") -> str:
    answer = await browser.client.get("/dashboard/oidc/begin", params={"next": following})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def _return(browser: Browser, **query: str) -> httpx.Response:
    return await browser.client.get("/dashboard/oidc/callback", params=query)


async def test_a_person_with_a_group_is_let_in_once(realm: Realm, inn: DashboardHouse) -> None:
    assert "Log in with" in (await inn.get("/login")).text
    address = await _begin(inn)
    said = await realm.authorize(address)
    answer = await _return(inn, **said)
    assert answer.status_code == 303 and answer.headers["location"] == "/dashboard/search?q=prod", answer.text
    assert all(answer.headers[name] == value for name, value in HEADERS.items())
    (session,) = inn.sessions.alive()
    assert session.role == "admin" and session.how == "oidc"
    assert session.actor.startswith("oidc:") and session.person == session.actor
    assert (await inn.get("/actions")).status_code == 200
    # The same answer once more, here and in another browser.
    assert (await _return(inn, **said)).status_code == 403
    other = inn.browser()
    await _begin(other)
    assert (await _return(other, **said)).status_code == 403
    # Coming back is the same actor; nothing of the person is in the journal.
    await _return(inn, **await realm.authorize(await _begin(inn)))
    assert {one.actor for one in inn.sessions.alive()} == {session.actor}
    journal = msgspec.json.encode([record.event for record in await inn.hub.journal.read(0, 100)]).decode()
    assert "login.opened" in journal and "alice" not in journal and realm.tokens["alice"] not in journal


async def test_a_person_without_a_group_is_not(realm: Realm, inn: DashboardHouse) -> None:
    answer = await _return(inn, **await realm.authorize(await _begin(inn), "bob"))
    assert answer.status_code == 403 and "no role here" in answer.text and not inn.sessions.alive()


async def test_an_answer_of_another_login_is_refused(realm: Realm, inn: DashboardHouse) -> None:
    said = await realm.authorize(await _begin(inn))
    other = inn.browser()
    assert (await _return(other, **said)).status_code == 403  # no login began there: a planted answer
    await _begin(other)
    assert (await _return(other, **said)).status_code == 403  # another one began there
    assert (await _return(inn, **{**said, "state": "x"})).status_code == 403
    assert (await _return(inn, **said)).status_code == 403  # and the wrong state has ended this one
    for answer in ({}, {"state": said["state"]}, {"error": "access_denied", "state": said["state"]}):
        address = await _begin(inn)
        state = parse_qs(urlsplit(address).query)["state"][0]
        refused = await _return(inn, **{**answer, **({"state": state} if "state" in answer else {})})
        assert refused.status_code == 403
    assert (await inn.client.get("/dashboard/oidc/callback?state=a&state=b")).status_code == 400
    assert not inn.sessions.alive()


async def test_a_code_is_bound_to_nonce_verifier_issuer_and_time(
    realm: Realm, inn: DashboardHouse, wall: ManualClock
) -> None:
    address = await _begin(inn)
    refused = await _return(inn, **await realm.authorize(address, nonce="another"))
    assert refused.status_code == 403 and "of another login" in refused.text
    refused = await _return(inn, **await realm.authorize(await _begin(inn), code_challenge="A" * 43))
    assert refused.status_code == 403 and "did not take the code" in refused.text
    said = await realm.authorize(await _begin(inn))
    assert (await _return(inn, **said, iss="https://evil.example")).status_code == 403
    said = await realm.authorize(await _begin(inn))
    wall.move(601)
    assert (await _return(inn, **said)).status_code == 403
    assert not inn.sessions.alive()


async def test_a_token_for_another_client_is_refused(realm: Realm, inn: DashboardHouse) -> None:
    # Redeemed by the client that it is for: then the audience is all that is wrong.
    clock = ManualClock(datetime.now(UTC))
    other = realm.config("other")
    oidc = _oidc(other, clock)
    cookie, address = await oidc.begin("/dashboard/")
    said = await realm.authorize(address)
    object.__setattr__(oidc._config, "client_id", realm.client("hub")["client_id"])
    oidc._provider._config = realm.config("other")
    with pytest.raises(Denied, match="for another client"):
        await oidc.finish(cookie, said)


async def test_a_provider_that_is_away_or_another_is_one_clear_error(realm: Realm, tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    away = realm.config(issuer="https://127.0.0.1:1/realm".replace(":1/", ":1025/"))
    with pytest.raises(Unavailable):
        await _oidc(away, clock).begin("/dashboard/")
    with pytest.raises(Denied, match="loopback") as inner:
        await _oidc(realm.config(allow_networks=()), clock).begin("/dashboard/")
    assert "oidc.allow_networks in the configuration" in inner.value.hint
    with pytest.raises(Denied, match="did not prove"):
        await _oidc(realm.config(ca_file=None), clock).begin("/dashboard/")
    renamed = realm.config(issuer=realm.config().issuer.replace("127.0.0.1", "localhost"))
    with pytest.raises(Denied, match="of another issuer"):
        await _oidc(renamed, clock).begin("/dashboard/")


async def test_keys_and_configuration_are_kept_and_asked_for_anew_within_bounds(realm: Realm) -> None:
    clock, config = ManualClock(datetime.now(UTC)), realm.config()
    provider = Provider(config, clock)
    first = await provider.keys()
    realm.bao.call("POST", "identity/oidc/key/k/rotate", {"verification_ttl": "0s"})
    assert await provider.keys() is first
    assert await provider.keys(newer=True) is first  # within a minute
    clock.move(61)
    newer = await provider.keys(newer=True)
    assert set(newer) != set(first)
    # A login after the rotation goes through.
    oidc = _oidc(config, clock)
    cookie, address = await oidc.begin("/dashboard/")
    caller, following = await oidc.finish(cookie, await realm.authorize(address))
    assert (caller.role, following) == ("admin", "/dashboard/")


async def test_a_provider_that_hangs_takes_no_more_than_its_threads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        base = f"https://127.0.0.1:{hole.getsockname()[1]}"
        config = OidcConfig(base, "trustfed", {"a": "admin"}, allow_networks=("127.0.0.0/8",))
        provider = Provider(config, ManualClock())
        asked = [asyncio.create_task(provider.keys()) for _ in range(3)]
        asked += [asyncio.create_task(provider._get(f"{base}/{n}")) for n in range(oidc_provider.MAX_WAITING + 2)]
        done, _ = await asyncio.wait(asked, timeout=0.2)
        assert len(done) == 3 and all("too many logins wait" in str(one.exception()) for one in done)
        async with asyncio.timeout(20):
            await asyncio.to_thread(lambda: None)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_begun_logins_are_bounded(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(datetime.now(UTC))
    monkeypatch.setattr("trustfed.hub.dashboard.oidc.MAX_BEGUN", 3)
    oidc = _oidc(realm.config(), clock)
    for _ in range(3):
        await oidc.begin("/dashboard/")
    with pytest.raises(Unavailable):
        await oidc.begin("/dashboard/")
    clock.move(601)
    await oidc.begin("/dashboard/")


def test_an_issuer_may_end_with_a_slash_and_is_compared_exactly() -> None:
    # Discovery 1.0 §4.1: it is left out before the well-known path; §4.3: `issuer` is the same to the letter.
    slashed = OidcConfig("https://id.example/realm/", "hub", {"a": "admin"})
    plain = OidcConfig("https://id.example/realm", "hub", {"a": "admin"})
    assert slashed.discovery == plain.discovery == "https://id.example/realm/.well-known/openid-configuration"
    ends = dict.fromkeys(("authorization_endpoint", "token_endpoint", "jwks_uri"), "https://id.example/x")
    for config, other in ((slashed, plain), (plain, slashed)):
        assert oidc_provider._endpoints({"issuer": config.issuer, **ends}, config.issuer).token
        with pytest.raises(Denied, match="of another issuer"):
            oidc_provider._endpoints({"issuer": config.issuer, **ends}, other.issuer)


def _offline(**changes: Any) -> Oidc:
    config = OidcConfig("https://id.example", "hub", {"a": "admin"}, **changes)
    return _oidc(config, ManualClock())


async def test_an_account_that_is_bound_to_a_uid_is_one_person_with_it(house: DashboardHouse) -> None:
    oidc, approving = _offline(uids={"alice": 1000}), house.hub.operations.approvals
    alice, carol = oidc._actor("alice"), oidc._actor("carol")
    assert (oidc.person(alice), oidc.person(carol)) == ("uid:1000", carol)
    asked = await house.hub.operations.ask(Caller("uid:1000", "admin"), NEXT_ROOT, "yearly")
    assert asked.proposal is not None
    with pytest.raises(Denied, match="both are uid:1000"):
        await approving.approve(Caller(alice, "admin", oidc.person(alice)).acting, asked.proposal.id)
    await approving.approve(Caller(carol, "admin", oidc.person(carol)).acting, asked.proposal.id)
    # Whose account carol's is, nobody said: the trail says where both came in, and that they may be one.
    found = await audit.search(house.hub.journal, house.hub.fold.position, audit.Query(kind="proposal.approved"))
    (line,) = found.shown("hub")["events"]
    assert (line["door"], line["flag"]) == ("admin socket + dashboard", audit.UNBOUND)
    assert (line["body"]["proposed_by"], line["body"]["by"]) == ("uid:1000", carol)


async def test_logins_of_before_end_when_accounts_are_bound_anew_or_named_anew(tmp_path: Path) -> None:
    hub = await HubParts.make()

    async def opened(**changes: Any) -> HubDashboard:
        config = OidcConfig("https://id.example", "hub", {"a": "admin"}, **changes)
        given: dict[str, Any] = {"address": ORIGIN, "hosts": frozenset(("hub.example",)), "randomness": os.urandom}
        fleet = Fleet(hub.clock)
        return await HubDashboard.open(
            hub.parts(), fleet, None, None, directory=tmp_path, oidc=config, clock=hub.clock, **given
        )

    first = await opened()
    key = (tmp_path / "oidc.key").read_bytes()
    assert len(key) == 32 and (tmp_path / "oidc.key").stat().st_mode & 0o777 == 0o600
    assert first.parts.oidc is not None
    who = first.parts.oidc._actor("alice")
    await first.parts.logins.by_provider(Caller(who, "admin", who))
    asked = (await hub.operations.ask(Caller(who, "admin", who), NEXT_ROOT, "yearly")).proposal
    assert asked is not None
    await first.close()
    again = await opened()
    assert [one.actor for one in again.parts.sessions.alive()] == [who]
    await again.close()
    assert hub.operations.approvals.found(asked.id)["status"] == "open"
    bound = await opened(uids={"alice": 1000})
    assert not bound.parts.sessions.alive()
    with pytest.raises(Conflict, match="withdrawn"):  # alice's uid would be another person than her account was
        await hub.operations.approvals.approve(Caller("uid:1000", "admin").acting, asked.id)
    await bound.parts.logins.by_provider(Caller(who, "admin", "uid:1000"))
    await bound.close()
    (tmp_path / "oidc.key").unlink()
    anew = await opened(uids={"alice": 1000})
    assert not anew.parts.sessions.alive() and anew.parts.oidc and anew.parts.oidc._actor("alice") != who
    await anew.close()
    (tmp_path / "oidc.key").write_bytes(b"short")
    with pytest.raises(Invalid, match="has 5 bytes"):
        await opened()
    await hub.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://id.example"},
        {"issuer": "https://id.example?x=1"},
        {"client_id": ""},
        {"roles": {}},
        {"roles": {"a": "root"}},
        {"scopes": ("groups",)},
        {"scopes": ("openid", "a b")},
        {"allow_networks": ("10.0.0.0/40",)},
        {"uids": {"": 1}},
        {"uids": {"a": -1}},
        {"uids": {"a": 2**32 - 1}},
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        OidcConfig(**{"issuer": "https://id.example", "client_id": "hub", "roles": {"a": "admin"}, **changes})
