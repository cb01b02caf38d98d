"""Keys, recorders and certificates for the tests of the CA: real key stores, a recorder that can fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority import make_authority_csr, make_twin
from ca.issuer import Issuer
from ca.keys.memory import MemoryKeys
from ca.record import Recordable
from ca.root import IntermediateRequest, Root, make_root, sign_intermediate
from trustfed.errors import Unavailable
from trustfed.spiffe.ids import SpiffeId, TrustDomain

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
DAY = timedelta(days=1)
HOME = TrustDomain("prod-us-west")
OTHER = TrustDomain("prod-us")
WEB = SpiffeId.of(HOME, "/ns/shop/sa/web")
SUFFIX = "west.example.com"


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def spki(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class MemoryRecorder:
    """Keeps what it is given; `fail` makes it refuse, as a full disk would."""

    fail: bool = False
    batches: list[list[Recordable]] = field(default_factory=list)

    async def record(self, drafts: Sequence[Recordable]) -> None:
        if self.fail:
            raise Unavailable("the ledger's disk is full", hint="free some space")
        self.batches.append(list(drafts))

    @property
    def keys(self) -> list[str]:
        return [draft.key for batch in self.batches for draft in batch]


class WatchedKeys(MemoryKeys):
    """A real key store that notes, at each call of sign, how many drafts were on record by then."""

    def __init__(self, recorder: MemoryRecorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.recorded_at_sign: list[int] = []
        self.fail = False

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        self.recorded_at_sign.append(len(self.recorder.keys))
        if self.fail:
            raise Unavailable("the key store is sealed", hint="unseal it")
        return await super().sign(name, messages)


@dataclass
class Domain:
    """One trust domain with an authority under a root."""

    keys: WatchedKeys
    recorder: MemoryRecorder
    root: Root
    issuer: Issuer


async def make_domain(
    now: datetime = NOW,
    *,
    trust_domain: TrustDomain = HOME,
    suffixes: tuple[str, ...] = (SUFFIX,),
    authority: str = "a1",
    life: timedelta = DAY,
    root: Root | None = None,
    keys: WatchedKeys | None = None,
) -> Domain:
    recorder = MemoryRecorder()
    keys = keys or WatchedKeys(recorder)
    randomness = seeded()
    if root is None:
        await keys.create("root-1")
        root = await make_root("acme", 1, "root-1", keys, now=now, randomness=randomness)
    name = f"x509-{trust_domain}-{authority}"
    await keys.create(name)
    end = now + life
    twin = await make_twin(trust_domain, authority, name, keys, not_after=end, now=now, randomness=randomness)
    request = IntermediateRequest(
        trust_domain, authority, await make_authority_csr(trust_domain, authority, name, keys), suffixes, end
    )
    signed = await sign_intermediate(root, request, keys, recorder, now=now, randomness=randomness)
    issuer = Issuer.load(trust_domain, authority, name, twin, intermediate=signed, dns_suffixes=suffixes)
    recorder.batches.clear()
    keys.recorder = recorder
    keys.recorded_at_sign.clear()
    return Domain(keys, recorder, root, issuer)
