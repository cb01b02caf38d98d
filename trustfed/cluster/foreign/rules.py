"""Is what a foreign endpoint serves to be believed, beside what is held? Pure: bytes in, a verdict out.

A foreign bundle has no signature, and its number is worth less than one of ours: SPIRE changes the hint at an equal
sequence, leaves the sequence out while it is 0, and starts again with a new datastore. So key sets are compared, not bytes.

Reading (`read`):
 1. it is a SPIFFE bundle (Trust Domain and Bundle §4) of at most MAX_FOREIGN bytes as we write it
 2. no authority names another trust domain (X509-SVID §3.2)
 3. it is not empty: a domain that wants to be believed no longer is removed by an operator, not by one answer

Judging (`judge`), after that:
 4. no key that is new in it is held by another domain: this one, a member, another foreign one, the federation's root. Who
    held a key first keeps it: public keys can be copied, and a copy must not freeze the one it was made of
 5. the endpoint can be known again by it, where it must (https_spiffe that serves its own bundle)
 6. it continues what is held
    a. nothing is held: it is the first
    b. a higher sequence: accepted, also without new keys
    c. the same sequence: the same keys; only the hint may differ
    d. a lower sequence: refused
    e. none where there was one: refused with other keys; with the same ones nothing is recorded
    f. none and none before: accepted; nothing protects from an older bundle, and the status says so
    g. the first sequence after none: accepted
 An operator who accepts it passes over 6, and over 4 where the other is a peer; never over keys of this domain or the root.

Whatever is refused, the last good bundle stays. Messages never repeat what was served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trustfed.cluster.state import ForeignPeer
from trustfed.errors import Denied, Invalid
from trustfed.spiffe import keys, strict_json
from trustfed.spiffe.bundle import MAX_BUNDLE, Bundle
from trustfed.spiffe.certificate import read as read_certificate
from trustfed.spiffe.certificate import spiffe_id
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.keys import PublicKey
from trustfed.spiffe.x509svid import check_authority

MAX_FOREIGN = 40 * 1024
"""Bytes: with the escapes of its envelope it fits into one message that a key store signs (64 KiB)."""
DEFAULT_HINT, MOST_HINT = 300, 3600
"""Seconds: what counts as the refresh hint where a bundle has none, and where it has a longer one."""


class Fault(StrEnum):
    """Why a foreign bundle is refused."""

    MALFORMED = "malformed"
    OTHER_DOMAIN = "other_domain"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    SHARED_KEY = "shared_key"
    NO_X509 = "no_x509"
    OLDER = "older"
    FORK = "fork"
    SEQUENCE_LOST = "sequence_lost"
    TOO_OFTEN = "too_often"


FORCEABLE = frozenset({Fault.OLDER, Fault.FORK, Fault.SEQUENCE_LOST})
"""What an operator may pass over; and SHARED_KEY, if the other is a peer (`Refused.forceable`)."""


class Verdict(StrEnum):
    """What a bundle that passed means for what is held."""

    SAME = "same"
    NUMBER = "number"  # only the sequence rose
    NEW = "new"  # other keys, or another hint: a new envelope


@dataclass(frozen=True)
class Offer:
    """A well-formed foreign bundle and the fingerprint of its key set."""

    bundle: Bundle
    keys: str


@dataclass(frozen=True)
class Holding:
    """The keys (`keys_of`) that another domain holds; `peer` if it is one that its own owner publishes."""

    keys: frozenset[str]
    peer: bool = True


class Refused(Denied):
    """A foreign bundle that is not believed."""

    def __init__(
        self, fault: Fault, message: str, offer: Offer | None = None, *, hint: str = "", forceable: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.fault, self.offer = fault, offer
        self.forceable = forceable or fault in FORCEABLE


def read(trust_domain: TrustDomain, body: bytes) -> Offer:
    """The bundle that `body` is, if it can be one of `trust_domain`. Raises Refused (1 to 3)."""
    try:
        bundle = Bundle.parse(trust_domain, body)  # 1
    except Invalid:
        if _names_another(trust_domain, body):  # 2
            raise Refused(
                Fault.OTHER_DOMAIN,
                f"what is served as the bundle of {trust_domain} has an authority that names another trust domain",
                hint="is the URL another domain's?",
            ) from None
        raise Refused(
            Fault.MALFORMED,
            f"what is served as the bundle of {trust_domain} is no SPIFFE bundle",
            hint="trustfed bundle fetch URL --trust-domain NAME says what is wrong with it",
        ) from None
    offer = Offer(bundle, fingerprint(bundle))
    if not (bundle.x509_authorities or bundle.jwt_authorities or bundle.wit_authorities):  # 3
        raise Refused(
            Fault.EMPTY,
            f"the bundle of {trust_domain} is empty",
            offer,
            hint=f"if that domain is to be believed no longer: trustfed peer remove {trust_domain}",
        )
    if len(bundle.marshal()) > MAX_FOREIGN:
        raise Refused(Fault.TOO_LARGE, f"the bundle of {trust_domain} is larger than {MAX_FOREIGN} bytes", offer)
    return offer


def judge(
    peer: ForeignPeer,
    offer: Offer,
    others: Mapping[str, Holding],
    held: frozenset[str] = frozenset(),
    *,
    forced: bool = False,
) -> Verdict:
    """What `offer` means beside what `peer` holds: `held` are the keys (`keys_of`) held of it, `others` those of others.

    Raises Refused; with `forced` only for 5, and for 4 where no peer is the other.
    """
    bundle, name = offer.bundle, peer.trust_domain
    new_keys = keys_of(bundle) - held
    for other, holding in others.items():  # 4
        if other == name or new_keys.isdisjoint(holding.keys) or (forced and holding.peer):
            continue
        ask = "ask the owners of both which of them copied it; is the URL another domain's?"
        if holding.peer:
            ask += (
                f" If {other} did: trustfed peer remove {other} (or trustfed grant end), or "
                f"trustfed peer accept {name} --reason WHY"
            )
        raise Refused(
            Fault.SHARED_KEY,
            f"the bundle of {name} has a new key that {other} holds: one key cannot speak for two domains",
            offer,
            hint=ask,
            forceable=holding.peer,
        )
    if serves_itself(peer) and not bundle.x509_authorities:  # 5
        raise Refused(
            Fault.NO_X509,
            f"the bundle of {name} has no X.509 authority, so its own endpoint could not be known again",
            offer,
        )
    verdict = _continued(peer, offer)  # 6
    if isinstance(verdict, Verdict):
        return verdict
    if not forced:
        raise verdict
    return Verdict.NEW if offer.keys != peer.keys or bounded_hint(bundle) != peer.refresh_hint else Verdict.NUMBER


def _continued(peer: ForeignPeer, offer: Offer) -> Verdict | Refused:
    name, said, held = peer.trust_domain, offer.bundle.sequence, peer.sequence
    same = offer.keys == peer.keys
    hint = f"if its owner says that this is right: trustfed peer accept {name} --reason WHY"
    if not peer.keys:  # a
        return Verdict.NEW
    if held is not None and said is None:  # e
        if same:
            return _hint_only(peer, offer)
        message = f"the bundle of {name} has lost its sequence (it was {held}) and has other keys"
        return Refused(Fault.SEQUENCE_LOST, message, offer, hint=hint)
    if held is not None and said is not None and said < held:  # d
        return Refused(Fault.OLDER, f"the bundle of {name} goes back from sequence {held} to {said}", offer, hint=hint)
    if held is not None and said == held:  # c
        if same:
            return _hint_only(peer, offer)
        return Refused(Fault.FORK, f"the bundle of {name} has other keys at the same sequence {held}", offer, hint=hint)
    if not same:  # b, f, g
        return Verdict.NEW
    changed = _hint_only(peer, offer)
    return Verdict.NUMBER if changed is Verdict.SAME and said != held else changed


def _hint_only(peer: ForeignPeer, offer: Offer) -> Verdict:
    return Verdict.SAME if bounded_hint(offer.bundle) == peer.refresh_hint else Verdict.NEW


def number_after(peer: ForeignPeer, offer: Offer, *, forced: bool) -> int | None:
    """The sequence that the next bundle is compared with: one that was left out with the same keys is not forgotten."""
    said = offer.bundle.sequence
    return peer.sequence if said is None and offer.keys == peer.keys and not forced else said


def rewritten(bundle: Bundle, sequence: int) -> Bundle:
    """The same keys in one order, under our own number, with the hint by which this cluster keeps it fresh."""
    return replace(
        bundle,
        x509_authorities=tuple(sorted(set(bundle.x509_authorities))),
        jwt_authorities=tuple(sorted(bundle.jwt_authorities, key=lambda a: a.key_id)),
        wit_authorities=tuple(sorted(bundle.wit_authorities, key=lambda a: a.key_id)),
        sequence=sequence,
        refresh_hint=bounded_hint(bundle),
    )


def bounded_hint(bundle: Bundle) -> int:
    """The refresh hint in seconds, from 1 to MOST_HINT."""
    return min(bundle.refresh_hint or DEFAULT_HINT, MOST_HINT)


def serves_itself(peer: ForeignPeer) -> bool:
    """Whether the endpoint's own identity is of the domain whose bundle it serves (§5.2.2.2)."""
    return bool(peer.endpoint_id) and SpiffeId.parse(peer.endpoint_id).trust_domain.name == peer.trust_domain


def fingerprint(bundle: Bundle) -> str:
    """`sha256:` and 64 hex digits over the key set: certificates, and token keys with their IDs, in no order."""
    parts = {f"x509 {hashlib.sha256(der).hexdigest()}" for der in bundle.x509_authorities}
    for use, authorities in (("jwt", bundle.jwt_authorities), ("wit", bundle.wit_authorities)):
        parts |= {f"{use} {_spki(a.public_key)} {a.key_id}" for a in authorities}
    return "sha256:" + hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def keys_of(bundle: Bundle) -> frozenset[str]:
    """Fingerprints of every public key that speaks for the bundle's domain, whatever for."""
    x509 = (check_authority(der, bundle.trust_domain).public_key for der in bundle.x509_authorities)
    tokens = (a.public_key for a in (*bundle.jwt_authorities, *bundle.wit_authorities))
    return frozenset(_spki(key) for key in (*x509, *tokens))


def certificate_key(der: bytes) -> str:
    """The fingerprint of one certificate's public key, as in `keys_of`."""
    return _spki(read_certificate(der, "certificate").public_key)


def _spki(key: PublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _names_another(trust_domain: TrustDomain, body: bytes) -> bool:
    """Whether a document that is refused has an X.509 authority of another domain: the likeliest mistake, or the worst."""
    try:
        entries = strict_json.parse_object(body, what="bundle", limit=MAX_BUNDLE).get("keys")
    except Invalid:
        return False
    for entry in entries if isinstance(entries, list) else ():
        x5c = entry.get("x5c") if isinstance(entry, dict) else None
        if not isinstance(x5c, list) or not x5c:
            continue
        try:
            named = spiffe_id(read_certificate(keys.base64_bytes(x5c[0], "x5c"), "authority"), "authority")
        except Invalid:
            continue
        if named is not None and named.trust_domain != trust_domain:
            return True
    return False
