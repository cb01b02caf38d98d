"""What the root signs: intermediates, its CRL, and the next root. Every serial is in the ledger before it is signed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from ca.keys.port import KeyStore
from ca.record import Recorder
from ca.root import IntermediateRequest, Reason, Revoked, Root, cross_sign, make_crl, make_root, sign_intermediate
from trustfed.errors import Conflict
from trustfed.federation import dsse
from trustfed.federation.dsse import Signature
from trustfed.federation.names import hub_id
from trustfed.federation.roots import MAX_BYTES, MAX_ROOTS, PAYLOAD_TYPE, RootSet, advance, assemble, key_id, pin
from trustfed.hub import roots
from trustfed.hub.enrol import csr_hash
from trustfed.hub.events import CrlIssued, IntermediateSigned, RootCreated, RootPrepared, RootRetired
from trustfed.hub.records import Root as RootRecord
from trustfed.hub.state import HubState
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import TrustDomain

CRL_LIFE = timedelta(days=7)


@dataclass(frozen=True)
class RootPolicy:
    """How long what the root signs lives; below `crl_url` its CRL is published ("" for nowhere)."""

    root_ttl: timedelta
    intermediate_ttl: timedelta
    crl_url: str = ""


class RootSigner:
    """Signs with the roots' keys, which stay in the key store. Returns events; recording them is the caller's part."""

    def __init__(
        self, keys: KeyStore, recorder: Recorder, policy: RootPolicy, randomness: Callable[[int], bytes]
    ) -> None:
        self._keys, self._recorder, self._policy, self._randomness = keys, recorder, policy, randomness

    async def first(self, hub: TrustDomain, now: datetime) -> RootCreated:
        """The first root, and the root set's version 1."""
        root = await self._make(hub, 1, now)
        document = await self._document(RootSet.of(1, [root.certificate], hub_id(hub)), [root], None)
        return RootCreated(root.key_name, root.certificate, document)

    async def next(self, state: HubState, now: datetime) -> tuple[RootPrepared, int]:
        """The next root and the root set that holds it (with its version), signed under the present and its own."""
        number = roots.check_may_prepare(state)
        present = current_root_set(state, now)
        hub, active = TrustDomain(state.trust_domain), _root(state.active_root)
        root = await self._make(hub, number, now)
        cross = await cross_sign(active, root.certificate, self._keys, now=now, randomness=self._randomness)
        following = RootSet.of(present.version + 1, [*present.roots, root.certificate], present.hub, present.threshold)
        document = await self._document(following, [active, root], present)
        return RootPrepared(root.key_name, root.certificate, cross, document), following.version

    async def without(self, state: HubState, key_name: str, now: datetime, *, force: bool) -> tuple[RootRetired, int]:
        """The root set without one replaced root (with its version), signed by the active one."""
        record = roots.check_may_retire(state, key_name, now, force=force)
        present = current_root_set(state, now)
        left = [root for root in present.roots if root != record.certificate]
        following = RootSet.of(present.version + 1, left, present.hub, min(present.threshold, len(left)))
        document = await self._document(following, [_root(state.active_root)], present)
        return RootRetired(key_name, document), following.version

    async def intermediate(
        self,
        state: HubState,
        domain: TrustDomain,
        suffixes: tuple[str, ...],
        authority: str,
        csr: bytes,
        *,
        now: datetime,
        ttl: timedelta | None = None,
    ) -> IntermediateSigned:
        """The intermediate of one authority, by the active root, never outliving it; `ttl` None: as the policy says."""
        root = _root(state.active_root)
        crl_url = f"{self._policy.crl_url}/{root.key_name}" if self._policy.crl_url else ""
        not_after = min(now + (ttl or self._policy.intermediate_ttl), end_of(root.certificate)).replace(microsecond=0)
        request = IntermediateRequest(domain, authority, csr, suffixes, not_after, crl_url)
        signed = await sign_intermediate(
            root, request, self._keys, self._recorder, now=now, randomness=self._randomness
        )
        certificate = x509.load_der_x509_certificate(signed)
        return IntermediateSigned(
            domain=domain.name,
            authority=authority,
            csr_hash=csr_hash(csr),
            serial=serial_text(certificate.serial_number),
            root=root.key_name,
            at_ms=to_ms(now),
            not_after_ms=to_ms(certificate.not_valid_after_utc),
            certificate=signed,
        )

    async def crl(self, state: HubState, key_name: str, now: datetime) -> CrlIssued:
        """A root's next CRL: every intermediate that it signed, that was revoked and has not expired."""
        record = roots.root_named(state, key_name)
        held = state.crls.get(key_name)
        number = held.number + 1 if held else 1
        next_update = now + CRL_LIFE
        revoked = [
            Revoked(int(signed.serial, 16), _moment(signed.revoked_ms), Reason(signed.revoked_reason))
            for signed in state.intermediates.values()
            if signed.root == key_name and signed.revoked_ms and signed.not_after_ms > to_ms(now)
        ]
        data = await make_crl(_root(record), revoked, number, self._keys, now=now, next_update=next_update)
        return CrlIssued(key_name, number, to_ms(next_update), data)

    async def _make(self, hub: TrustDomain, number: int, now: datetime) -> Root:
        name = f"root-{number}"
        try:
            await self._keys.create(name)
        except Conflict:  # left behind by a try that recorded nothing: no certificate of it ever left
            await self._keys.public_key(name)
        return await make_root(
            hub.name, number, name, self._keys, now=now, randomness=self._randomness, lifetime=self._policy.root_ttl
        )

    async def _document(self, root_set: RootSet, signers: list[Root], previous: RootSet | None) -> bytes:
        signatures = []
        for root in signers:
            key = await self._keys.public_key(root.key_name)
            (signature,) = await self._keys.sign(root.key_name, [root_set.payload_to_sign()])
            signatures.append(Signature(key_id(key), signature))
        return assemble(root_set, signatures, previous)


def end_of(certificate: bytes) -> datetime:
    """When a certificate (DER) expires."""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


def current_root_set(state: HubState, now: datetime) -> RootSet:
    """The newest root set, walked from our own first version like every reader does."""
    first = RootSet.parse(_payload(state.root_documents[0]))
    return advance(pin(state.root_documents[0], 1, first.hash), state.root_documents[1:], now)


def crls_due(state: HubState, now: datetime) -> list[str]:
    """The roots whose CRL lacks a revocation, is missing, or has lived half its time."""
    renew_before = to_ms(now + CRL_LIFE / 2)
    due = []
    for root in state.roots:
        held = state.crls.get(root.key_name)
        revoked = max((s.revoked_position for s in state.intermediates.values() if s.root == root.key_name), default=0)
        if root.status in ("active", "retiring") and (
            held is None or held.position < revoked or held.next_update_ms < renew_before
        ):
            due.append(root.key_name)
    return due


def _payload(document: bytes) -> bytes:
    return dsse.decode(document, PAYLOAD_TYPE, "the root set", max_bytes=MAX_BYTES, max_signatures=2 * MAX_ROOTS)[0]


def _root(record: RootRecord) -> Root:
    match = re.fullmatch(r"root-(\d+)", record.key_name)
    return Root(int(match[1]) if match else 1, record.certificate, record.key_name)


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
