"""Everything that can be asked of the hub, once: the doors (HTTPS, enrolment, gRPC, admin socket) only translate.

Each method reads the fold's state, decides through the pure rules, records, and returns what it recorded. What is read
comes from one state value, so every answer is of one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec import Struct

from bundle_publisher import manifests
from bundle_publisher.tuf.delegated import Listed
from ca.authority import check_csr
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.names import hub_id
from trustfed.federation.token import EnrolmentToken
from trustfed.hub import access, approvals, clusters_say, domains, grants, protected, roots
from trustfed.hub.access import Caller
from trustfed.hub.enrol import EnrolRequest, ResignRequest, check_first, csr_hash
from trustfed.hub.events import HubEvent
from trustfed.hub.manifest_files import ManifestFiles
from trustfed.hub.records import Domain, Grant, Intermediate
from trustfed.hub.signing import RootSigner, current_root_set
from trustfed.hub.state import HubState
from trustfed.journal.approvals import LIFE
from trustfed.journal.approving import Approving, Asked, Pinned
from trustfed.journal.events import Recorded
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Counter
from trustfed.runtime.nonces import Nonces
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

_log = logs.get("hub.operations")

MAX_SIGNING = 64
RENEW_WINDOW = timedelta(days=30)


@dataclass(frozen=True)
class Admitted:
    """What a cluster is given when it enrols or gets a further intermediate."""

    domain: Domain
    intermediate: Intermediate
    root: bytes


@dataclass
class _Turn:
    """A lock that is forgotten when nobody waits for it or holds it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Operations:
    """The hub's decisions, on one fold."""

    def __init__(
        self,
        fold: Fold[HubState],
        signer: RootSigner,
        clock: Clock,
        randomness: Callable[[int], bytes],
        https_address: str,
        manifest_files: ManifestFiles,
        approval_life: timedelta = LIFE,
        glass_broken: Counter | None = None,
    ) -> None:
        self.approvals: Approving[HubState] = Approving(
            fold, approvals.commands(signer), clock, approval_life, glass_broken, access.check_stands
        )
        self._manifests = manifest_files
        self._unpacking = asyncio.Semaphore(2)  # files of 16 MiB: after a restart every cluster sends one at once
        self._fold, self._signer, self._clock, self._randomness = fold, signer, clock, randomness
        self._https_address = https_address
        self._nonces = Nonces(randomness)
        self._signing: dict[str, _Turn] = {}

    @property
    def state(self) -> HubState:
        """The state now: an immutable value."""
        return self._fold.state

    def now(self) -> datetime:
        """The time that decisions of this moment use."""
        return self._clock.now()

    async def invite(
        self,
        caller: Caller,
        name: TrustDomain,
        owner: str,
        suffixes: Sequence[str],
        life: timedelta,
        *,
        simulated: bool = False,
    ) -> EnrolmentToken:
        """Invite a trust domain; the token is returned once and kept nowhere. A `simulated` one pages nobody: an admin may."""
        if simulated:
            caller.must_be("admin")
        now = self.now()
        root_set = current_root_set(self.state, now)
        token = EnrolmentToken(
            kind="cluster",
            address=f"https://{self._https_address}",
            name=TrustDomain(self.state.trust_domain),
            server_id=hub_id(TrustDomain(self.state.trust_domain)),
            newcomer=name.name,
            root_version=root_set.version,
            root_hash=root_set.hash,
            secret=self._randomness(32),
            expires_at=(now + life).replace(microsecond=0),
        )
        command = domains.Invite(name, owner, tuple(suffixes), token.secret_hash(), token.expires_at, simulated)
        await self._record(caller.actor, lambda state: domains.invite(state, command, now), owner=owner)
        return token

    async def enrol(self, request: EnrolRequest) -> Admitted:
        """Enrol a newcomer: one key per token, the same answer for the same key until the token expires."""
        command, now = request.command(), self.now()
        async with self._one_at_a_time(command.token_hash):
            domain = domains.invited(self.state, command.token_hash, now)
            if not domains.repeated(domain, command):
                trust_domain = TrustDomain(domain.name)
                check_first(request, trust_domain)
                signed = await self._signer.intermediate(
                    self.state, trust_domain, domain.dns_suffixes, request.authority, request.csr, now=now
                )
                actor = f"cluster:{domain.name}"
                await self._record(actor, lambda state: domains.enrol(state, command, signed, now), owner=domain.owner)
        return await self._admitted(domain.name, request.authority, request.csr, "enrolment")

    async def sign_intermediate(self, domain: str, authority: str, csr: bytes) -> Admitted:
        """A further intermediate of an enrolled domain; the same CSR gets the same answer."""
        domains.enrolled(self.state, domain)
        check_csr(csr, TrustDomain(domain), authority)
        return await self._admitted(domain, authority, csr, "rotation")

    def nonce(self) -> tuple[str, int]:
        """A nonce, and when it ends (Unix ms)."""
        return self._nonces.give(self.now())

    async def resign(self, request: ResignRequest) -> Admitted:
        """An intermediate for a cluster that has no valid SVID left: its publication key vouches, within 30 days."""
        name, now = request.trust_domain.name, self.now()
        known = self.state.domains.get(name)
        if known is None or known.status == "invited":
            raise Denied(f"trust domain {name} is not enrolled here")
        domain = domains.enrolled(self.state, name)
        request.verify(PublicationKey(domain.publication_key))
        self._nonces.spend(request.nonce, now)
        last = max((signed.not_after_ms for signed in self.state.signed_for(name)), default=0)
        if last + int(RENEW_WINDOW.total_seconds() * 1000) < to_ms(now):
            raise Denied(
                f"the last authority of {name} expired more than 30 days ago", hint="remove and invite the domain again"
            )
        return await self.sign_intermediate(name, request.authority, request.csr)

    async def accept_envelope(self, domain: str, data: bytes) -> None:
        """Record a domain's next envelope; durable on return. One that is refused never takes a writer's turn."""
        if not domains.accept_envelope(self.state, domain, data):
            return
        await self._record(f"cluster:{domain}", lambda state: domains.accept_envelope(state, domain, data))

    async def tell_endpoints(self, domain: str, said: Sequence[str]) -> None:
        """Record where a domain serves its own bundle, if that is news."""
        if clusters_say.endpoints(self.state, domain, said):
            await self._record(f"cluster:{domain}", lambda state: clusters_say.endpoints(state, domain, said))

    async def hear_mesh(self, domain: str, decide: Callable[[HubState], Sequence[HubEvent]]) -> None:
        """Record what a domain says of its mesh; durable on return."""
        await self._record(f"cluster:{domain}", decide)

    async def accept_role(
        self, domain: str, metadata: bytes, document: bytes, envelope: bytes, packed: bytes = b""
    ) -> None:
        """Record a domain's part of the protected publication, and first the envelope and the manifests that it lists."""
        await self.accept_envelope(domain, envelope)
        if packed:
            async with self._unpacking:
                await self._accept_role(domain, metadata, document, packed)
        else:
            await self._accept_role(domain, metadata, document, b"")

    async def holds_manifests(self, domain: str) -> bool:
        """Whether the manifests that the held role of a domain lists lie here: most need not wait to be looked into."""
        listed = protected.mesh_of(self.state, domain)
        return listed is None or await asyncio.to_thread(self._manifests.has, listed.sha256, listed.length)

    async def _accept_role(self, domain: str, metadata: bytes, document: bytes, packed: bytes) -> None:
        now = self.now()
        mesh = await asyncio.to_thread(manifests.unpack, packed) if packed else None
        listed = await asyncio.to_thread(Listed.of, mesh) if mesh is not None else None
        if protected.accept_role(self.state, domain, metadata, document, now, listed):
            if mesh is not None:
                manifests.read_version(mesh, TrustDomain(domain))
                await asyncio.to_thread(self._manifests.keep, mesh)
            await self._record(
                f"cluster:{domain}", lambda state: protected.accept_role(state, domain, metadata, document, now, listed)
            )
        elif mesh is not None and listed and listed.sha256 == protected.manifests_of(self.state, domain):
            await asyncio.to_thread(self._manifests.keep, mesh)  # a restore had lost them

    async def install_publication_root(self, caller: Caller, document: bytes, version: int, expires: datetime) -> None:
        """Record the next root of the protected publication, which was checked against those before it."""
        await self._record(
            caller.actor,
            lambda state: protected.install_root(state, document, version, expires),
            reason=f"root version {version} of the protected publication",
        )

    async def offer(
        self,
        caller: Caller,
        *,
        importer: TrustDomain,
        exporter: TrustDomain,
        until: datetime,
        reason: str,
        start: datetime | None = None,
    ) -> Grant:
        """Offer a grant."""
        command, now = grants.Offer(self._randomness(8).hex(), importer, exporter, until, reason, start), self.now()
        await self._record(caller.actor, lambda state: grants.offer(state, command, now), reason=reason)
        return self.state.grants[command.id]

    async def end(self, caller: Caller, grant_id: str, reason: str) -> Grant:
        """End a grant as an operator of the hub."""
        now = self.now()
        await self._record(
            caller.actor, lambda state: grants.end(state, grant_id, caller.actor, reason, now), reason=reason
        )
        return self.state.grants[grant_id]

    async def decide(
        self, domain: str, grant_id: str, decision: str, *, actor: str, reason: str, fingerprint: str
    ) -> Grant:
        """Record what an owner decided in its own cluster; the same decision again changes nothing."""
        now, by = self.now(), f"{domain}/{actor[:128]}"
        domains.enrolled(self.state, domain)
        grants.visible(self.state, grant_id, domain)

        def decided(state: HubState) -> Sequence[HubEvent]:
            if decision == "accept":
                return grants.accept(state, grant_id, domain, by=by, fingerprint=fingerprint, now=now)
            return grants.end(state, grant_id, by, reason, now)

        if decision not in ("accept", "end"):
            raise Invalid(f"decision {decision[:20]!r} is unknown", hint="one of: accept, end")
        await self._record(f"cluster:{domain}", decided, reason=reason)
        return self.state.grants[grant_id]

    async def ask(
        self,
        caller: Caller,
        body: Struct | Pinned[HubState],
        reason: str,
        *,
        break_glass: bool = False,
        command_id: str = "",
    ) -> Asked:
        """A command that takes two people (trustfed.hub.approvals): proposed, or done at once with the glass broken."""
        command_id = command_id or self._randomness(16).hex()
        return await self.approvals.ask(caller.acting, body, reason, command_id=command_id, break_glass=break_glass)

    async def record(self, caller: Caller, decide: Callable[[HubState], Sequence[HubEvent]], reason: str = "") -> None:
        """Record what a pure rule of another room makes of the newest state; durable on return."""
        await self._record(caller.actor, decide, reason=reason)

    async def issue_token(self, caller: Caller, name: str, role: str, life: timedelta) -> tuple[str, str]:
        """(id, text) of a new bearer token; the text is returned once and kept nowhere."""
        now = self.now()
        token_id, text, token_hash = access.new_token(self._randomness)
        await self._record(
            caller.actor,
            lambda state: access.issue(
                state,
                token_id,
                token_hash,
                name=name,
                role=role,
                life=life,
                now=now,
                issued_by=caller.acting.person,
                made_by=caller.actor,
            ),
        )
        return token_id, text

    async def revoke_token(self, caller: Caller, token_id: str) -> list[str]:
        """End a bearer token and all that were made with it; the ids of those that ended now."""
        now = self.now()
        done = await self._record(caller.actor, lambda state: access.revoke(state, token_id, caller.actor, now))
        return [str(one.event.body["id"]) for one in done if one.event.kind == "token.revoked"]

    async def _admitted(self, name: str, authority: str, csr: bytes, why: str) -> Admitted:
        """The intermediate for this CSR by the active root: the one on record, or a new one."""
        digest = csr_hash(csr)
        async with self._one_at_a_time(f"{name} {digest}"):
            known = domains.known_intermediate(self.state, name, digest, self.now())
            if known is None:
                domain = domains.check_may_sign(self.state, name, self.now())
                signed = await self._signer.intermediate(
                    self.state, TrustDomain(name), domain.dns_suffixes, authority, csr, now=self.now()
                )
                now = self.now()
                await self._record(
                    f"cluster:{name}", lambda state: domains.record_intermediate(state, signed, now), reason=why
                )
                known = self.state.intermediates[signed.serial]
        root = roots.root_named(self.state, known.root)
        return Admitted(domains.enrolled(self.state, name), known, root.certificate)

    async def _record(
        self,
        actor: str,
        decide: Callable[[HubState], Sequence[HubEvent]],
        *,
        owner: str = "",
        reason: str = "",
    ) -> list[Recorded]:
        try:
            return await self._fold.execute(
                decide,
                command_id=self._randomness(16).hex(),
                actor=actor,
                owner=owner,
                reason=reason,
                now=self.now(),
            )
        except Unavailable as error:
            # Whoever asked is told too; but a disk that is full or read-only is the operator's to see.
            _log.error("a decision could not be recorded", actor=actor, error=error.message)
            raise

    @asynccontextmanager
    async def _one_at_a_time(self, key: str) -> AsyncIterator[None]:
        """Let nothing be signed twice for one request; at most 64 requests sign at once."""
        if key not in self._signing and len(self._signing) >= MAX_SIGNING:
            raise Unavailable("too many enrolments at once", hint="try again in a few seconds")
        turn = self._signing.setdefault(key, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._signing[key]
