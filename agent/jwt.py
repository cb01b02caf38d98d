"""JWT-SVIDs for callers: cached per entry and audience, fetched once however many ask, renewed from half life on.

A token is renewed when it is asked for after half of its life, while the old one is still given; one that nobody asks for
is not. Audiences are a set: their order and repetition make no other token. Whoever has a token is the workload, so
tokens are in memory and in the sealed cache only, and in no log.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from agent.link import Link
from agent.rotation import TRY_SECONDS
from agent.store import Store
from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.proto import node_pb2 as node_pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import from_ms
from trustfed.spiffe.ids import SpiffeId

log = logs.get("agent.jwt")

MAX_AUDIENCES = 16
MAX_AUDIENCE = 1024
_BATCH = 100
_AT_ONCE = 2
_MAX_WAITING = 1000
_RETRY_SECONDS = 5.0
_MAX_DROPPED = 64

Audience = tuple[str, ...]
Place = tuple[str, Audience]

_ERRORS: dict[str, type[TrustfedError]] = {
    "invalid": Invalid,
    "denied": Denied,
    "not_found": NotFound,
    "conflict": Conflict,
}


@dataclass(frozen=True, slots=True)
class Token:
    """One cached JWT-SVID."""

    text: str = field(repr=False)
    spiffe_id: SpiffeId
    authority: str
    renew_at: datetime
    expires_at: datetime


def audience_of(asked: Iterable[str]) -> Audience:
    """The audience as a set, in one order. Raises Invalid for none, too many, or one that is empty or too long."""
    audience = tuple(sorted(set(asked)))
    if not 1 <= len(audience) <= MAX_AUDIENCES:
        raise Invalid(f"{len(audience)} audiences, not 1 to {MAX_AUDIENCES}", hint="name who will read the token")
    if any(not 1 <= len(item) <= MAX_AUDIENCE for item in audience):
        raise Invalid(f"an audience is empty or longer than {MAX_AUDIENCE} characters")
    return audience


class JwtSvids:
    """The cache, and the requests under way."""

    def __init__(self, store: Store, link: Link, size: int, clock: Clock, registry: Registry) -> None:
        self._store, self._link, self._size, self._clock = store, link, size, clock
        self._tokens: OrderedDict[Place, Token] = OrderedDict()
        self._flights: dict[Place, asyncio.Future[Token]] = {}
        self._waiting: list[Place] = []
        self._rest: dict[Place, float] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._dropped: tuple[str, ...] = ()
        self._asked = registry.counter("agent_jwt_svid_requests_total", "JWT-SVIDs asked for", labels=("outcome",))
        self.version = 0
        """Rises whenever a token was dropped or replaced: answers made of older ones are not given any more."""
        self._listeners: list[Callable[[], None]] = []
        store.on_change(self._on_change)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a token came or went."""
        self._listeners.append(listener)

    def live(self, now: datetime) -> list[tuple[str, Audience, Token]]:
        """Every token that has not expired, by entry and audience; those that have are dropped. The last used is last."""
        self._forget([place for place, token in self._tokens.items() if token.expires_at <= now])
        return [(id_, audience, token) for (id_, audience), token in self._tokens.items()]

    def restore(self, tokens: Iterable[tuple[str, Audience, Token]]) -> None:
        """Take up what was kept; only for entries that are held, and unchanged."""
        for id_, audience, token in tokens:
            self._keep((id_, audience), token)

    def __len__(self) -> int:
        return len(self._tokens)

    def cached(self, ids: Sequence[str], audience: Audience, now: datetime) -> list[Token] | None:
        """One live token per entry, or None if one must be fetched. Those past half life are renewed on the side."""
        found = []
        for id_ in ids:
            place = (id_, audience)
            token = self._tokens.get(place)
            if token is None or token.expires_at <= now:
                return None
            self._tokens.move_to_end(place)
            found.append(token)
        for id_, token in zip(ids, found, strict=True):
            place = (id_, audience)
            if token.renew_at <= now and self._rest.get(place, 0.0) <= self._clock.monotonic():
                self._rest[place] = self._clock.monotonic() + _RETRY_SECONDS
                self._fly(place).add_done_callback(_seen)
        return found

    async def fetch(self, ids: Sequence[str], audience: Audience) -> list[Token]:
        """One live token per entry, asked for where there is none. Raises Unavailable and what the cluster says."""
        now = self._clock.now()
        flights: list[Token | asyncio.Future[Token]] = []
        for id_ in ids:
            token = self._tokens.get((id_, audience))
            flights.append(token if token and token.expires_at > now else self._fly((id_, audience)))
        # Shielded: a caller that gives up must not take the token from the others who wait for it.
        return [item if isinstance(item, Token) else await asyncio.shield(item) for item in flights]

    def drop(self, authorities: Iterable[str]) -> None:
        """Forget what these authorities signed, and take nothing new of theirs."""
        signers = dict.fromkeys(authorities)
        self._dropped = (*(one for one in self._dropped if one not in signers), *signers)[-_MAX_DROPPED:]
        self._forget([place for place, token in self._tokens.items() if token.authority in signers])

    def _on_change(self) -> None:
        """Entries went, or are somebody else now."""
        entries = self._store.entries
        gone = []
        for place, token in self._tokens.items():
            entry = entries.get(place[0])
            if entry is None or entry.spiffe_id != token.spiffe_id:
                gone.append(place)
        self._forget(gone)

    def _forget(self, places: list[Place]) -> None:
        for place in places:
            del self._tokens[place]
            self._rest.pop(place, None)
        if places:
            self._changed()

    def _changed(self) -> None:
        self.version += 1
        for listener in self._listeners:
            listener()

    def _fly(self, place: Place) -> asyncio.Future[Token]:
        flight = self._flights.get(place)
        if flight is None:
            if len(self._waiting) >= _MAX_WAITING:
                raise Unavailable("too many JWT-SVIDs are being asked for", hint="try again")
            flight = self._flights[place] = asyncio.get_running_loop().create_future()
            flight.add_done_callback(_seen)
            self._waiting.append(place)
            if len(self._senders) < _AT_ONCE:
                sender = asyncio.create_task(self._send())
                self._senders.add(sender)
                sender.add_done_callback(self._senders.discard)
        return flight

    async def _send(self) -> None:
        """Batches of what waits, until nothing does."""
        await asyncio.sleep(0)  # what is asked for in this turn goes together
        while self._waiting:
            places, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            outcome: list[Token | TrustfedError]
            try:
                outcome = await self._issue(places)
            except TrustfedError as error:
                outcome = [error] * len(places)
                log.warning("JWT-SVIDs not issued", count=len(places), error=error.message, hint=error.hint)
            except Exception as error:  # whatever the cluster sends, the others are served
                outcome = [Unavailable(errors.answer(error).line())] * len(places)
            except BaseException:
                for place in places:
                    self._flights.pop(place).cancel()
                raise
            for place, item in zip(places, outcome, strict=True):
                flight = self._flights.pop(place)
                if isinstance(item, TrustfedError):
                    self._asked.add(outcome="failed")
                    if not flight.done():
                        flight.set_exception(item)
                    continue
                self._asked.add(outcome="issued")
                self._keep(place, item)
                if not flight.done():
                    flight.set_result(item)

    def _keep(self, place: Place, token: Token) -> None:
        entry = self._store.entries.get(place[0])
        if entry is None or entry.spiffe_id != token.spiffe_id:
            return
        self._tokens[place] = token
        self._tokens.move_to_end(place)
        self._changed()
        while len(self._tokens) > self._size:
            old, _ = self._tokens.popitem(last=False)
            self._rest.pop(old, None)

    async def _issue(self, places: list[Place]) -> list[Token | TrustfedError]:
        request = node_pb.IssueJwtRequest(command_id=uuid4().hex)
        for id_, audience in places:
            held = self._tokens.get((id_, audience))
            request.slots.add(entry_id=id_, audience=audience, predecessor=_jti(held.text) if held else "")
        answer = await self._link.call("IssueJwt", request, node_pb.IssueJwtResponse, TRY_SECONDS)
        if len(answer.results) != len(places):
            raise Invalid(f"the cluster answered {len(answer.results)} of {len(places)} JWT slots")
        return [self._read(place, result) for place, result in zip(places, answer.results, strict=True)]

    def _read(self, place: Place, result: node_pb.JwtResult) -> Token | TrustfedError:
        entry = self._store.entries.get(place[0])
        if entry is None:
            return NotFound("this identity was removed")
        if result.error:
            return _ERRORS.get(result.error_code, Unavailable)(result.error[:500])
        try:
            issued, expires = from_ms(result.issued_at_ms), from_ms(result.expires_at_ms)
        except Invalid as error:
            return error
        if expires <= self._clock.now() or result.entry_id != place[0]:
            return Invalid("the cluster sent a JWT-SVID of another entry, or one that has expired")
        if result.authority_id[:64] in self._dropped:  # signed before the order came, or by who has stolen its key
            return Unavailable("the JWT-SVID was signed by an authority that is not used any more", hint="try again")
        if _claims(result.token).get("sub") != str(entry.spiffe_id):
            return Invalid(f"the cluster sent a JWT-SVID that is not of {entry.spiffe_id}")
        return Token(result.token, entry.spiffe_id, result.authority_id[:64], issued + (expires - issued) / 2, expires)


def _jti(token: str) -> str:
    value = _claims(token).get("jti")
    return value if isinstance(value, str) else ""


def _claims(token: str) -> dict[str, object]:
    """The claims of a token that the cluster has just signed, for book-keeping; nothing is decided by them alone."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, IndexError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _seen(flight: asyncio.Future[Token]) -> None:
    """A failure that nobody waits for is logged where it happened."""
    if not flight.cancelled():
        flight.exception()
