"""SVIDs for nodes and their workloads: the node is authenticated, the SPIFFE ID comes from the entry, nothing from the caller.

Issuing asks nobody but this cluster's own state and keys, so it goes on while the hub is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from ca.issuance import Chain, Issued, Issuer, LeafRequest, issue_x509
from ca.jwt import IssuedJwt, JwtIssuer, JwtRequest, issue_jwt
from ca.keys.port import KeyStore
from ca.lifecycle import AuthorityState, Kind, signer
from ca.profiles import NODE_SVID
from ca.publickeys import load_public_key
from ca.record import Randomness
from trustfed.cluster.config import Policy
from trustfed.cluster.reserves import reserve_seconds
from trustfed.cluster.slots import entry_of, jwt_request, leaf_request, refuse
from trustfed.cluster.state import ClusterState, Node
from trustfed.errors import Invalid, NotFound, TrustfedError, Unavailable
from trustfed.federation.names import node_id
from trustfed.journal.fold import Fold
from trustfed.journal.ports import Ledger
from trustfed.journal.recorder import LedgerRecorder
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

MAX_SLOTS = 500
NODE_SLOT = "node"


class Witness(Protocol):
    """Who keeps evidence of what is issued; both return at once."""

    def signed(
        self, authority: str, requests: Sequence[LeafRequest], results: Sequence[Issued | TrustfedError]
    ) -> None:
        """What became of these requests, in order."""

    def refused(self, node: Node, request: pb.X509Slot, error: TrustfedError) -> None:
        """A node asked for this in vain."""


class Issuance:
    """Issues from the one authority of each kind that may sign now."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        ledger: Ledger,
        keys: KeyStore,
        policy: Policy,
        clock: Clock,
        randomness: Randomness,
        registry: Registry,
    ) -> None:
        self._fold, self._keys, self._policy = fold, keys, policy
        self._clock, self._randomness = clock, randomness
        self._recorder = LedgerRecorder(ledger)
        self._started = clock.now()
        self._loaded: tuple[AuthorityState, Issuer] | None = None
        self._last_leaf: dict[str, datetime] = {}
        self.witness: Witness | None = None
        self._issued = registry.counter("cluster_svids_issued_total", "SVIDs signed by this process", labels=("kind",))
        self._refused = registry.counter("cluster_svids_refused_total", "SVID requests refused", labels=("kind",))

    def signer_version(self) -> str:
        """Changes whenever new certificates should be cut for ourselves: another authority, or its intermediate came.

        "" while no authority may sign.
        """
        authority = signer(list(self._fold.state.authorities.values()), Kind.X509, self._clock.now())
        if authority is None:
            return ""
        return f"{authority.id}:{authority.intermediate_not_after if authority.intermediate else 'twin'}"

    def last_leaf(self, authority: AuthorityState, now: datetime) -> datetime:
        """The latest end of anything this authority signed, or may have: before a restart only the bound is known."""
        bound = min(authority.not_after, now + self._policy.longest_leaf)
        seen_all = authority.activated_at is not None and authority.activated_at >= self._started
        return min(bound, self._last_leaf.get(authority.id, now)) if seen_all else bound

    async def own(self, request: LeafRequest) -> tuple[Issued, str]:
        """One of our own system SVIDs, and the signer version behind it; with the root chain if that holds as long."""
        version, issuer = self.signer_version(), self._issuer()
        until, end = issuer.root_chain_until, self._clock.now() + timedelta(seconds=request.ttl)
        chain: Chain = "root" if until is not None and until >= min(end, issuer.not_after) else "leaf"
        (result,) = await self._x509(issuer, [replace(request, chain=chain)])
        if isinstance(result, TrustfedError):
            raise result
        return result, version

    async def workload(self, request: LeafRequest) -> Issued:
        """One workload's SVID, for whoever knows by other means than an entry that the caller may have it."""
        (result,) = await self._x509(self._issuer(), [request])
        if isinstance(result, TrustfedError):
            self._refused.add(kind="x509")
            raise result
        return result

    async def local_server(self, request: LeafRequest, names: tuple[str, ...]) -> tuple[Issued, str]:
        """One of our own SVIDs with DNS names, of which `names` lead nowhere outside this cluster and so need no suffix.

        It is anchored at the twin alone: the root's constraints know nothing of such names. Gives also the signer version.
        """
        version, authority = self.signer_version(), self._signer(Kind.X509)
        issuer = Issuer.load(
            TrustDomain.parse(self._fold.state.trust_domain),
            authority.id,
            authority.key_name,
            authority.twin,
            dns_suffixes=(*self._fold.state.dns_suffixes, *names),
        )
        (result,) = await self._x509(issuer, [replace(request, chain="leaf")])
        if isinstance(result, TrustfedError):
            raise result
        return result, version

    async def node_svid(self, name: str, public_key: bytes, predecessor: str, command_id: str) -> Issued:
        """A node's SVID. That the node may have it is the caller's to know. Raises Invalid unless the key is P-256: it
        signs what brings the node back in after its SVID has ended.
        """
        key = load_public_key(public_key)
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise Invalid("a node's key must be an ECDSA key on P-256")
        ttl = int(self._policy.node_ttl.total_seconds())
        domain = TrustDomain.parse(self._fold.state.trust_domain)
        request = LeafRequest(
            spiffe_id=node_id(domain, name),
            public_key=public_key,
            ttl=ttl,
            profile=NODE_SVID,
            node=name,
            instance=f"node/{name}",
            slot=NODE_SLOT,
            predecessor=predecessor,
            command_id=command_id,
        )
        (result,) = await self._x509(self._issuer(), [request])
        if isinstance(result, TrustfedError):
            raise result
        return result

    async def x509(self, node: Node, request: pb.IssueX509Request) -> pb.IssueX509Response:
        """A batch of workload SVIDs for one node: an item that is refused says why and spoils no other."""
        if len(request.slots) > MAX_SLOTS:
            raise Invalid(f"{len(request.slots)} slots in one request", hint=f"at most {MAX_SLOTS}")
        now, state = self._clock.now(), self._fold.state
        reserve = reserve_seconds(state, node.groups, self._policy.reserve_ttl_max)
        answers: list[TrustfedError | Issued] = []
        wanted: list[LeafRequest] = []
        for slot in request.slots:
            try:
                entry = entry_of(state, node, slot.entry_id, now)
                wanted.append(leaf_request(entry, node, slot, request.command_id, reserve))
                answers.append(_PENDING)
            except TrustfedError as error:
                answers.append(error)
        issuer = self._issuer()
        issued = iter(await self._x509(issuer, wanted))
        response = pb.IssueX509Response()
        for slot, answer in zip(request.slots, answers, strict=True):
            outcome = next(issued) if answer is _PENDING else answer
            result = response.results.add(entry_id=slot.entry_id)
            if isinstance(outcome, TrustfedError):
                refuse(result, outcome)
                self._refused.add(kind="x509")
                if self.witness is not None:
                    self.witness.refused(node, slot, outcome)
            else:
                result.chain.extend(outcome.chain)
                result.authority_id = issuer.authority
                result.not_after_ms = to_ms(outcome.not_after)
        return response

    async def jwt(self, node: Node, request: pb.IssueJwtRequest) -> pb.IssueJwtResponse:
        """A batch of JWT-SVIDs for one node."""
        if len(request.slots) > MAX_SLOTS:
            raise Invalid(f"{len(request.slots)} slots in one request", hint=f"at most {MAX_SLOTS}")
        now, state = self._clock.now(), self._fold.state
        authority = self._signer(Kind.JWT)
        issuer = JwtIssuer(
            TrustDomain.parse(state.trust_domain),
            authority.id,
            authority.key_name,
            authority.not_before,
            authority.not_after,
        )
        answers: list[TrustfedError | None] = []
        wanted: list[JwtRequest] = []
        for slot in request.slots:
            try:
                wanted.append(jwt_request(entry_of(state, node, slot.entry_id, now), node, slot, request.command_id))
                answers.append(None)
            except TrustfedError as error:
                answers.append(error)
        issued: list[IssuedJwt | TrustfedError] = []
        if wanted:
            self._will_sign(authority.id, now + timedelta(seconds=max(item.ttl for item in wanted)))
            try:
                issued = await issue_jwt(
                    issuer, wanted, self._keys, self._recorder, now=now, randomness=self._randomness
                )
            except NotFound as error:
                raise _without_key(error) from error
            self._still_believed(authority.id)
        pending = iter(issued)
        response = pb.IssueJwtResponse()
        for slot, refused in zip(request.slots, answers, strict=True):
            outcome = refused if refused is not None else next(pending)
            result = response.results.add(entry_id=slot.entry_id)
            if isinstance(outcome, TrustfedError):
                refuse(result, outcome)
                self._refused.add(kind="jwt")
                continue
            result.token = outcome.token
            result.issued_at_ms, result.expires_at_ms = to_ms(outcome.issued_at), to_ms(outcome.expires_at)
            result.authority_id = authority.id
            self._issued.add(kind="jwt")
        return response

    async def _x509(self, issuer: Issuer, requests: Sequence[LeafRequest]) -> list[Issued | TrustfedError]:
        if not requests:
            return []
        now = self._clock.now()
        self._will_sign(issuer.authority, now + timedelta(seconds=max(request.ttl for request in requests)))
        try:
            results = await issue_x509(
                issuer, requests, self._keys, self._recorder, now=now, randomness=self._randomness
            )
        except NotFound as error:
            raise _without_key(error) from error
        if self.witness is not None:
            self.witness.signed(issuer.authority, requests, results)
        self._still_believed(issuer.authority)
        self._issued.add(sum(isinstance(result, Issued) for result in results), kind="x509")
        return results

    def _will_sign(self, authority: str, not_after: datetime) -> None:
        """Noted before anything waits: an authority that retires meanwhile stays for what is being signed, too."""
        known = self._last_leaf.get(authority)
        self._last_leaf[authority] = not_after if known is None else max(known, not_after)

    def _still_believed(self, authority: str) -> None:
        """What a tainted authority has signed after agents were told to replace it must not reach them."""
        if self._fold.state.authorities[authority].tainted_at is not None:
            raise Unavailable(f"authority {authority} was tainted meanwhile", hint="ask again")

    def _signer(self, kind: Kind) -> AuthorityState:
        authority = signer(list(self._fold.state.authorities.values()), kind, self._clock.now())
        if authority is None:
            raise Unavailable(
                f"no {kind} authority of {self._fold.state.trust_domain} may sign now", hint="trustfed authority list"
            )
        return authority

    def _issuer(self) -> Issuer:
        authority = self._signer(Kind.X509)
        if self._loaded is None or self._loaded[0] != authority:
            state = self._fold.state
            issuer = Issuer.load(
                TrustDomain.parse(state.trust_domain),
                authority.id,
                authority.key_name,
                authority.twin,
                intermediate=authority.intermediate or None,
                dns_suffixes=state.dns_suffixes,
            )
            self._loaded = (authority, issuer)
        return self._loaded[1]


_PENDING = Unavailable("being issued")


def _without_key(error: NotFound) -> Unavailable:
    """Not the caller's fault, and not an entry that does not exist."""
    return Unavailable(f"the authority cannot sign: {error.message}", hint="ask again; trustfed authority list")
