"""JWT-SVIDs in batches: prepare → record → sign (JWT-SVID §2, §3).

Each token has a `jti`, which is its key in the ledger, on record before the key store is asked. The ID comes from the
entry. A token ends no later than its authority: verifiers drop the key from their bundle then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ca.cacert import whole_seconds
from ca.keys.port import KeyStore
from ca.profiles import JWT_MAX_LIFETIME, MAX_BATCH
from ca.record import FactValue, Randomness, Recorder
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.jose import MAX_TOKEN

_MAX_AUDIENCES = 32
_MAX_AUDIENCE_LENGTH = 1024
_SIGNATURE = 87  # a dot and 64 bytes in base64url
# Drafts prepared between two looks at the event loop: about a millisecond.
_SLICE = 32


@dataclass(frozen=True, slots=True)
class JwtIssuer:
    """One JWT authority: `kid` is its authority id, `key_name` its key in the store."""

    trust_domain: TrustDomain
    kid: str
    key_name: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class JwtRequest:
    """One JWT-SVID to issue; `ttl` in seconds."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    ttl: int
    not_after_limit: datetime | None = None
    entry: str = ""
    node: str = ""
    instance: str = ""
    slot: str = ""
    predecessor: str = ""
    command_id: str = ""


@dataclass(frozen=True, slots=True)
class IssuedJwt:
    """A signed JWT-SVID. Whoever has `token` is the workload, so it is in no repr."""

    spiffe_id: SpiffeId
    token: str = field(repr=False)
    jti: str
    issued_at: datetime
    expires_at: datetime


@dataclass(slots=True)
class JwtDraft:
    """A token waiting for its record and signature (a `Recordable` of kind "jwt.issued")."""

    at: datetime
    authority: str
    request: JwtRequest
    jti: str
    issued_at: datetime
    expires_at: datetime
    _signing_input: bytes = field(repr=False)
    _spent: bool = False

    @property
    def kind(self) -> str:
        return "jwt.issued"

    @property
    def key(self) -> str:
        return self.jti

    def facts(self) -> Mapping[str, FactValue]:
        """What the ledger keeps: times in Unix seconds, never the token."""
        request = self.request
        return {
            "jti": self.jti,
            "spiffe_id": str(request.spiffe_id),
            "authority": self.authority,
            "audience": list(request.audience),
            "not_before": int(self.issued_at.timestamp()),
            "not_after": int(self.expires_at.timestamp()),
            "ttl": request.ttl,
            "entry": request.entry,
            "node": request.node,
            "instance": request.instance,
            "slot": request.slot,
            "predecessor": request.predecessor,
            "command_id": request.command_id,
        }

    def spend(self) -> bytes:
        """The bytes to sign, once. Raises Conflict the second time."""
        if self._spent:
            raise Conflict(f"the draft of token {self.jti} was already signed", hint="prepare a new one")
        self._spent = True
        return self._signing_input


async def issue_jwt(
    issuer: JwtIssuer,
    requests: Sequence[JwtRequest],
    keys: KeyStore,
    recorder: Recorder,
    *,
    now: datetime,
    randomness: Randomness,
) -> list[IssuedJwt | TrustfedError]:
    """Issue a batch (≤ 1,000): one record call, one sign call; an item that is refused carries its error, in order.

    Raises Invalid for an oversize batch, Unavailable when the authority is not valid now, and what recorder and key
    store raise: then no item is handed out.
    """
    if len(requests) > MAX_BATCH:
        raise Invalid(f"a batch of {len(requests)} requests is too large", hint=f"at most {MAX_BATCH}")
    now = whole_seconds(now)
    if not issuer.not_before <= now < issuer.not_after:
        raise Unavailable(f"JWT authority {issuer.kid} is not valid at {now}", hint="trustfed authority prepare")
    results: list[JwtDraft | TrustfedError] = []
    for number, request in enumerate(requests):
        if number and number % _SLICE == 0:
            await asyncio.sleep(0)
        try:
            results.append(prepare_jwt(issuer, request, now=now, randomness=randomness))
        except TrustfedError as error:
            results.append(error)
    drafts = [result for result in results if isinstance(result, JwtDraft)]
    if not drafts:
        return [result for result in results if not isinstance(result, JwtDraft)]
    await recorder.record(drafts)
    messages = [draft.spend() for draft in drafts]
    signatures = await keys.sign(issuer.key_name, messages)
    tokens = iter([jwtsvid.assemble(text, signature) for text, signature in zip(messages, signatures, strict=True)])
    return [_issued(result, next(tokens)) if isinstance(result, JwtDraft) else result for result in results]


def prepare_jwt(issuer: JwtIssuer, request: JwtRequest, *, now: datetime, randomness: Randomness) -> JwtDraft:
    """A draft of one token; `now` in whole seconds. Raises Invalid for a malformed request, Denied for a foreign ID."""
    spiffe_id = request.spiffe_id
    if spiffe_id.trust_domain != issuer.trust_domain:
        raise Denied(f"{spiffe_id} is not in trust domain {issuer.trust_domain}", hint="ask its own cluster")
    if spiffe_id.is_reserved:
        raise Denied(f"{spiffe_id} is reserved and gets no JWT-SVID", hint="use an entry outside /trustfed/")
    if not 1 <= len(request.audience) <= _MAX_AUDIENCES or not all(
        0 < len(audience) <= _MAX_AUDIENCE_LENGTH for audience in request.audience
    ):
        raise Invalid(
            "a JWT-SVID has too few, too many or too long audiences",
            hint=f"1 to {_MAX_AUDIENCES} of 1 to {_MAX_AUDIENCE_LENGTH} characters",
        )
    longest = int(JWT_MAX_LIFETIME.total_seconds())
    if not 1 <= request.ttl <= longest:
        raise Invalid(f"a token lifetime of {request.ttl} s is out of range", hint=f"1 to {longest} seconds")
    expires_at = min(now + timedelta(seconds=request.ttl), whole_seconds(issuer.not_after))
    if request.not_after_limit is not None:
        expires_at = min(expires_at, whole_seconds(request.not_after_limit))
    if expires_at <= now:
        raise Invalid(f"the token of {spiffe_id} would have ended at {expires_at}", hint="see the entry's expiry")
    jti = randomness(16).hex()
    text = jwtsvid.signing_input(spiffe_id, request.audience, now, expires_at, issuer.kid, claims={"jti": jti})
    if len(text) + _SIGNATURE > MAX_TOKEN:
        raise Invalid(f"the token of {spiffe_id} would be larger than {MAX_TOKEN} bytes", hint="name fewer audiences")
    return JwtDraft(now, issuer.kid, request, jti, now, expires_at, text)


def _issued(draft: JwtDraft, token: str) -> IssuedJwt:
    return IssuedJwt(draft.request.spiffe_id, token, draft.jti, draft.issued_at, draft.expires_at)
