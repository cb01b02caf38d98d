"""What the hub asks clusters, since the facts stay there: one of them, or all for a search.

Nothing waits for long: a cluster has two seconds, answers at most 1 MiB, and has eight questions, four of them at a time. What
it answers is JSON that it alone vouches for, as of its own time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.session import Sessions
from trustfed.proto import evidence_pb2 as pb

SECONDS = 2.0
MAX_ANSWER, MAX_QUESTION = 1 << 20, 64 << 10
IN_FLIGHT, AT_ONCE, ALL_AT_ONCE, MAX_SEARCHES = 8, 4, 64, 16
_ERRORS: Mapping[str, type[TrustfedError]] = {
    "invalid": Invalid,
    "denied": Denied,
    "not_found": NotFound,
    "conflict": Conflict,
    "unavailable": Unavailable,
}


class Answered(msgspec.Struct, frozen=True):
    """What a cluster said."""

    trust_domain: str
    json: Any
    as_of_ms: int


class Missed(msgspec.Struct, frozen=True):
    """A cluster that did not say anything of use, and why."""

    trust_domain: str
    why: str


class Found(msgspec.Struct, frozen=True):
    """What all clusters said within the time; `cut` when there was more than was asked for."""

    answers: list[Answered]
    missed: list[Missed]
    cut: bool = False


class Questions:
    """Questions in flight, by domain and number."""

    def __init__(self, sessions: Sessions, fleet: Fleet, *, seconds: float = SECONDS) -> None:
        self._sessions, self._fleet, self._seconds = sessions, fleet, seconds
        self._flying: dict[str, dict[int, asyncio.Future[pb.Answer]]] = {}
        self._number = 0
        self._searches = 0
        self._turns: dict[str, asyncio.Semaphore] = {}
        self.local: dict[str, Callable[[str, bytes], Awaitable[bytes]]] = {}
        """Who answers here: the hub itself."""

    async def ask(self, domain: str, kind: str, body: Mapping[str, Any]) -> Answered:
        """What the cluster of `domain` says to one question (trustfed.evidence.queries names the kinds).

        NotFound for an unknown domain; Unavailable when it is away, silent for two seconds or has eight questions already;
        otherwise the cluster's own error.
        """
        self._fleet.held(domain)
        data = msgspec.json.encode(body)
        if len(data) > MAX_QUESTION or not 0 < len(kind) <= 64:
            raise Invalid("the question is too long")
        if domain in self.local:
            try:
                async with asyncio.timeout(self._seconds):
                    answer = await self.local[domain](kind, data)
            except TimeoutError:
                raise Unavailable(
                    f"the hub did not answer within {self._seconds:g} seconds", hint="ask again"
                ) from None
            return self._owned(kind, _read(domain, pb.Answer(body=answer, as_of_ms=self._fleet.now_ms)))
        session = self._sessions.get(domain)
        if session is None:
            raise Unavailable(f"{domain} is not connected: {self._known(domain)}", hint="is its cluster running?")
        flying = self._flying.setdefault(domain, {})
        if len(flying) >= IN_FLIGHT:
            raise Unavailable(f"{domain} has {IN_FLIGHT} questions to answer already", hint="ask again in a moment")
        self._number += 1
        number = self._number
        waiting = flying[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._seconds), self._turns.setdefault(domain, asyncio.Semaphore(AT_ONCE)):
                session.send(pb.FromHub(question=pb.Question(id=number, kind=kind, body=data)))
                said = await waiting
        except TimeoutError:
            raise Unavailable(
                f"{domain} did not answer within {self._seconds:g} seconds: {self._known(domain)}", hint="ask again"
            ) from None
        finally:
            flying.pop(number, None)
            if not flying:
                self._flying.pop(domain, None)
                self._turns.pop(domain, None)
        return self._owned(kind, _read(domain, said))

    async def ask_all(self, kind: str, body: Mapping[str, Any], limit: int = 50, domains: Sequence[str] = ()) -> Found:
        """Ask every connected cluster (or these) at once: up to `limit` answers with something in them, within two seconds.

        An answer of nothing (null, empty, or not_found) is left out. Who is away or late is in `missed`.
        """
        if self._searches >= MAX_SEARCHES:
            raise Unavailable(f"{MAX_SEARCHES} searches are under way", hint="search again in a moment")
        asked = list(domains) or self._fleet.names
        answers: list[Answered] = []
        missed = dict.fromkeys(asked, "no time was left")
        turn = asyncio.Semaphore(ALL_AT_ONCE)

        async def one(name: str) -> None:
            async with turn:
                try:
                    answered = await self.ask(name, kind, body)
                    missed.pop(name)
                    if _something(answered.json):
                        answers.append(answered)
                except NotFound:
                    missed.pop(name)
                except TrustfedError as error:
                    missed[name] = error.message

        self._searches += 1
        tasks = [asyncio.create_task(one(name)) for name in asked]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._seconds)
        finally:
            self._searches -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        answers.sort(key=lambda found: found.trust_domain)
        return Found(answers[:limit], [Missed(*item) for item in sorted(missed.items())], len(answers) > limit)

    def answered(self, domain: str, answer: pb.Answer) -> None:
        """A cluster answered; what nobody waits for (any more) is nothing."""
        waiting = self._flying.get(domain, {}).get(answer.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def gone(self, domain: str) -> None:
        """Its stream ended: nobody needs to wait for its answers."""
        for waiting in self._flying.get(domain, {}).values():
            if not waiting.done():
                waiting.set_exception(Unavailable(f"{domain} has just disconnected", hint="ask again"))

    def _owned(self, kind: str, said: Answered) -> Answered:
        """A certificate that nobody is named for at its cluster belongs to the owner of the trust domain."""
        listed = said.json.get("certificates") if kind == "inventory" and isinstance(said.json, dict) else None
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, dict) and not one.get("owner"):
                one["owner"] = self._fleet.held(said.trust_domain).owner
        return said

    def _known(self, domain: str) -> str:
        age = self._fleet.age(domain)
        if age.age_ms is None:
            return "nothing was ever heard of it"
        return f"what is known of it is {age.age_ms // 1000} seconds old"


def _something(said: Any) -> bool:
    """Whether an answer says anything: lists that are all empty do not."""
    if not isinstance(said, dict):
        return bool(said)
    parts = [part for part in said.values() if isinstance(part, list | dict)]
    return any(parts) if parts else bool(said)


def _read(domain: str, answer: pb.Answer) -> Answered:
    if answer.error_code or answer.error:
        raised = _ERRORS.get(answer.error_code, Unavailable)
        said = "".join(one if one.isprintable() else "?" for one in answer.error[:500])
        raise raised(f"{domain}: {said or answer.error_code[:32]}")
    if len(answer.body) > MAX_ANSWER:
        raise Unavailable(f"{domain} answered with more than {MAX_ANSWER} bytes", hint="ask for less")
    try:
        found = msgspec.json.decode(answer.body) if answer.body else None
    except (msgspec.DecodeError, RecursionError):
        raise Unavailable(f"{domain} answered with something that is not JSON") from None
    return Answered(domain, found, answer.as_of_ms)
