"""What an agent may hold, made without a cluster; and vaults on disks in memory."""

from __future__ import annotations

import functools
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from agent.cache.keys import MachineKey
from agent.cache.port import Kept, KeptToken
from agent.cache.vault import Vault
from agent.jwt import Token
from agent.matching import Entry
from agent.store import HeldBundle, Svid
from tests.fakes.disk import Platter
from trustfed.federation.envelope import Level, PublicationKey, assemble, payload_to_sign
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain

NODE = SpiffeId.parse("spiffe://prod-a/trustfed/node/one")
OTHER = SpiffeId.parse("spiffe://prod-a/trustfed/node/two")
NOW = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
SIGNERS = [ec.derive_private_key(number, ec.SECP256R1()) for number in (1001, 1002)]


def entry(number: int, **fields: object) -> Entry:
    values: dict[str, object] = {
        "id": f"e{number}",
        "spiffe_id": SpiffeId.parse(f"spiffe://prod-a/app/{number}"),
        "selectors": frozenset({f"unix:uid:{number}", "unix:gid:7"}),
        "created_at_ms": number,
        **fields,
    }
    return Entry(**values)  # type: ignore[arg-type]


def svid(number: int, *, hours: float = 1, size: int = 700) -> Svid:
    chance = random.Random(number)
    return Svid(
        (chance.randbytes(size),),
        b"KEY" + chance.randbytes(135),
        f"{number:x}",
        "a1",
        NOW,
        NOW + timedelta(hours=hours),
    )


def token(number: int, *audience: str, hours: float = 1) -> KeptToken:
    times = NOW + timedelta(minutes=5), NOW + timedelta(hours=hours)
    text = f"eyJ.TOKEN{number}.{random.Random(number).randbytes(32).hex()}"
    id_ = SpiffeId.parse(f"spiffe://prod-a/app/{number}")
    return KeptToken(f"e{number}", audience or ("db",), Token(text, id_, "j1", *times))


@functools.cache
def bundle(domain: str = "prod-a", epoch: int = 1, sequence: int = 1, signer: int = 0) -> HeldBundle:
    name, private = TrustDomain(domain), SIGNERS[signer]
    key, level = PublicationKey.of(private.public_key()), Level(name, epoch, sequence)
    body = Bundle(name, sequence=sequence, refresh_hint=60).marshal()
    signature = private.sign(payload_to_sign(level, body), ec.ECDSA(SHA256(), deterministic_signing=True))
    return HeldBundle(assemble(level, body, signature, key), key, NOW)


def small(entries: int = 2) -> Kept:
    """A whole Kept with every kind of record."""
    return Kept(
        entries=tuple(entry(number) for number in range(entries)),
        svids={f"e{number}": svid(number, size=60) for number in range(entries)},
        reserves={"e0": svid(900, hours=100, size=60)},
        tokens=(token(0, "a", "b"),),
        bundles=(bundle(), bundle("prod-b", sequence=7)),
        confirmed={TrustDomain("prod-b"): NOW},
        stale_limits={TrustDomain("prod-b"): timedelta(days=30)},
        used={"e1": NOW},
        position=12,
        instance="abc",
        floor=NOW,
        authenticated=(NOW, 123.456, "boot"),
        retired=("a0",),
    )


def large(entries: int) -> Kept:
    return replace(
        small(0),
        entries=tuple(entry(number) for number in range(entries)),
        svids={f"e{number}": svid(number) for number in range(entries)},
        reserves={},
    )


def without(kept: Kept, id_: str) -> Kept:
    """Without one entry."""
    return replace(
        kept,
        entries=tuple(each for each in kept.entries if each.id != id_),
        svids={each: svid for each, svid in kept.svids.items() if each != id_},
        reserves={each: svid for each, svid in kept.reserves.items() if each != id_},
        tokens=tuple(each for each in kept.tokens if each.entry_id != id_),
    )


def same(left: Kept | None, right: Kept | None) -> bool:
    """Whether two hold the same, in whatever order."""
    return left is not None and right is not None and _sorted(left) == _sorted(right)


def _sorted(kept: Kept) -> Kept:
    return replace(
        kept,
        entries=tuple(sorted(kept.entries, key=lambda each: each.id)),
        tokens=tuple(sorted(kept.tokens, key=lambda each: (each.entry_id, each.audience))),
        bundles=tuple(sorted(kept.bundles, key=lambda each: each.bundle.trust_domain)),
        svids=dict(kept.svids),
        reserves=dict(kept.reserves),
        confirmed=dict(kept.confirmed),
        stale_limits=dict(kept.stale_limits),
        used=dict(kept.used),
    )


def vault(platter: Platter, node: SpiffeId = NODE) -> Vault:
    outside = platter.folder("data")
    return Vault(platter.folder("cache"), outside, MachineKey(outside, os.urandom), node, os.urandom)
