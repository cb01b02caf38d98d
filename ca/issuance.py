"""X509-SVIDs in batches: prepare → lint → record → sign.

Every serial is on record before the key store is asked, so a crash at any moment leaves no unrecorded certificate. The
ID comes from the entry, never from the node; of what a node sends only the public key is used. A draft is spent once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from ca import der
from ca.cacert import new_serial, whole_seconds
from ca.constraints import check_dns_name, within
from ca.issuer import Issuer
from ca.keys.port import KeyStore
from ca.lint import Meant, lint_leaf
from ca.profiles import MAX_BATCH, MAX_DNS_NAMES, NOT_BEFORE_BACKDATE, X509_SVID, LeafProfile, Paths
from ca.publickeys import algorithm_of, load_public_key, spki_key_id
from ca.record import FactValue, Randomness, Recorder
from ca.template import validity
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import SpiffeId

__all__ = ["Chain", "Draft", "Issued", "Issuer", "LeafRequest", "issue_x509", "prepare"]

Chain = Literal["leaf", "root"]

_NODE = "/trustfed/node/"
# An ECDSA signature of the right size, to parse what is not signed yet. It verifies under no key.
_PLACEHOLDER = bytes.fromhex("3006020101020101")
# Drafts prepared between two looks at the event loop: about a millisecond.
_SLICE = 12


@dataclass(frozen=True, slots=True)
class LeafRequest:
    """One SVID to issue. The ID comes from the entry, the key from the node; `ttl` in seconds."""

    spiffe_id: SpiffeId
    public_key: bytes  # SubjectPublicKeyInfo, DER
    ttl: int
    dns_names: tuple[str, ...] = ()
    not_after_limit: datetime | None = None
    chain: Chain = "leaf"
    profile: LeafProfile = X509_SVID
    entry: str = ""
    node: str = ""
    instance: str = ""
    slot: str = ""
    predecessor: str = ""  # serial (hex) of the SVID that this one replaces
    command_id: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed SVID: `chain` is DER, leaf first."""

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    serial: str  # lower-case hex
    not_before: datetime
    not_after: datetime


@dataclass(slots=True)
class Draft:
    """A linted TBSCertificate waiting for its record and signature (a `Recordable` of kind "x509.issued")."""

    at: datetime
    authority: str
    request: LeafRequest
    serial: int
    not_before: datetime
    not_after: datetime
    subject_key_id: bytes
    _tbs: bytes = field(repr=False)
    _spent: bool = False
    key_algorithm: str = ""

    @property
    def kind(self) -> str:
        return "x509.issued"

    @property
    def key(self) -> str:
        return serial_text(self.serial)

    def facts(self) -> Mapping[str, FactValue]:
        """What the ledger keeps: times in Unix seconds, the hash of the signed bytes, no key and no certificate."""
        request = self.request
        return {
            "serial": self.key,
            "spiffe_id": str(request.spiffe_id),
            "authority": self.authority,
            "profile": request.profile.name,
            "chain": request.chain,
            "dns_names": list(request.dns_names),
            "not_before": int(self.not_before.timestamp()),
            "not_after": int(self.not_after.timestamp()),
            "ttl": request.ttl,
            "key_id": self.subject_key_id.hex(),
            "key_algorithm": self.key_algorithm,
            "tbs_sha256": hashlib.sha256(self._tbs).hexdigest(),
            "entry": request.entry,
            "node": request.node,
            "instance": request.instance,
            "slot": request.slot,
            "predecessor": request.predecessor,
            "command_id": request.command_id,
        }

    def spend(self) -> bytes:
        """The bytes to sign, once. Raises Conflict the second time: one record never covers two signatures."""
        if self._spent:
            raise Conflict(f"the draft of serial {self.key} was already signed", hint="prepare a new one")
        self._spent = True
        return self._tbs


async def issue_x509(
    issuer: Issuer,
    requests: Sequence[LeafRequest],
    keys: KeyStore,
    recorder: Recorder,
    *,
    now: datetime,
    randomness: Randomness,
) -> list[Issued | TrustfedError]:
    """Issue a batch (≤ 1,000): one record call, one sign call; an item that is refused carries its error, in order.

    1. the batch and the authority may sign now  2. prepare and lint each  3. record  4. sign  5. hand out.
    Raises Invalid for an oversize batch, Unavailable when the authority has ended or has another key than the store's,
    and what recorder and key store raise: then no item is handed out, and what was recorded stays unsigned.
    """
    if len(requests) > MAX_BATCH:  # 1
        raise Invalid(f"a batch of {len(requests)} requests is too large", hint=f"at most {MAX_BATCH}")
    now = whole_seconds(now)
    issuer.check_valid(now)
    if await keys.public_key(issuer.key_name) != issuer.public_key:
        raise Unavailable(
            f"key {issuer.key_name} is not the key of authority {issuer.authority}", hint="restore the right key store"
        )
    results: list[Draft | TrustfedError] = []
    for number, request in enumerate(requests):  # 2
        if number and number % _SLICE == 0:
            await asyncio.sleep(0)
        try:
            results.append(prepare(issuer, request, now=now, randomness=randomness))
        except TrustfedError as error:
            results.append(error)
    drafts = [result for result in results if isinstance(result, Draft)]
    if not drafts:
        return [result for result in results if not isinstance(result, Draft)]
    await recorder.record(drafts)  # 3
    messages = [draft.spend() for draft in drafts]
    signatures = iter(await keys.sign(issuer.key_name, messages))  # 4
    signed = [der.signed(tbs, signature) for tbs, signature in zip(messages, signatures, strict=True)]
    leaves = iter(signed)
    return [_issued(issuer, r, next(leaves)) if isinstance(r, Draft) else r for r in results]  # 5


def prepare(issuer: Issuer, request: LeafRequest, *, now: datetime, randomness: Randomness) -> Draft:
    """A linted draft of one leaf; `now` in whole seconds, within the authority's validity.

    It ends at the earliest of now + ttl, the authority's end, the request's limit and, with the root's chain, the
    intermediate's end. Raises Invalid for a malformed request, Denied for a name that is not this domain's to give,
    Unavailable while the root chain is missing.
    """
    _check_names(issuer, request)
    if request.chain not in ("leaf", "root"):
        raise Invalid(f"chain {str(request.chain)[:20]!r} is unknown", hint="leaf or root")
    limit = request.not_after_limit
    if request.chain == "root" and issuer.root_chain_until is not None:
        limit = issuer.root_chain_until if limit is None else min(limit, issuer.root_chain_until)
    if request.chain == "root" and (issuer.root_chain_until is None or issuer.root_chain_until <= now):
        raise Unavailable(
            f"authority {issuer.authority} has no valid certificate of the root", hint="try again once the hub is back"
        )
    longest = int(request.profile.max_lifetime.total_seconds())
    if not 1 <= request.ttl <= longest:
        raise Invalid(f"a lifetime of {request.ttl} s is out of range", hint=f"1 to {longest} seconds")
    not_after = min(now + timedelta(seconds=request.ttl), issuer.not_after)
    if limit is not None:
        not_after = min(not_after, whole_seconds(limit))
    if not_after <= now:
        raise Invalid(f"the SVID of {request.spiffe_id} would have ended at {not_after}", hint="see the entry's expiry")
    not_before = max(now - NOT_BEFORE_BACKDATE, issuer.not_before)
    public_key = load_public_key(request.public_key)
    subject_key_id = spki_key_id(request.public_key, public_key)
    serial = new_serial(randomness)
    uri = str(request.spiffe_id)
    valid = validity(not_before, not_after)
    tbs = issuer.template.fill(
        serial=serial,
        valid=valid,
        public_key=request.public_key,
        key_id=subject_key_id,
        uri=uri,
        dns_names=request.dns_names,
    )
    meant = Meant(
        request.spiffe_id,
        public_key,
        request.public_key,
        request.dns_names,
        serial,
        limit,
        request.ttl,
        request.profile,
        now,
    )
    lint_leaf(der.signed(tbs, _PLACEHOLDER), tbs, issuer.signer, meant)
    return Draft(
        now,
        issuer.authority,
        request,
        serial,
        not_before,
        not_after,
        subject_key_id,
        tbs,
        key_algorithm=algorithm_of(public_key),
    )


def _check_names(issuer: Issuer, request: LeafRequest) -> None:
    spiffe_id, path = request.spiffe_id, request.spiffe_id.path
    if spiffe_id.trust_domain != issuer.trust_domain:
        raise Denied(f"{spiffe_id} is not in trust domain {issuer.trust_domain}", hint="ask its own cluster")
    if not path:
        raise Invalid(f"{spiffe_id} names a trust domain, not a workload", hint="give the entry a path")
    allowed = {
        Paths.WORKLOAD: not spiffe_id.is_reserved,
        Paths.NODE: path.startswith(_NODE) and "/" not in path[len(_NODE) :],
        Paths.SYSTEM: spiffe_id.is_reserved and path.count("/") > 1 and not path.startswith(_NODE),
    }
    if not allowed[request.profile.paths]:
        raise Denied(
            f"{spiffe_id} is not a {request.profile.name}'s ID", hint=f"it wants {request.profile.paths.value}"
        )
    if len(request.dns_names) > MAX_DNS_NAMES or len(set(request.dns_names)) != len(request.dns_names):
        raise Invalid(f"the DNS names of {spiffe_id} are too many or repeated", hint=f"at most {MAX_DNS_NAMES}")
    for name in request.dns_names:
        check_dns_name(name)
        if not within(name, issuer.dns_suffixes):
            raise Denied(
                f"DNS name {name} is outside the suffixes of {issuer.trust_domain}",
                hint="register the suffix at the hub",
            )


def _issued(issuer: Issuer, draft: Draft, leaf: bytes) -> Issued:
    behind = (issuer.intermediate,) if draft.request.chain == "root" and issuer.intermediate is not None else ()
    return Issued(draft.request.spiffe_id, (leaf, *behind), draft.key, draft.not_before, draft.not_after)
