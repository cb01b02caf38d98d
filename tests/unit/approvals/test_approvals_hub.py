"""Every CA command of the hub by one actor, the same twice, another, too late, on another state, alone: at both doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request

from tests.fakes.journals import FaultyJournal
from tests.unit.hub.hub_parts import DAY, HubParts
from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.hub import access, approvals_api
from trustfed.hub.access import Caller
from trustfed.hub.approvals import commands, root_activation, root_preparation
from trustfed.hub.approvals_alarm import GlassAlarms
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.public import API, admin_app, https_app
from trustfed.runtime.problems import map_errors

REASON = "the rule of two people"
Order = tuple[str, str, dict[str, Any]]


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[HubParts]:
    made = await HubParts.make()
    yield made
    await made.close()


class Door:
    """One of the hub's doors, at which `who` asks: "1" and "2" are people, "1b" is what person 1 made."""

    def __init__(self, hub: HubParts, admin: bool, *, whole: bool = False) -> None:
        self.hub, self.admin, self.tokens = hub, admin, dict[str, str]()
        self.parts = hub.parts()
        if whole:
            app = admin_app(self.parts, lambda: True) if admin else https_app(self.parts, DAY, lambda: True)
        else:  # building all routes is most of a test's time
            app = FastAPI()
            app.state.door = self._peer if admin else self._bearer
            app.include_router(approvals_api.routes(self.parts), prefix="" if admin else API)
            map_errors(app)
        self._clients = {
            who: httpx.AsyncClient(
                transport=httpx.ASGITransport(app, client=(f"uid:{who[0]}", 1)), base_url="https://hub"
            )
            for who in ("1", "1b", "2", "3")
        }

    def _peer(self, request: Request) -> Caller | None:
        return Caller(request.client.host, "admin") if request.client else None

    def _bearer(self, request: Request) -> Caller | None:
        return access.caller(self.hub.state, request.headers.get("authorization"), self.hub.clock.now())

    async def open(self) -> Door:
        for who in self._clients:
            maker = Caller(f"uid:{who[0]}", "admin")
            self.tokens[who] = (await self.hub.operations.issue_token(maker, f"t{who}", "admin", 30 * DAY))[1]
        return self

    async def ask(self, who: str, order: Order, **more: Any) -> httpx.Response:
        method, path, body = order
        headers = dict(more.pop("headers", {}))
        if not self.admin:
            path, headers["Authorization"] = API + path, f"Bearer {self.tokens[who]}"
        said = {**body, **more}
        if method == "DELETE":
            said = {name: str(value).lower() if value is True else value for name, value in said.items()}
            return await self._clients[who].request(method, path, params=said, headers=headers)
        return await self._clients[who].request(method, path, json=said, headers=headers)

    async def approve(self, who: str, id_: str) -> httpx.Response:
        return await self.ask(who, ("POST", f"/approvals/{id_}/approve", {}))


async def prepare(hub: HubParts) -> Order:
    return "POST", "/roots/prepare", {"reason": REASON}


async def activate(hub: HubParts) -> Order:
    await hub.alone(root_preparation(hub.state))
    return "POST", "/roots/activate", {"reason": REASON}


async def retire(hub: HubParts) -> Order:
    await activate(hub)
    await hub.alone(root_activation(hub.state))
    await hub.chores.do()  # the hub's own authority moves below the new root
    return "POST", "/roots/retire", {"name": "root-1", "reason": REASON}


async def revoke(hub: HubParts) -> Order:
    await hub.enrolled("west")
    (signed,) = hub.state.signed_for("west")
    return "POST", f"/intermediates/{signed.serial}/revoke", {"reason": "keyCompromise", "why": REASON}


async def remove(hub: HubParts) -> Order:
    await hub.enrolled("west")
    return "DELETE", "/domains/west", {"reason": REASON}


COMMANDS: dict[str, tuple[Callable[[HubParts], Awaitable[Order]], str]] = {
    "root.prepare": (prepare, "root.prepared"),
    "root.activate": (activate, "root.activated"),
    "root.retire": (retire, "root.retired"),
    "intermediate.revoke": (revoke, "intermediate.revoked"),
    "domain.remove": (remove, "domain.removed"),
}
EVERY = pytest.mark.parametrize("command", COMMANDS)
BOTH = pytest.mark.parametrize("admin", [True, False], ids=["socket", "api"])


async def kinds(hub: HubParts, after: int) -> list[str]:
    return [record.event.kind for record in await hub.journal.read(after, 1000)]


@BOTH
async def test_an_intermediate_is_named_as_openssl_names_it_and_proposed_as_the_hub_does(
    hub: HubParts, admin: bool
) -> None:
    (_, path, body), door = await revoke(hub), await Door(hub, admin).open()
    serial = path.split("/")[2]
    written = ":".join(serial[at : at + 2] for at in range(0, len(serial), 2)).upper()
    order = "POST", f"/intermediates/{written}/revoke", body
    asked = await door.ask("1", order)
    assert asked.status_code == 202 and serial in asked.text and written not in asked.text, asked.text
    done = await door.ask("1", order, break_glass=True)
    assert done.status_code == 200 and done.json()["serial"] == serial and done.json()["revoked_reason"], done.text
    missing = await door.ask("1", ("POST", f"/intermediates/{written[3:]}/revoke", body))
    assert missing.status_code == 404 and "no intermediate has the serial" in missing.text


@EVERY
@BOTH
async def test_a_command_takes_two_people(hub: HubParts, command: str, admin: bool) -> None:
    make, effect = COMMANDS[command]
    order, door = await make(hub), await Door(hub, admin, whole=True).open()
    start = hub.fold.position
    asked = await door.ask("1", order, headers={"Command-Id": "c1"})
    assert asked.status_code == 202, asked.text
    told = asked.json()
    assert told["needs"] == "another person"
    assert told["command"] == command
    again = await door.ask("1", order, headers={"Command-Id": "c1"})
    assert (again.status_code, again.json()) == (202, told)  # sent again: the same proposal
    assert await kinds(hub, start) == ["proposal.made"]
    for who in ("1", "1b"):  # the same actor, and another identity that the same person made
        refused = await door.approve(who, told["proposal"])
        assert refused.status_code == 403, refused.text
        assert "cannot approve" in refused.json()["detail"]
    assert await kinds(hub, start) == ["proposal.made", "proposal.refused", "proposal.refused"]
    listed = (await door.ask("2", ("GET", "/approvals", {}))).json()["approvals"]
    assert [(one["id"], one["status"], one["refused_tries"]) for one in listed] == [(told["proposal"], "open", 2)]
    before = hub.fold.position
    done = await door.approve("2", told["proposal"])
    assert done.status_code == 200, done.text
    assert done.json()["status"] == "approved"
    records = [r for r in await hub.journal.read(before, 1000) if r.event.kind != "crl.issued"]
    assert [record.event.kind for record in records][:2] == ["proposal.approved", effect]
    assert len({record.event.command_id for record in records[:2]}) == 1  # one append
    assert records[0].event.body["body_hash"] == told["body_hash"]
    # A replay of the approval does nothing, whoever sends it.
    position = hub.fold.position
    assert (await door.approve("2", told["proposal"])).status_code == 200
    assert (await door.approve("3", told["proposal"])).status_code == 409
    assert effect not in await kinds(hub, position)


@EVERY
@BOTH
async def test_too_late_or_on_another_state_nothing_is_done(hub: HubParts, command: str, admin: bool) -> None:
    order, door = await COMMANDS[command][0](hub), await Door(hub, admin).open()
    id_ = (await door.ask("1", order)).json()["proposal"]
    hub.clock.move(3601)
    late = await door.approve("2", id_)
    assert late.status_code == 409
    assert "has expired" in late.json()["detail"]
    assert (await door.ask("2", ("GET", f"/approvals/{id_}", {}))).json()["status"] == "expired"
    id_ = (await door.ask("1", order)).json()["proposal"]
    # Somebody else does it in between.
    alone = await door.ask("3", order, break_glass=True)
    assert alone.status_code == 200, alone.text
    before = hub.fold.position
    changed = await door.approve("2", id_)
    assert changed.status_code == 409, changed.text
    assert await kinds(hub, before) == ["proposal.refused"]
    withdrawn = await door.ask("1", ("POST", f"/approvals/{id_}/withdraw", {"reason": "it was done"}))
    assert withdrawn.json()["status"] == "withdrawn"


@EVERY
@BOTH
async def test_breaking_the_glass_is_one_event_and_an_alarm(
    hub: HubParts, command: str, admin: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make, effect = COMMANDS[command]
    order, door = await make(hub), await Door(hub, admin).open()
    reason = {"why": "short"} if command == "intermediate.revoke" else {"reason": "short"}
    before = hub.fold.position
    refused = await door.ask("1", order, **reason, break_glass=True)
    assert refused.status_code == 400
    assert "at least 10 characters" in refused.json()["detail"]
    assert hub.fold.position == before
    done = await door.ask("1", order, break_glass=True, headers={"Command-Id": "alone"})
    assert done.status_code == 200, done.text
    records = [r for r in await hub.journal.read(before, 1000) if r.event.kind != "crl.issued"]
    assert [record.event.kind for record in records][:2] == ["glass.broken", effect]
    assert len({record.event.command_id for record in records[:2]}) == 1
    assert records[0].event.body["reason"] == REASON
    listed = (await door.ask("2", ("GET", "/approvals?broken=true", {}))).json()["approvals"]
    assert any(one["command"] == command and one["reason"] == REASON for one in listed)
    again = await door.ask("1", order, break_glass=True, headers={"Command-Id": "alone"})
    assert again.status_code == 200, again.text
    assert (await kinds(hub, before)).count("glass.broken") == 1
    alarms = [one for one in caplog.records if one.levelname == "ERROR" and "glass broken" in one.message]
    assert len(alarms) == sum(kind == "glass.broken" for kind in await kinds(hub, 0))


@pytest.mark.parametrize("alone", [False, True])
async def test_a_token_that_is_revoked_while_the_keys_sign_decides_nothing(hub: HubParts, alone: bool) -> None:
    ann, admin = Caller("uid:1", "admin"), Caller("uid:2", "admin")
    token, _ = await hub.operations.issue_token(admin, "stolen", "admin", DAY)
    thief, roots = Caller(f"token:{token}", "admin", "uid:2"), hub.state.roots
    signs = next(command for command in commands(hub.signer) if command.name == "root.prepare")

    async def slow(*given: Any) -> Any:
        await hub.operations.revoke_token(admin, token)
        return await signs.make(*given)

    hub.operations.approvals.add(replace(signs, make=slow))
    asked = await hub.operations.ask(ann, root_preparation(hub.state), REASON)
    assert asked.proposal is not None
    with pytest.raises(Denied, match="opens nothing any more"):
        if alone:
            await hub.operations.ask(thief, root_preparation(hub.state), REASON, break_glass=True)
        else:
            await hub.operations.approvals.approve(thief.acting, asked.proposal.id)
    assert hub.state.roots == roots and hub.operations.approvals.found(asked.proposal.id)["status"] == "open"


@pytest.mark.parametrize("dies", ["while the keys sign", "before it is recorded", "after it is recorded"])
async def test_killed_between_approval_and_effect_leaves_both_or_neither(dies: str) -> None:
    journal = FaultyJournal()
    hub = await HubParts.make(journal)
    try:
        ann, bob = Caller("uid:1", "admin"), Caller("uid:2", "admin").acting
        asked = await hub.operations.ask(ann, root_preparation(hub.state), REASON)
        assert asked.proposal is not None
        before, id_, approving = hub.fold.position, asked.proposal.id, hub.operations.approvals
        signs = next(command for command in commands(hub.signer) if command.name == "root.prepare")
        if dies == "while the keys sign":

            async def killed(*_: Any) -> Any:
                await hub.signer.next(hub.state, hub.clock.now())
                raise asyncio.CancelledError

            approving.add(replace(signs, make=killed))
            with pytest.raises(asyncio.CancelledError):
                await approving.approve(bob, id_)
        else:
            journal.fail(Unavailable("gone"), after_recording=dies == "after it is recorded")
            with pytest.raises(Unavailable):
                await approving.approve(bob, id_)
        if dies == "after it is recorded":
            await until_position(hub, before + 2)
            assert [one.status for one in hub.state.roots] == ["active", "prepared"]
        else:
            assert (hub.fold.position, len(hub.state.roots)) == (before, 1)
            assert hub.state.proposals[id_].status == "open"
        approving.add(signs)
        await approving.approve(bob, id_)  # sent again: once in all
        assert [one.status for one in hub.state.roots] == ["active", "prepared"]
        assert await kinds(hub, before) == ["proposal.approved", "root.prepared"]
    finally:
        await hub.close()


async def until_position(hub: HubParts, position: int) -> None:
    async with asyncio.timeout(20):
        while hub.fold.position < position:
            await asyncio.sleep(0.01)


async def test_a_token_counts_as_who_made_it_whoever_that_was(hub: HubParts) -> None:
    ann = Caller("uid:1", "admin")
    first, _ = await hub.operations.issue_token(ann, "first", "admin", DAY)
    bearer = Caller(f"token:{first}", "admin", hub.state.tokens[first].issued_by)
    second, _ = await hub.operations.issue_token(bearer, "second", "admin", DAY)
    assert hub.state.tokens[second].issued_by == "uid:1"  # made with a token: the same person still
    old = access.issue(hub.state, "ab" * 8, "hash", name="old", role="admin", life=DAY, now=hub.clock.now())
    await hub.fold.execute(lambda _: old, command_id="old", actor="uid:0", now=hub.clock.now())
    before_that_was_kept = Caller("token:old", "admin", hub.state.tokens["ab" * 8].issued_by)
    with pytest.raises(Denied, match="not on record"):
        await hub.operations.ask(before_that_was_kept, root_preparation(hub.state), REASON)


async def test_a_revoked_token_takes_along_what_it_made_and_what_it_proposed(hub: HubParts) -> None:
    operations, ann = hub.operations, Caller("uid:1", "admin")

    async def made(by: Caller, life: timedelta = DAY) -> Caller:
        id_, _ = await operations.issue_token(by, "t", "admin", life)
        return Caller(f"token:{id_}", "admin", hub.state.tokens[id_].issued_by)

    stolen, other = await made(ann), await made(ann)
    child = await made(stolen)
    grandchild, login = await made(child), Caller(f"{child.actor}/eve", "admin", "uid:1")
    with pytest.raises(Invalid, match="ends with it"):
        await made(stolen, 2 * DAY)
    asked = await operations.ask(grandchild, root_preparation(hub.state), REASON)
    await operations.revoke_token(ann, child.actor[6:])
    await operations.revoke_token(ann, stolen.actor[6:])
    revoked = [one.event for one in await hub.journal.read(0, 1000) if one.event.kind == "token.revoked"]
    assert [(f"token:{one.body['id']}", one.body["because"]) for one in revoked] == [
        (child.actor, ""),
        (grandchild.actor, child.actor[6:]),
        (stolen.actor, ""),
    ]
    assert asked.proposal is not None
    assert hub.state.proposals[asked.proposal.id].status == "withdrawn"
    now = hub.clock.now()
    assert [access.ended(hub.state, who.actor, now) for who in (stolen, child, grandchild, login)] == [True] * 4
    assert not access.ended(hub.state, other.actor, now)
    # One that was on its way when its token was revoked makes none, and neither does one after it.
    with pytest.raises(Denied, match="opens nothing any more"):
        await made(child)
    assert await operations.revoke_token(ann, stolen.actor[6:]) == []


async def test_who_is_nobody_in_particular_does_not_break_the_glass(hub: HubParts) -> None:
    before = hub.fold.position
    for nobody in (Caller("subuid:100001", "admin"), Caller("token:ab", "admin")):
        with pytest.raises(Denied, match="cannot break the glass"):
            await hub.operations.ask(nobody, root_preparation(hub.state), "a long enough reason", break_glass=True)
    assert hub.fold.position == before


async def test_tokens_that_open_nothing_take_no_place_for_ever(hub: HubParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_TOKENS", 3)
    ann, ids = Caller("uid:1", "admin"), list[str]()
    for _ in range(3):
        ids.append((await hub.operations.issue_token(ann, "t", "admin", DAY))[0])
    with pytest.raises(Conflict, match="3 tokens are in use"):
        await hub.operations.issue_token(ann, "t", "admin", DAY)
    await hub.operations.revoke_token(ann, ids[1])
    ids.append((await hub.operations.issue_token(ann, "t", "admin", 2 * DAY))[0])
    assert set(hub.state.tokens) == {ids[0], ids[2], ids[3]}
    # What it let in stays out, and makes nothing.
    assert access.ended(hub.state, f"token:{ids[1]}/eve", hub.clock.now())
    with pytest.raises(Denied):
        await hub.operations.issue_token(Caller(f"token:{ids[1]}", "admin", "uid:1"), "t", "admin", DAY)
    hub.clock.move(24 * 3600)
    await hub.operations.issue_token(ann, "t", "admin", DAY)
    assert len(hub.state.tokens) == 3 and ids[3] in set(hub.state.tokens)


async def test_a_broken_glass_is_an_alarm_of_the_hub_for_a_day(hub: HubParts) -> None:
    fleet = Fleet(hub.clock)
    alarms = GlassAlarms(lambda: hub.state, fleet, hub.clock)
    alarms.look()
    assert fleet.alarms() == []
    await hub.alone(root_preparation(hub.state))
    for _ in range(2):
        alarms.look()
        (raised,) = fleet.alarms()
        assert (raised.what.code, raised.what.severity) == ("glass_broken", "page")
        assert "uid:0 did alone what takes two people: root.prepare" in raised.what.says
    hub.clock.move(24 * 3600)
    alarms.look()
    assert fleet.alarms() == []
