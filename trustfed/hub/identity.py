"""The hub's own trust domain: its authority, and the SVID it presents at every door.

The authority's intermediate is signed by the active root like any domain's, and the SVID presents the root chain, since
the doors' clients anchor at the roots. After a rollover the new root's cross-certificate goes along, for who missed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority import make_authority_csr, make_twin, new_authority_id
from ca.issuance import Issued, Issuer, LeafRequest, issue_x509
from ca.keys.port import KeyStore
from ca.profiles import SYSTEM_SVID
from ca.record import Recorder
from trustfed.errors import Unavailable
from trustfed.federation.names import hub_id
from trustfed.hub.events import HubAuthorityCreated
from trustfed.hub.records import HubAuthority
from trustfed.hub.roots import root_named
from trustfed.hub.signing import RootSigner, end_of
from trustfed.hub.state import HubState
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.ids import TrustDomain


@dataclass(frozen=True)
class IdentityPolicy:
    """The DNS names that the hub's doors are reached by, and how long its SVID and authority live."""

    dns_names: tuple[str, ...]
    svid_ttl: timedelta
    authority_ttl: timedelta


@dataclass(frozen=True)
class Present:
    """The SVID in use."""

    keypair: KeyPair
    authority: str
    not_before: datetime
    not_after: datetime


class Identity:
    """Makes and renews the hub's SVID. Its key lives in this process only and is never written."""

    def __init__(
        self, keys: KeyStore, recorder: Recorder, policy: IdentityPolicy, randomness: Callable[[int], bytes]
    ) -> None:
        self._keys, self._recorder, self._policy, self._randomness = keys, recorder, policy, randomness
        self._present: Present | None = None

    @property
    def present(self) -> Present:
        """The SVID in use; Unavailable before the first."""
        if self._present is None:
            raise Unavailable("the hub has no SVID yet")
        return self._present

    async def new_authority(
        self, hub: TrustDomain, signer: RootSigner, state: HubState, now: datetime
    ) -> HubAuthorityCreated:
        """A fresh authority of the hub's domain, its intermediate signed by the active root of `state`."""
        authority = new_authority_id(self._randomness)
        key_name = f"hub-{authority}"
        await self._keys.create(key_name)
        not_after = (now + self._policy.authority_ttl).replace(microsecond=0)
        twin = await make_twin(
            hub, authority, key_name, self._keys, not_after=not_after, now=now, randomness=self._randomness
        )
        csr = await make_authority_csr(hub, authority, key_name, self._keys)
        signed = await signer.intermediate(
            state, hub, self._policy.dns_names, authority, csr, now=now, ttl=self._policy.authority_ttl
        )
        return HubAuthorityCreated(
            authority=authority,
            key_name=key_name,
            twin=twin,
            intermediate=signed.certificate,
            serial=signed.serial,
            root=signed.root,
            dns_names=list(self._policy.dns_names),
            created_ms=to_ms(now),
            not_after_ms=min(to_ms(not_after), signed.not_after_ms),
        )

    def authority_due(self, state: HubState, now: datetime) -> bool:
        """Whether a new authority is needed: another root is active, other DNS names are set, or two thirds are over."""
        newest, root = state.authorities[-1], state.active_root
        if newest.root != root.key_name or newest.dns_names != self._policy.dns_names:
            return True
        if newest.not_after_ms >= to_ms(end_of(root.certificate)):
            return False  # the root itself ends: a new authority would not live longer
        return now >= from_ms(newest.created_ms + (newest.not_after_ms - newest.created_ms) * 2 // 3)

    def next_due(self, state: HubState) -> datetime:
        """When to look again, if nothing happens before."""
        newest, present = state.authorities[-1], self.present
        half = present.not_before + (present.not_after - present.not_before) / 2
        return min(half, from_ms(newest.created_ms + (newest.not_after_ms - newest.created_ms) * 2 // 3))

    def svid_due(self, state: HubState, now: datetime) -> bool:
        """Whether it is time for the next SVID: half life, or an authority that was replaced."""
        present = self._present
        return (
            present is None
            or present.authority != state.authorities[-1].authority
            or now >= present.not_before + (present.not_after - present.not_before) / 2
        )

    async def renew(self, state: HubState, now: datetime) -> Present:
        """Issue the next SVID under the newest authority, and present it from now on; older authorities lose their keys."""
        hub, authority = TrustDomain(state.trust_domain), state.authorities[-1]
        issuer = Issuer.load(
            hub,
            authority.authority,
            authority.key_name,
            authority.twin,
            intermediate=authority.intermediate,
            dns_suffixes=self._policy.dns_names,
        )
        key = ec.generate_private_key(ec.SECP256R1())
        request = LeafRequest(
            spiffe_id=hub_id(hub),
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            ttl=int(self._policy.svid_ttl.total_seconds()),
            dns_names=self._policy.dns_names,
            chain="root",
            profile=SYSTEM_SVID,
            slot="hub",
        )
        (issued,) = await issue_x509(
            issuer, [request], self._keys, self._recorder, now=now, randomness=self._randomness
        )
        if not isinstance(issued, Issued):
            raise issued
        keypair = KeyPair((*issued.chain, *_cross(state, authority)), key)
        self._present = Present(keypair, authority.authority, issued.not_before, issued.not_after)
        for replaced in state.authorities[:-1]:
            await self._keys.destroy(replaced.key_name)
        return self._present


def _cross(state: HubState, authority: HubAuthority) -> tuple[bytes, ...]:
    cross = root_named(state, authority.root).cross
    return (cross,) if cross else ()
