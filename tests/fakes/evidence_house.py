"""A trust domain with a past: a real store, real keys, checkpoints signed and cosigned; what packs are made of.

It speaks trustfed.evidence.pack_export.Source, and can be asked to be bad: to sign with other keys, to cut no checkpoint.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from tests.fakes.domain import new_key
from tests.fakes.evidence_facts import MINUTE, START, History
from trustfed.evidence.pack import Keys
from trustfed.evidence.pack_export import keys_of
from trustfed.federation import log_key
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.events import Event, Fact
from trustfed.journal.merkle import checkpoint as notes
from trustfed.journal.merkle.checkpoint import Checkpoint
from trustfed.journal.merkle.vkey import COSIGNATURE, Vkey, vkey_of
from trustfed.journal.ports import Journal, Ledger
from trustfed.journal.sqlite import Store, open_store
from trustfed.runtime.timestamps import from_ms
from trustfed.spiffe.ids import TrustDomain

NAME = "prod"
HUB = "trustfed/hub"


class EvidenceHouse:
    """`await EvidenceHouse.open(folder, seed)`; then `checkpoint`s come out signed and cosigned."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self._log = Ed25519PrivateKey.from_private_bytes(sha256(b"log%d" % seed).digest())
        self._hub = Ed25519PrivateKey.from_private_bytes(sha256(b"hub%d" % seed).digest())
        self._publication = new_key()
        self.publication = PublicationKey.of(self._publication.public_key())
        self._ids = 0
        self.at = START

    @classmethod
    async def open(cls, folder: Path, seed: int = 1) -> EvidenceHouse:
        """A store with its first event."""
        house = cls(open_store(folder), seed)
        key = base64.b64encode(house.publication.spki).decode()
        await house.decide("cluster.keyed", trust_domain=NAME, publication_key=key)
        return house

    async def close(self) -> None:
        await self.store.close()

    async def decide(self, kind: str, /, **body: Any) -> int:
        """One more event; gives its position."""
        self._ids += 1
        event = Event(f"e{self._ids}", f"c{self._ids}", self.at, "uid:0", "", "because", kind, 1, body)
        return await self.store.journal.append(self._ids - 1, [event])

    async def live(self, facts: Sequence[Fact], *, every: int = 40) -> None:
        """Record what happened, with a checkpoint of the ledger now and then."""
        for start in range(0, len(facts), every):
            batch = [await self._mirrored(fact) for fact in facts[start : start + every]]
            await self.store.ledger.append(batch)
            self.at = max(self.at, batch[-1].at)
            await self._cut()

    async def _mirrored(self, fact: Fact) -> Fact:
        """Have the journal say what the fact says that it does."""
        body = fact.body
        if "journal" not in body:
            return fact
        self.at = max(self.at, fact.at)
        if fact.kind == "entry.ended":
            position = await self.decide("entry.deleted", id=body["entry"])
        elif fact.kind == "node.ended":
            position = await self.decide("node.banned", name=body["node"], reason="x", at="x")
        elif fact.kind == "rotation.forced":
            spread = body["deadline"] - self.at  # what was ordered holds, whenever it came to be recorded
            at = from_ms(self.at + spread % 1000).isoformat()
            position = await self.decide(
                "authority.reissued", id=body["authorities"][0], at=at, spread_seconds=spread // 1000, missing=[]
            )
        else:
            if body["step"] == "activated":
                life = {name: from_ms(body[name] * 1000).isoformat() for name in ("not_before", "not_after")}
                await self.decide("authority.prepared", id=body["authority"], kind=body["kind"], **life)
            said = {name: body[name] for name in ("forced", "retires", "missing")}
            position = await self.decide(f"authority.{body['step']}", id=body["authority"], **said)
        return Fact(fact.at, fact.kind, fact.key, {**body, "journal": position, "at": self.at})

    async def _cut(self) -> None:
        size = self.store.ledger.position
        await self.store.facts_log.integrated(size)
        root = base64.b64encode(await self.store.facts_log.root(size)).decode()
        await self.decide("log.checkpoint", origin=notes.origin_of(NAME, "ledger"), size=size, root=root)

    # The port.

    @property
    def trust_domain(self) -> str:
        return NAME

    @property
    def journal(self) -> Journal:
        return self.store.journal

    @property
    def ledger(self) -> Ledger:
        return self.store.ledger

    @property
    def first(self) -> int:
        return self.store.ledger.first

    @property
    def facts_log(self) -> Any:
        return self.store.facts_log

    async def checkpoint(self) -> bytes:
        await self.store.events_log.integrated(self._ids)
        made = Checkpoint(notes.origin_of(NAME, "journal"), self._ids, await self.store.events_log.root(self._ids))
        signed = notes.assemble(made, self.vkey, self._log.sign(notes.payload_to_sign(made)))
        at = self.at // 1000
        line = notes.cosignature_line(made, self.hub_vkey, at, self._hub.sign(notes.cosignature_to_sign(made, at)))
        return notes.cosigned(signed.data, line)

    async def keys(self) -> Keys:
        domain = TrustDomain(NAME)
        signature = self._publication.sign(log_key.payload_to_sign(domain, self.vkey.text), ECDSA(SHA256()))
        endorsed = log_key.assemble(domain, self.vkey.text, signature, self.publication)
        return keys_of(self.vkey.text, endorsed.data, self.publication.spki, [self.hub_vkey.text])

    @property
    def vkey(self) -> Vkey:
        """What an auditor holds of the log."""
        return vkey_of(notes.origin_of(NAME, "journal"), self._log.public_key())

    @property
    def hub_vkey(self) -> Vkey:
        """What an auditor holds of the cosigner."""
        return vkey_of(HUB, self._hub.public_key(), COSIGNATURE)


async def lived(folder: Path, seed: int = 1, minutes: int = 900) -> EvidenceHouse:
    """A house with a random history, the same for the same seed."""
    house = await EvidenceHouse.open(folder, seed)
    await house.live(History(seed, minutes=minutes).facts)
    return house


WINDOW = (START - START % (5 * MINUTE) + 300 * MINUTE, START - START % (5 * MINUTE) + 600 * MINUTE)


def canonical(value: object) -> bytes:
    """JSON as a forger would write it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
