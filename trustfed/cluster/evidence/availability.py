"""Asks this cluster, again and again, whether it does what it is there for: sign, give a bundle, feed istiod.

    sign     the active X.509 authority's key signs a fixed text, and the signature verifies
    bundle   the own https_spiffe door gives the newest bundle to a client that checks who it is
    feed     of the feeds that are allowed at least one is connected and has all; only where one is allowed

A fact is written when an answer changes, at the start, and once an hour, so that each range of the ledger can be read alone.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from ca.keys.port import KeyStore
from ca.lifecycle import Kind, signer
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError, Unavailable
from trustfed.evidence import facts as kinds
from trustfed.federation.names import cluster_id
from trustfed.journal.events import Fact
from trustfed.runtime import https_client, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.tls import client_context
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain

log = logs.get("cluster.evidence")

CANARY = b"trustfed canary: this text is no certificate, no token and no bundle"
REPEAT_MS = 3_600_000
_SECONDS = 10.0
_QUERY = "probe"

Probe = Callable[[], Awaitable[bool | None]]
"""True: it works; None: there is nothing to ask. Raises, or gives False, when it does not."""


class Availability:
    """The probes, by name."""

    def __init__(
        self, probes: Mapping[str, Probe], every: float, records: Records, clock: Clock, registry: Registry
    ) -> None:
        self._probes, self._every, self._records, self._clock = dict(probes), every, records, clock
        self._told: dict[str, tuple[bool, int]] = {}
        self.why: dict[str, str] = {}
        """Why a probe that is down is down."""
        self._up = registry.gauge("cluster_evidence_probe_up", "1 while what is asked works", labels=("probe",))

    async def run(self) -> None:
        """Ask in turn; ends only when cancelled."""
        while True:
            try:
                await self.round()
            except TrustfedError as error:
                log.error("what a probe found is not recorded yet", error=error.message, hint=error.hint)
            await self._clock.sleep(self._every)

    async def round(self) -> None:
        """Ask all once, and record what changed. Raises Unavailable."""
        answers = await asyncio.gather(*(self._ask(name) for name in self._probes))
        facts, now = [], to_ms(self._clock.now())
        for name, up in zip(self._probes, answers, strict=True):
            if up is None:
                continue
            self._up.set(float(up), probe=name)
            told = self._told.get(name)
            if told is not None and told[0] == up and now - told[1] < REPEAT_MS:
                continue
            facts.append(self._fact(name, up, now))
        if facts:
            await self._records.append(facts)
            self._told.update({fact.key: (fact.kind == kinds.PROBE_UP, now) for fact in facts})

    def _fact(self, name: str, up: bool, now: int) -> Fact:
        since = self._records.folded.down.get(name, 0)
        if up:
            return Fact(now, kinds.PROBE_UP, name, {"probe": name, "at": now, "from": since})
        return Fact(now, kinds.PROBE_DOWN, name, {"probe": name, "at": now})

    async def _ask(self, name: str) -> bool | None:
        why = "it does not work"
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await self._probes[name]()
        except TimeoutError:
            answer, why = False, f"no answer within {_SECONDS:.0f} s"
        except TrustfedError as error:
            answer, why = False, error.message
        except Exception as error:  # whatever a key store or a socket raises is the answer
            answer, why = False, type(error).__name__
        if answer is False and name not in self.why:
            log.warning("a probe of this cluster is down", probe=name, error=why)
            self.why[name] = why[:200]
        elif answer is not False:
            self.why.pop(name, None)
        return answer


def sign_probe(state: Callable[[], ClusterState], keys: KeyStore, clock: Clock) -> Probe:
    """The real signer, without a serial."""

    async def ask() -> bool:
        authority = signer(list(state().authorities.values()), Kind.X509, clock.now())
        if authority is None:
            raise Unavailable("no x509 authority may sign")
        (signature,) = await keys.sign(authority.key_name, [CANARY])
        public = await keys.public_key(authority.key_name)
        try:
            public.verify(signature, CANARY, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    return ask


class BundleProbe:
    """A reader of the own https_spiffe door, in a thread. What it reads is not counted as a foreign reader's."""

    def __init__(self, state: Callable[[], ClusterState], anchors: Callable[[], tuple[bytes, ...]]) -> None:
        self._state, self._anchors = state, anchors
        self._secret = secrets.token_hex(16)
        self.address: tuple[str, int] | None = None
        """Where the door listens; None before it is open."""

    def listens(self, address: str) -> None:
        """The door is open at HOST:PORT."""
        host, port = parse_address(address)
        self.address = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104 - where to ask

    def own(self, query: Mapping[str, str]) -> bool:
        """Whether a request with this query is the probe's."""
        return hmac.compare_digest(query.get(_QUERY, "").encode(), self._secret.encode())

    async def ask(self) -> bool | None:
        """Whether the door gives the newest bundle. Raises what keeps it from doing so."""
        if self.address is None:
            return None
        before, domain = self._state().level.sequence, TrustDomain.parse(self._state().trust_domain)
        body = await asyncio.to_thread(self._read, *self.address, self._anchors(), cluster_id(domain))
        bundle = Bundle.parse(domain, body)
        if bundle.sequence is None or bundle.sequence < before:
            raise Unavailable(f"the door gives bundle {bundle.sequence}, the newest is {before}")
        return True

    def _read(self, host: str, port: int, anchors: tuple[bytes, ...], own: SpiffeId) -> bytes:
        context = client_context(None, anchors, alpn=("http/1.1",))
        server = https_client.Server(host, port, context, https_client.exactly(own), timeout=_SECONDS / 4)
        return https_client.get(server, f"/bundle?{_QUERY}={self._secret}")
