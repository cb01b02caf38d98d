"""Who looks on: workloads that ask their agent all the time, an operator who orders and remembers what was acknowledged,
an auditor who reads every level. Each writes what should not be into the book; none knows which fault is on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from grpclib.exceptions import GRPCError, StreamTerminatedError

from tests.system.faults.asking import Refused, Unanswered, ask
from tests.system.faults.invariants import Book, Forgeries, Levels, check_answer
from tests.system.stack import Agent, Cluster
from tests.unit.agent.world import Workload
from trustfed.proto import workload_pb2 as pb

AUDIENCE = "chaos"
EVERY_X509, EVERY_JWT, EVERY_LEVEL, EVERY_ORDER = 0.1, 0.25, 0.5, 0.6
MARGIN = timedelta(seconds=1)
"""What lives shorter than this may be dropped by the agent while the question is on its way."""
_ANSWER_SECONDS = 10.0
_LIVE_ENTRIES = 6
_SETTLED = 2.0
"""Seconds after which a level that an agent held is in its cache."""
Failure = (GRPCError, StreamTerminatedError, OSError, TimeoutError, AssertionError)


class Asking:
    """One agent's workloads: new connections and open ones, X.509 and JWT."""

    def __init__(self, agent: Agent, book: Book, forgeries: Forgeries, excused: Callable[[], bool]) -> None:
        self._agent, self._book, self._forgeries, self._excused = agent, book, forgeries, excused
        self.name = f"agent of {agent.cluster.name}"
        self.serials: set[str] = set()
        self.tokens: set[str] = set()
        self.answered = self.failed = 0
        self.failures: list[str] = []
        self.first_after: list[float] = []
        self._held_until = self._token_until = datetime.min.replace(tzinfo=UTC)
        self._old_token = ""

    async def run(self) -> None:
        """Ask until cancelled."""
        await asyncio.gather(self._fetch(), self._watch(), self._tokens())

    def forget(self) -> None:
        """The agent is a new process: what it must hold from the first moment is said elsewhere."""
        self._held_until = self._token_until = datetime.min.replace(tzinfo=UTC)

    def remember(self, until: datetime) -> None:
        """It holds an SVID that lives until then."""
        self._held_until = max(self._held_until, until)

    @property
    def held_until(self) -> datetime:
        """When the SVID given last ends."""
        return self._held_until

    async def _fetch(self) -> None:
        """Every second time over a new connection, as a workload that has just started."""
        with _Connection(self._agent) as connection:
            for number in itertools.count():
                if number % 2:
                    connection.renew()
                asked, was_excused = datetime.now(UTC), self._excused()
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        answer = await connection.workload.x509()
                except Failure as error:
                    connection.renew()
                    self._refused("X509-SVID", self._held_until, asked, was_excused, error)
                else:
                    self.answered += 1
                    self._took(answer, asked)
                await asyncio.sleep(EVERY_X509)

    def _took(self, answer: pb.X509SVIDResponse, asked: datetime) -> None:
        for leaf in check_answer(self._book, self._forgeries, self.name, answer, asked, datetime.now(UTC)):
            self.serials.add(f"{leaf.serial_number:032x}")
            self._held_until = max(self._held_until, leaf.not_valid_after_utc)

    def _refused(self, what: str, until: datetime, asked: datetime, was_excused: bool, error: BaseException) -> None:
        self._book.checked("withheld")
        if until <= datetime.now(UTC) + MARGIN or was_excused or self._excused():
            return
        self.failed += 1
        said = f"{type(error).__name__} {error}"[:200]
        self.failures.append(said)
        left = (until - asked).total_seconds()
        self._book.violated("withheld", f"{self.name}: no {what} although one lives {left:.1f} s more: {said}")

    async def _watch(self) -> None:
        """A stream that stays open: what is pushed is looked at like what is asked for."""
        request = pb.X509SVIDRequest()
        while True:
            with _Connection(self._agent) as connection, contextlib.suppress(*Failure):
                async with connection.workload.watch("FetchX509SVID", request, pb.X509SVIDResponse) as stream:
                    while (answer := await stream.recv_message()) is not None:
                        # Pushed at some moment before now: a second is more than the way takes.
                        self._took(answer, datetime.now(UTC) - MARGIN)
            await asyncio.sleep(EVERY_X509)

    async def _tokens(self) -> None:
        with _Connection(self._agent) as connection:
            while True:
                await asyncio.sleep(EVERY_JWT)
                asked, was_excused = datetime.now(UTC), self._excused()
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        answer = await connection.workload.jwt(AUDIENCE)
                        await self._judge(connection.workload, answer, asked)
                except Failure as error:
                    connection.renew()
                    self._refused("JWT-SVID", self._token_until, asked, was_excused, error)

    async def _judge(self, workload: Workload, answer: pb.JWTSVIDResponse, asked: datetime) -> None:
        for svid in answer.svids:
            self._book.checked("expired")
            claims = claims_of(svid.svid)
            end = datetime.fromtimestamp(claims["exp"], UTC)
            if end <= asked:
                self._book.violated("expired", f"{self.name} gave a JWT-SVID that ended {end.isoformat()}")
            self.tokens.add(claims["jti"])
            self._token_until = max(self._token_until, end)
            self._old_token = self._old_token or svid.svid
        if self._old_token and claims_of(self._old_token)["exp"] < time.time() - 1:
            await self._must_refuse(workload, self._old_token, "expired", "an expired JWT-SVID")
        for (victim, thief), token in self._forgeries.tokens.items():
            await self._must_refuse(workload, token, "domain", f"a JWT-SVID of {victim} that {thief} signed")

    async def _must_refuse(self, workload: Workload, token: str, rule: str, what: str) -> None:
        self._book.checked(rule)
        try:
            await workload.validate(AUDIENCE, token)
        except GRPCError:
            return
        self._book.violated(rule, f"{self.name} found {what} valid")


class _Connection:
    """One connection to an agent, and the next when it has failed; use it in a `with` block."""

    def __init__(self, agent: Agent) -> None:
        self._socket = agent.socket
        self.workload = Workload(self._socket)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.workload.close()

    def renew(self) -> None:
        self.workload.close()
        self.workload = Workload(self._socket)


class Operator:
    """Creates and deletes entries of one cluster, has authorities replaced, and compares what was acknowledged."""

    def __init__(self, cluster: Cluster, grant: str, book: Book) -> None:
        self._cluster, self._grant, self._book = cluster, grant, book
        self._admin = cluster.admin.path
        self.created: set[str] = set()
        self.deleted: set[str] = set()
        self.orders = 0

    async def run(self) -> None:
        """Order and compare until cancelled."""
        await asyncio.gather(self._order(), self._compare(), self._replace_authorities())

    async def _order(self) -> None:
        for number in itertools.count():
            name = f"chaos-{number}"
            spec = {
                "id": name,
                "spiffe_id": f"spiffe://{self._cluster.name}/chaos/{number}",
                "parent": "node/node-1",
                "selectors": ["unix:uid:4000000000"],
                "federates_with": ["*"],
            }
            await self._until_acknowledged("POST", "/entries", spec, name)
            self.created.add(name)
            if len(self.created) > _LIVE_ENTRIES:
                oldest = f"chaos-{number - _LIVE_ENTRIES}"
                self.created.discard(oldest)
                await self._until_acknowledged("DELETE", f"/entries/{oldest}", None, f"delete-{oldest}")
                self.deleted.add(oldest)
            self.orders += 1
            await asyncio.sleep(EVERY_ORDER)

    async def _until_acknowledged(self, method: str, path: str, body: object, command: str) -> None:
        """The same command again until it is acknowledged: it is applied once."""
        while True:
            try:
                await ask(self._admin, method, path, body, f"{self._cluster.name}-{command}")
                return
            except Unanswered:
                pass
            except Refused as refused:
                if refused.status < 500:
                    self._book.violated("lost", f"{self._cluster.name} {method} {path}, said again: {refused}")
                    return
            await asyncio.sleep(EVERY_ORDER)

    async def _compare(self) -> None:
        while True:
            await asyncio.sleep(EVERY_ORDER)
            try:
                await self.compare()
            except (Unanswered, Refused):
                continue

    async def compare(self) -> None:
        """Everything acknowledged is there. Raises Unanswered."""
        must, gone = set(self.created), set(self.deleted)
        held = {entry["id"] for entry in (await ask(self._admin, "GET", "/entries"))["entries"]}
        self._book.checked("lost", len(must) + len(gone))
        # An entry whose deletion is under way is in neither set.
        if missing := must & self.created - held:
            self._book.violated("lost", f"entries of {self._cluster.name} that were acknowledged: {sorted(missing)}")
        if back := gone & held:
            self._book.violated("lost", f"entries of {self._cluster.name} that were deleted are back: {sorted(back)}")
        grants = {grant["id"]: grant for grant in (await ask(self._admin, "GET", "/grants"))["grants"]}
        if grants.get(self._grant, {}).get("state") != "accepted":
            self._book.violated("lost", f"the grant that {self._cluster.name} accepted: {grants.get(self._grant)}")

    async def _replace_authorities(self) -> None:
        """So that bundles move all the time."""
        while True:
            await asyncio.sleep(7)
            for kind in ("x509", "jwt"):
                try:
                    await ask(
                        self._admin,
                        "POST",
                        "/authorities/prepare",
                        {"kind": kind, "reason": "chaos, alone", "break_glass": True},
                    )
                except (Unanswered, Refused):
                    continue

    async def issued(self) -> set[str]:
        """Serials and token ids on record. Raises Unanswered."""
        found: set[str] = set()
        after: int | None = 0
        while after is not None:
            page = await ask(self._admin, "GET", f"/issued?after={after}&limit=1000")
            found |= {fact["key"] for fact in page["issued"]}
            after = page["next"]
        return found


class Auditor:
    """Reads every level and every published file, and remembers the highest."""

    def __init__(
        self, agents: list[Agent], clusters: list[Cluster], hub: Path, published: Path, levels: Levels
    ) -> None:
        self._agents, self._clusters, self._hub, self._published = agents, clusters, hub, published
        self._levels = levels

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            looks = [self._agent(agent) for agent in self._agents]
            looks += [self._cluster(cluster) for cluster in self._clusters]
            await asyncio.gather(*looks, self._at_hub())
            self._files()
            await asyncio.sleep(EVERY_LEVEL)

    async def _agent(self, agent: Agent) -> None:
        try:
            held = (await ask(agent.admin.path, "GET", "/bundles"))["bundles"]
        except (Unanswered, Refused):
            return
        for bundle in held:
            level = (bundle["epoch"], bundle["sequence"])
            source = f"agent of {agent.cluster.name}: bundle of {bundle['trust_domain']}"
            self._levels.saw(source, level, time.monotonic(), _SETTLED)

    async def _cluster(self, cluster: Cluster) -> None:
        try:
            status = await ask(cluster.admin.path, "GET", "/status")
            bundles = (await ask(cluster.admin.path, "GET", "/bundles"))["bundles"]
        except (Unanswered, Refused):
            return
        now, name = time.monotonic(), f"cluster {cluster.name}"
        self._levels.saw(f"{name}: journal", (status["position"],), now)
        for bundle in bundles:
            level = bundle["level"]
            self._levels.saw(f"{name}: bundle of {bundle['trust_domain']}", (level["epoch"], level["sequence"]), now)

    async def _at_hub(self) -> None:
        try:
            status = await ask(self._hub, "GET", "/status")
            domains = [await ask(self._hub, "GET", f"/domains/{cluster.name}") for cluster in self._clusters]
        except (Unanswered, Refused):
            return
        now = time.monotonic()
        self._levels.saw("hub: journal", (status["position"],), now)
        for domain in domains:
            level = domain["level"]
            self._levels.saw(f"hub: bundle of {domain['name']}", (level["epoch"], level["sequence"]), now)

    def _files(self) -> None:
        for cluster in self._clusters:
            path = self._published / "bundles" / cluster.name
            try:
                document = json.loads(path.read_bytes())
            except FileNotFoundError:
                continue
            self._levels.saw(f"published bundle of {cluster.name}", (document["spiffe_sequence"],), time.monotonic())


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims
