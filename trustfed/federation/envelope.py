"""The one form in which a bundle travels: signed by its domain's publication key, numbered by its domain alone.

The hub, stores and mirrors pass the same bytes on; a reader believes none of them. DSSE (decision 0004) around

    {"body": the SPIFFE bundle document, "epoch": int >= 1, "sequence": int >= 1, "trust_domain": name}

as canonical JSON (sorted members, no blanks, ASCII), signed with ECDSA P-256 / SHA-256. The body's spiffe_sequence
equals `sequence`, so that plain SPIFFE readers, who see only the body, see a rising number too.

Opening, in this order:
 1. size
 2. DSSE form: strict JSON, the payload type, exactly one signature
 3. that signature, by the pinned key
 4. payload grammar, in its one canonical spelling
 5. the trust domain is the one that the reader named
 6. the body is that domain's bundle, and bears the same sequence
 7. it continues what the reader holds
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from trustfed.errors import Denied, Invalid
from trustfed.federation import dsse
from trustfed.spiffe import strict_json
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain, shown

PAYLOAD_TYPE = "application/vnd.trustfed.envelope+json"
MAX_BYTES = 716_800
"""700 KiB: the largest envelope that is made or read. In base64 (a third more) it fits, with what is said of it, into one
event of a journal (1 MiB), where every hub and cluster keeps it; a larger one would be read, and then held by nobody."""
MAX_NUMBER = 2**53 - 1
"""The largest epoch or sequence: the largest integer that every JSON reader keeps exact (RFC 8259 §6)."""


@dataclass(frozen=True)
class PublicationKey:
    """The public key (SPKI, DER) that signs a domain's envelopes, and that a grant pins. Invalid unless P-256."""

    spki: bytes
    public_key: EllipticCurvePublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            key = load_der_public_key(self.spki)
        except Exception:  # pyca raises several kinds for bytes that are no key
            raise Invalid("a publication key is not a DER SubjectPublicKeyInfo") from None
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise Invalid("a publication key must be an ECDSA key on P-256")
        # One key has one fingerprint: the other encodings that a lenient parser takes are refused.
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != self.spki:
            raise Invalid("a publication key is not in its one DER form")
        object.__setattr__(self, "public_key", key)

    @classmethod
    def of(cls, key: EllipticCurvePublicKey) -> PublicationKey:
        """The publication key form of a public key, as a key store returns it."""
        return cls(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    @property
    def fingerprint(self) -> str:
        """`sha256:` and 64 hex digits over the SPKI: what both owners compare."""
        return "sha256:" + hashlib.sha256(self.spki).hexdigest()

    @property
    def key_id(self) -> str:
        """The keyid of its signatures: the fingerprint."""
        return self.fingerprint


@functools.total_ordering
@dataclass(frozen=True)
class Level:
    """How far a reader of one trust domain is; ordered by (epoch, sequence) within that domain only.

    Raises Invalid for numbers outside 1 to MAX_NUMBER, and ValueError when levels of two domains are compared.
    """

    trust_domain: TrustDomain
    epoch: int
    sequence: int

    def __post_init__(self) -> None:
        for name, number in (("epoch", self.epoch), ("sequence", self.sequence)):
            if type(number) is not int or not 1 <= number <= MAX_NUMBER:
                raise Invalid(f"{name} of a level must be a whole number from 1 to {MAX_NUMBER}")

    def __lt__(self, other: Level) -> bool:
        if self.trust_domain != other.trust_domain:
            raise ValueError(f"levels of {self.trust_domain} and {other.trust_domain} have no order")
        return (self.epoch, self.sequence) < (other.epoch, other.sequence)

    def __str__(self) -> str:
        return f"{self.trust_domain} {self.epoch}.{self.sequence}"


@dataclass(frozen=True)
class Envelope:
    """A verified envelope: only `open_envelope` makes one. `data` are the exact bytes received, to be passed on."""

    level: Level
    bundle: Bundle
    body: bytes
    data: bytes


def payload_to_sign(level: Level, body: bytes) -> bytes:
    """What the publication key signs for `body` (a SPIFFE bundle document) at `level`: the DSSE PAE bytes.

    Raises Invalid when `body` is not that domain's bundle or does not bear the level's sequence.
    """
    return dsse.encoding_to_sign(PAYLOAD_TYPE, _payload(level, body))


def assemble(level: Level, body: bytes, der_signature: bytes, key: PublicationKey) -> Envelope:
    """The envelope with the signature that a key store made over `payload_to_sign`. It is opened before it is returned,
    so that no envelope leaves that its readers would refuse. Its bytes are `.data`. Raises Invalid or Denied.
    """
    signature = dsse.Signature(key.key_id, der_signature)
    data = dsse.encode(PAYLOAD_TYPE, _payload(level, body), [signature])
    return open_envelope(data, level.trust_domain, key)


def open_envelope(
    data: bytes, trust_domain: TrustDomain, key: PublicationKey, *, after: Envelope | Level | None = None
) -> Envelope:
    """The envelope in `data`, if it is `trust_domain`'s, signed by the pinned `key`, and continues `after`.

    `after` is what the reader holds. A higher level is news. The same level with the same body returns the envelope
    held (idempotent; a signature may differ, what is signed may not); with another body it is a fork. With a bare Level
    the body held is unknown, so the same level is refused. Raises Invalid (form) or Denied (key, domain, level).
    """
    what = f"the envelope of {trust_domain}"
    payload, (signature,) = dsse.decode(data, PAYLOAD_TYPE, what, max_bytes=MAX_BYTES, max_signatures=1)  # 1, 2
    _check_signature(signature, payload, key, what)  # 3
    level, body = _parse_payload(payload, what, trust_domain)  # 4, 5
    bundle = _parse_body(level, body)  # 6
    envelope = Envelope(level, bundle, body, data)
    return envelope if after is None else _continue(envelope, after)  # 7


def _check_signature(signature: dsse.Signature, payload: bytes, key: PublicationKey, what: str) -> None:
    # The keyid is only a hint (it is not signed): it makes a better message, the pinned key decides.
    if signature.key_id != key.key_id:
        raise Denied(
            f"{what} is signed by {shown(signature.key_id)}, but {key.fingerprint} is pinned",
            hint="if its owner confirms the new fingerprint, an operator here must pin it",
        )
    try:
        key.public_key.verify(signature.value, dsse.encoding_to_sign(PAYLOAD_TYPE, payload), ECDSA(SHA256()))
    except InvalidSignature:
        raise Denied(f"{what} has a signature that the pinned key {key.fingerprint} did not make") from None


def _parse_payload(payload: bytes, what: str, trust_domain: TrustDomain) -> tuple[Level, bytes]:
    document = strict_json.parse_object(payload, what=f"the payload of {what}", limit=MAX_BYTES)
    dsse.members(document, {"body", "epoch", "sequence", "trust_domain"}, f"the payload of {what}")
    if document["trust_domain"] != trust_domain.name:
        raise Denied(f"{what} speaks of another trust domain, {shown(document['trust_domain'])}")
    level = Level(trust_domain, _number(document, "epoch", what), _number(document, "sequence", what))
    if not isinstance(document["body"], str):
        raise Invalid(f"the body in {what} is not a string")
    # strict_json refused lone surrogates, so this cannot fail.
    body = document["body"].encode("utf-8")
    if _spell(level, body) != payload:
        raise Invalid(f"the payload of {what} is not spelled in canonical JSON")
    return level, body


def _number(document: dict[str, object], name: str, what: str) -> int:
    value = document[name]
    if not isinstance(value, int):
        raise Invalid(f"{name} in {what} is {shown(value)}, not a whole number")
    return value


def _parse_body(level: Level, body: bytes) -> Bundle:
    bundle = Bundle.parse(level.trust_domain, body)
    if bundle.sequence != level.sequence:
        raise Invalid(f"the bundle in envelope {level} bears spiffe_sequence {bundle.sequence}, not {level.sequence}")
    return bundle


def _continue(envelope: Envelope, after: Envelope | Level) -> Envelope:
    held = after.level if isinstance(after, Envelope) else after
    if held.trust_domain != envelope.level.trust_domain:
        raise Denied(f"envelope {envelope.level} cannot continue {held}: another trust domain")
    if envelope.level > held:
        return envelope
    if envelope.level < held:
        raise Denied(
            f"envelope {envelope.level} goes back: {held} is held",
            hint="an old copy was replayed, or the domain was restored from a backup without a new epoch",
        )
    if isinstance(after, Envelope) and after.body == envelope.body:
        return after
    raise Denied(
        f"envelope {envelope.level} does not continue {held}: the same level with another body",
        hint="two bodies were signed at one level: ask the domain's owner before anything is pinned anew",
    )


def _payload(level: Level, body: bytes) -> bytes:
    _parse_body(level, body)
    return _spell(level, body)


def _spell(level: Level, body: bytes) -> bytes:
    return strict_json.write(
        {
            "body": body.decode("utf-8"),
            "epoch": level.epoch,
            "sequence": level.sequence,
            "trust_domain": level.trust_domain.name,
        }
    )
