"""JWT-SVIDs in batches."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from ca.jwt import IssuedJwt, JwtIssuer, JwtRequest, issue_jwt, prepare_jwt
from tests.unit.ca.material import DAY, HOME, NOW, OTHER, WEB, MemoryRecorder, WatchedKeys, seeded
from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import Bundle, JwtAuthority
from trustfed.spiffe.ids import SpiffeId, TrustDomain

AUDIENCE = ("spiffe://prod-eu/api",)
ISSUER = JwtIssuer(HOME, "j1", "jwt-j1", NOW - timedelta(seconds=10), NOW + DAY)


@dataclass
class OneBundle:
    held: Bundle

    def bundle(self, trust_domain: TrustDomain) -> Bundle:
        if trust_domain != self.held.trust_domain:
            raise NotFound(f"no bundle of {trust_domain}")
        return self.held


def ask(spiffe_id: SpiffeId = WEB, **fields: object) -> JwtRequest:
    return JwtRequest(spiffe_id, **{"audience": AUDIENCE, "ttl": 300, **fields})  # type: ignore[arg-type]


async def issue(keys: WatchedKeys, *requests: JwtRequest, now: datetime = NOW) -> list[IssuedJwt | TrustfedError]:
    return await issue_jwt(ISSUER, requests, keys, keys.recorder, now=now, randomness=seeded())


@pytest.fixture
async def keys() -> WatchedKeys:
    made = WatchedKeys(MemoryRecorder())
    await made.create("jwt-j1")
    return made


async def test_token_verifies_under_its_domain(keys: WatchedKeys) -> None:
    request = ask(audience=("a", "b"), entry="e1", node="n1", slot="s1", command_id="c1")
    (issued,) = await issue(keys, request)
    assert isinstance(issued, IssuedJwt)
    bundle = Bundle(HOME, (), (JwtAuthority("j1", await keys.public_key("jwt-j1")),), 1, 300)
    svid = jwtsvid.verify(issued.token, OneBundle(bundle), "b", NOW)
    assert svid.id == WEB and svid.audience == ("a", "b") and svid.claims["jti"] == issued.jti
    assert svid.expires_at == issued.expires_at == NOW + timedelta(minutes=5)
    (draft,) = keys.recorder.batches[0]
    assert (draft.kind, draft.key, draft.at) == ("jwt.issued", issued.jti, NOW)
    facts = draft.facts()
    assert facts["entry"] == "e1" and facts["audience"] == ["a", "b"]
    assert issued.token not in repr(issued) and issued.token not in str(facts)
    assert keys.recorded_at_sign == [1]


async def test_a_token_never_outlives_its_authority_or_entry(keys: WatchedKeys) -> None:
    late = NOW + DAY - timedelta(seconds=20)
    (issued,) = await issue(keys, ask(), now=late)
    assert isinstance(issued, IssuedJwt) and issued.expires_at == NOW + DAY
    (issued,) = await issue(keys, ask(not_after_limit=NOW + timedelta(seconds=7)))
    assert isinstance(issued, IssuedJwt) and issued.expires_at == NOW + timedelta(seconds=7)


REFUSED: dict[str, tuple[JwtRequest, type[TrustfedError]]] = {
    "another trust domain": (ask(SpiffeId.of(OTHER, "/a")), Denied),
    "a reserved path": (ask(SpiffeId.of(HOME, "/trustfed/node/a")), Denied),
    "the trust domain itself": (ask(SpiffeId.of(HOME, "")), Invalid),
    "no audience": (ask(audience=()), Invalid),
    "an empty audience": (ask(audience=("",)), Invalid),
    "too many audiences": (ask(audience=tuple(f"a{n}" for n in range(33))), Invalid),
    "a huge audience": (ask(audience=("x" * 1025,)), Invalid),
    "audiences that make the token too large": (ask(audience=("x" * 1024,) * 20), Invalid),
    "no lifetime": (ask(ttl=0), Invalid),
    "a lifetime of years": (ask(ttl=10**9), Invalid),
    "an entry that has ended": (ask(not_after_limit=NOW), Invalid),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_refuses_without_spoiling_the_batch(fault: str, keys: WatchedKeys) -> None:
    request, kind = REFUSED[fault]
    before, refused, after = await issue(keys, ask(), request, ask())
    assert isinstance(before, IssuedJwt) and isinstance(after, IssuedJwt)
    assert type(refused) is kind
    assert keys.recorder.keys == [before.jti, after.jti]


async def test_record_and_key_store_can_fail(keys: WatchedKeys) -> None:
    keys.recorder.fail = True
    with pytest.raises(Unavailable):
        await issue(keys, ask())
    assert keys.recorded_at_sign == []
    keys.recorder.fail, keys.fail = False, True
    with pytest.raises(Unavailable):
        await issue(keys, ask())
    assert len(keys.recorder.keys) == 1


async def test_bounds_of_batch_and_authority(keys: WatchedKeys) -> None:
    with pytest.raises(Invalid):
        await issue(keys, *[ask()] * 1001)
    for now in (NOW - timedelta(minutes=1), NOW + DAY):
        with pytest.raises(Unavailable):
            await issue(keys, ask(), now=now)
    assert await issue(keys) == []
    assert len(await issue(keys, *[ask()] * 70)) == 70


def test_a_draft_is_spent_once() -> None:
    draft = prepare_jwt(ISSUER, ask(), now=NOW, randomness=seeded())
    draft.spend()
    with pytest.raises(Conflict):
        draft.spend()
