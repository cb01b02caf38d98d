"""Carries out what ca.lifecycle says is due, cuts the domain's envelope whenever its bundle changes, and has authorities
certified by the root when the hub can be reached. One task per process does this, so its steps never interleave; what
an operator does meanwhile is seen, because a step is recorded only if it is still due in the state that it changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import uuid4

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca import lifecycle
from ca.authority import make_authority_csr, make_twin, new_authority_id
from ca.intermediate import check_intermediate
from ca.keys.port import KeyStore
from ca.lifecycle import AuthorityState, Consumer, Kind, Status, Step
from ca.profiles import NOT_BEFORE_BACKDATE
from ca.record import Randomness
from trustfed.cluster import events as e
from trustfed.cluster.authority_commands import MAX_MISSING, waiting_for_root, wants_root
from trustfed.cluster.config import Policy
from trustfed.cluster.state import ClusterState, newest_roots
from trustfed.errors import Invalid, TrustfedError
from trustfed.federation import envelope as envelopes
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.roots import RootSet
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.bundle import Bundle, JwtAuthority
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.authorities")
_RETRY_SECONDS = 5.0
_CERTIFY_SECONDS = 10.0


class Certifier(Protocol):
    """The hub's side of an authority: has the root sign its intermediate."""

    async def certify(self, authority: str, csr: bytes) -> bytes:
        """The intermediate (DER). Raises Unavailable while the hub is away."""
        ...


class Authorities:
    """The life of this domain's authorities."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        keys: KeyStore,
        policy: Policy,
        clock: Clock,
        randomness: Randomness,
        last_leaf: Callable[[AuthorityState, datetime], datetime],
    ) -> None:
        self._fold, self._keys, self._policy = fold, keys, policy
        self._clock, self._randomness, self._last_leaf = clock, randomness, last_leaf
        self._news, self._uncertified = asyncio.Event(), asyncio.Event()
        self._destroyed: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    def look(self) -> None:
        """Something that `due` depends on has changed: an acknowledgement, a command, a consumer."""
        self._news.set()

    def on_step(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each round that changed something."""
        self._listeners.append(listener)

    async def run(self, consumers: Callable[[datetime], Sequence[Consumer]]) -> None:
        """Do what is due, when it is due; ends only when cancelled."""
        while True:
            try:
                while await self.advance(consumers(self._clock.now())):
                    pass
                now = self._clock.now()
                everyone = [*consumers(now), *waiting_for_root(self._fold.state)]
                at = lifecycle.next_due(self._all(), everyone, self.lifecycle_policy(), now)
                wait = None if at is None else max((at - now).total_seconds(), 0.01)
            except TrustfedError as error:
                log.error("authority step failed", error=error.message, hint=error.hint)
                wait = _RETRY_SECONDS
            except Exception as error:  # issuance must go on, whatever broke here; the next round may do better
                log.exception("authority step failed", error=error)
                wait = _RETRY_SECONDS
            await news_or_time(self._news, self._clock, wait)

    async def advance(self, consumers: Sequence[Consumer]) -> bool:
        """One round: what is due now, then a new envelope if the bundle changed. True if anything was done."""
        await self._destroy_keys()
        now = self._clock.now()
        steps = self._due(self._fold.state, consumers, now)
        for step in steps:
            await self._carry_out(step, consumers, now)
        published = await self.publish()
        await self._note_held(consumers, now)
        await self._destroy_keys()
        if steps or published:
            for listener in self._listeners:
                listener()
        return bool(steps) or published

    async def _note_held(self, consumers: Sequence[Consumer], now: datetime) -> None:
        """Journal that all have the authority that stands by: a process that begins while the hub is away knows it, too."""
        policy, prepared = self.lifecycle_policy(), [a for a in self._all() if a.status is Status.PREPARED]
        reached = [
            a.first_level
            for a in prepared
            if a.first_level is not None
            and a.first_level > self._fold.state.held
            and not lifecycle.waiting_for(a, consumers, policy, now)
        ]
        if reached:
            held = e.BundleHeld(*max(reached))
            await self._record(lambda s: [held] if s.held < max(reached) else [], "all have it")

    def _due(self, state: ClusterState, consumers: Sequence[Consumer], now: datetime) -> list[Step]:
        """What is due; an intermediate that the root has yet to sign holds back its own kind of authority only."""
        authorities, policy = list(state.authorities.values()), self.lifecycle_policy()
        kinds = {authority.id: authority.kind for authority in authorities}
        steps: list[Step] = []
        for kind, everyone in (
            (Kind.X509, [*consumers, *waiting_for_root(state)]),
            (Kind.EXTERNAL, list(consumers)),
            (Kind.JWT, list(consumers)),
        ):
            for step in lifecycle.due(authorities, everyone, policy, now):
                if _held_back(step, state, policy, now):
                    continue
                if kind is (step.kind if isinstance(step, lifecycle.Prepare) else kinds[step.authority]):
                    steps.append(step)
        return steps

    async def _destroy_keys(self) -> None:
        """Destroy the keys of authorities that are gone: also those a crash, or a key store that was away, left over."""
        for authority in self._all():
            if authority.status is lifecycle.Status.REMOVED and authority.id not in self._destroyed:
                await self._keys.destroy(authority.key_name)
                self._destroyed.add(authority.id)

    async def publish(self) -> bool:
        """Cut, sign and journal a new envelope if the bundle is not what the last one carries, or a new epoch begins."""
        state = self._fold.state
        carried = [
            *lifecycle.bundled(self._all(), Kind.X509),
            *lifecycle.bundled(self._all(), Kind.EXTERNAL),
            *lifecycle.bundled(self._all(), Kind.JWT),
        ]
        ids = tuple(authority.id for authority in carried)
        if not ids or (ids == state.carries and state.floor <= state.level):
            return False
        assert state.domain is not None
        epoch, sequence = max((max(state.level.epoch, 1), state.level.sequence + 1), state.floor)
        domain = TrustDomain.parse(state.trust_domain)
        bundle = Bundle(
            trust_domain=domain,
            x509_authorities=tuple(a.twin for a in carried if a.kind is not Kind.JWT),
            jwt_authorities=tuple(
                [JwtAuthority(a.id, await self._keys.public_key(a.key_name)) for a in carried if a.kind is Kind.JWT]
            ),
            sequence=sequence,
            refresh_hint=int(self._policy.refresh_hint.total_seconds()),
        )
        level, body = envelopes.Level(domain, epoch, sequence), bundle.marshal()
        name = state.domain.publication_key_name
        (signature,) = await self._keys.sign(name, [envelopes.payload_to_sign(level, body)])
        cut = envelopes.assemble(level, body, signature, PublicationKey(state.domain.publication_key))
        published = e.BundlePublished(epoch, sequence, ids, cut.data)
        await self._record(lambda s: [published] if s.level == state.level else [], "bundle changed")
        log.info("bundle published", epoch=epoch, sequence=sequence, authorities=len(ids))
        return True

    async def certify(self, certifier: Certifier) -> None:
        """Keep asking the hub for the intermediates that are missing; ends only when cancelled."""
        while True:
            wait = _CERTIFY_SECONDS
            enough = self._policy.longest_regular_leaf + self._policy.safety_margin
            for authority in [a for a in self._all() if wants_root(a, self._clock.now(), enough)]:
                try:
                    await self.certify_one(authority, certifier)
                except TrustfedError as error:
                    log.warning("intermediate not signed yet", authority=authority.id, error=error.message)
                    wait = _RETRY_SECONDS
                except Exception as error:  # whatever the hub's answer broke: this cluster goes on without it
                    log.exception("intermediate not signed yet", error=error, authority=authority.id)
                    wait = _RETRY_SECONDS
            await news_or_time(self._uncertified, self._clock, wait)

    async def certify_one(self, authority: AuthorityState, certifier: Certifier) -> None:
        """Have one authority's intermediate signed and recorded. Raises Invalid when it is not for this authority's key."""
        domain = TrustDomain.parse(self._fold.state.trust_domain)
        csr = await make_authority_csr(domain, authority.id, authority.key_name, self._keys)
        intermediate = await certifier.certify(authority.id, csr)
        await self.adopt_intermediate(authority.id, intermediate, newest_roots(self._fold.state))

    async def adopt_intermediate(
        self, id_: str, intermediate: bytes, root_set: RootSet, dns_suffixes: Sequence[str] | None = None
    ) -> None:
        """Record the intermediate that a root signed, if it is exactly what this federation's root makes.

        Whoever holds the hub could otherwise cut every agent off with one bad certificate. Of what it says nothing but
        the end is taken over, and that bounds only chains to the root. Raises Invalid.
        """
        authority, now = self._fold.state.authorities[id_], self._clock.now()
        domain = TrustDomain.parse(self._fold.state.trust_domain)
        suffixes = self._fold.state.dns_suffixes if dns_suffixes is None else dns_suffixes
        signed = check_intermediate(intermediate, domain, id_, authority.twin, suffixes, root_set.roots)
        begins, not_after = signed.not_before, signed.not_after
        enough = now + self._policy.longest_regular_leaf + self._policy.safety_margin
        if begins > now or not_after < min(enough, authority.not_after):
            raise Invalid(
                f"the intermediate that came for authority {id_} is valid from {begins} to {not_after}",
                hint="its life must cover the longest SVID; see the hub's policy, and both clocks",
            )

        def decide(state: ClusterState) -> list[e.AuthorityCertified]:
            held = state.authorities[id_]
            known = held.intermediate and (held.intermediate_not_after or held.not_after) >= not_after
            return [] if known else [e.AuthorityCertified(id_, intermediate, not_after)]

        await self._record(decide, "signed by the root")
        self.look()
        for listener in self._listeners:
            listener()

    async def prepare(self, kind: Kind, why: str) -> str:
        """Make the next authority of a kind: key and twin; it is in no envelope yet. Gives its id."""
        domain, now = TrustDomain.parse(self._fold.state.trust_domain), self._clock.now()
        id_ = new_authority_id(self._randomness)
        name, not_after = f"{kind}-{id_}", (now + self._policy.authority_ttl).replace(microsecond=0)
        public = await self._keys.create(name)
        twin = b""
        if kind is Kind.X509:
            twin = await make_twin(
                domain, id_, name, self._keys, not_after=not_after, now=now, randomness=self._randomness
            )
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        not_before = now - NOT_BEFORE_BACKDATE
        await self._record(
            lambda s: [e.AuthorityPrepared(id_, str(kind), name, twin, spki, not_before, not_after, why)], why
        )
        self._uncertified.set()
        log.info("authority prepared", authority=id_, kind=str(kind), why=why)
        return id_

    async def _carry_out(self, step: Step, consumers: Sequence[Consumer], now: datetime) -> None:
        match step:
            case lifecycle.Prepare(kind, why):
                await self.prepare(kind, why)
                return
            case lifecycle.Activate():
                event: TypedEvent = e.AuthorityActivated(
                    step.authority,
                    str(step.kind),
                    step.retires or "",
                    self._end_of_leaves(step.retires, now),
                    step.forced,
                    step.missing[:MAX_MISSING],
                    step.why,
                    now,
                    len(step.missing),
                )
            case lifecycle.Retire(id_, why):
                event = e.AuthorityRetired(id_, self._end_of_leaves(id_, now), why, now)
            case lifecycle.Reissue(id_, missing, _):
                spread = int(self._policy.reissue_window.total_seconds())
                event = e.AuthorityReissued(id_, missing[:MAX_MISSING], spread, now)
            case lifecycle.Remove(id_, why):
                event = e.AuthorityRemoved(id_, why)
            case lifecycle.RemoveTainted(id_, missing, why):
                event = e.AuthorityRemoved(id_, why, missing[:MAX_MISSING])
        recorded = await self._record(lambda s: [event] if step in self._due(s, consumers, now) else [], step.why)
        if not recorded:
            return  # an operator was faster; the next round looks again
        forced = isinstance(step, lifecycle.Activate) and step.forced
        tell = log.error if forced else log.info
        tell(
            "authority step",
            step=type(step).__name__.lower(),
            authority=step.authority,
            why=step.why,
            missing=", ".join(getattr(step, "missing", ())[:100]),
        )

    def _end_of_leaves(self, id_: str | None, now: datetime) -> datetime | None:
        return self._last_leaf(self._fold.state.authorities[id_], now) if id_ else None

    def _all(self) -> list[AuthorityState]:
        return list(self._fold.state.authorities.values())

    def lifecycle_policy(self) -> lifecycle.Policy:
        """This domain's policy in the words of ca.lifecycle."""
        policy = self._policy
        return lifecycle.Policy(
            ca_ttl=policy.authority_ttl,
            leaf_ttl_max=policy.longest_leaf,
            margin=policy.safety_margin,
            refresh_hint=policy.refresh_hint,
            reissue_window=policy.reissue_window,
        )

    async def _record(self, decide: Callable[[ClusterState], Sequence[TypedEvent]], why: str) -> bool:
        """Whether anything was recorded."""
        made = await self._fold.execute(
            decide, command_id=uuid4().hex, actor="cluster", reason=why, now=self._clock.now()
        )
        return bool(made)


def _held_back(step: Step, state: ClusterState, policy: lifecycle.Policy, now: datetime) -> bool:
    """Whether people paused this rollover. At the last safe moment, for a tainted key, and when none signs, it goes on."""
    if not isinstance(step, lifecycle.Activate) or step.forced or str(step.kind) not in state.evidence.paused:
        return False
    acting = state.authorities.get(step.retires) if step.retires else None
    return acting is not None and acting.tainted_at is None and now < lifecycle.last_safe_moment(acting, policy)
