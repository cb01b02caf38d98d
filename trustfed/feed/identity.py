"""Who the feed is: the X509-SVID that the agent of its node gives it, and the home bundle; always the newest, in memory only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import UnixChannel, receive, watch
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.x509svid import parse_leaf

log = logs.get("feed.identity")

METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
HEADER = {"workload.spiffe.io": "true"}
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
MAX_CERTIFICATES = 256
Chance = Callable[[], float]


@dataclass(frozen=True)
class Identity:
    """One push of the Workload API, as far as it concerns the feed."""

    id: SpiffeId
    keypair: KeyPair
    not_after: datetime
    bundle: Bundle


class IdentitySource:
    """Keeps a stream of the Workload API open; `run` ends only when cancelled."""

    def __init__(
        self, socket: Path, trust_domain: TrustDomain, wanted: SpiffeId | None, clock: Clock, chance: Chance
    ) -> None:
        self._socket, self._domain, self._wanted = socket, trust_domain, wanted
        self._clock, self._chance = clock, chance
        self.changed = asyncio.Event()
        """Set whenever there is a newer identity; whoever uses that clears it."""
        self.current: Identity | None = None
        self.error = "the agent has not been asked yet"

    async def run(self) -> None:
        """Ask, take what is pushed, ask again when the agent has gone; what is held stays."""
        wait = FIRST_WAIT
        while True:
            before = self.current
            try:
                await self._follow()
            except TrustfedError as error:
                said = error.message
            except Exception as error:  # whatever an agent sends, what is held is used on
                said = errors.answer(error).line()
            if said != self.error:
                log.warning("no identity from the agent", socket=str(self._socket), error=said)
            self.error = said
            wait = FIRST_WAIT if self.current is not before else min(wait * 2, LONGEST_WAIT)
            await self._clock.sleep(wait * (0.5 + self._chance() / 2))

    async def _follow(self) -> None:
        channel = UnixChannel(self._socket)
        try:
            async with watch(channel, METHOD, pb.X509SVIDRequest(), pb.X509SVIDResponse, HEADER) as opened:
                while True:
                    pushed = await receive(opened, None, "the Workload API")
                    self._take(read(pushed, self._domain, self._wanted))
        finally:
            with contextlib.suppress(Exception):
                channel.close()

    def _take(self, identity: Identity) -> None:
        self.error = ""
        held = self.current
        if held is not None and (held.keypair.chain, held.bundle) == (identity.keypair.chain, identity.bundle):
            return
        self.current = identity
        self.changed.set()
        log.info("identity", spiffe_id=str(identity.id), until=identity.not_after.isoformat())


def read(pushed: pb.X509SVIDResponse, domain: TrustDomain, wanted: SpiffeId | None) -> Identity:
    """The SVID to use: `wanted`, or the first, which is the default (Workload API §5.3). Raises Denied, Invalid."""
    if not pushed.svids:
        raise Denied("the agent has no SVID for this process", hint="make an entry for it: trustfed entry create")
    chosen = next((svid for svid in pushed.svids if wanted is None or svid.spiffe_id == str(wanted)), None)
    if chosen is None:
        raise Denied(f"the agent has no SVID {wanted} for this process", hint="see spiffe_id in the configuration")
    chain = certificates(chosen.x509_svid)
    leaf = parse_leaf(chain[0])
    if leaf.id.trust_domain != domain:
        raise Denied(f"this node's agent is of {leaf.id.trust_domain}, the feed of {domain}", hint="trust_domain")
    try:
        private = load_der_private_key(chosen.x509_svid_key, None)
    except (ValueError, TypeError):
        raise Invalid("the agent's answer holds no private key that can be read") from None
    if not isinstance(private, EllipticCurvePrivateKey | RSAPrivateKey):
        raise Invalid("the agent's answer holds a private key of a kind that is not used")
    return Identity(leaf.id, KeyPair(chain, private), leaf.not_after, Bundle(domain, certificates(chosen.bundle)))


def certificates(data: bytes) -> tuple[bytes, ...]:
    """The DER certificates that stand one after the other in `data` (Workload API §5.2.1). Raises Invalid."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = _length(data, at)
        found.append(data[at : at + size])
        at += size
        if len(found) > MAX_CERTIFICATES:
            raise Invalid(f"more than {MAX_CERTIFICATES} certificates in one field")
    if not found:
        raise Invalid("a field that should hold certificates is empty")
    return tuple(found)


def _length(data: bytes, at: int) -> int:
    """Bytes of the DER sequence that begins at `at` (X.690 §8.1.3), head included."""
    head = data[at : at + 2]
    if len(head) == 2 and head[0] == 0x30 and head[1] > 0x80:
        digits = head[1] & 0x7F
        size = 2 + digits + int.from_bytes(data[at + 2 : at + 2 + digits], "big")
        if digits <= 4 and at + size <= len(data):
            return size
    raise Invalid("a field that should hold certificates holds something else")


def standing(identity: Identity | None, now: datetime, error: str) -> Identity:
    """The identity, if it can be shown now. Raises Unavailable."""
    if identity is None:
        raise Unavailable("the feed has no identity yet", hint=error)
    if identity.not_after <= now:
        raise Unavailable(f"the feed's SVID ended at {identity.not_after.isoformat()}", hint=error or "ask the agent")
    return identity
