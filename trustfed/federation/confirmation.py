"""What keeps a silent bundle apart from a withheld one: the domain itself says, now and then, "this is still my newest".

A hub or a mirror can hold news back; it cannot make a confirmation. DSSE around canonical JSON

    {"at": Unix seconds, "epoch": int >= 1, "sequence": int >= 1, "trust_domain": name}

signed by the publication key that signs the domain's envelopes, under a type of its own, so that neither stands for the other.
A reader counts a bundle as fresh from `at` of the newest confirmation of its level, never from when it arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trustfed.errors import Denied, Invalid
from trustfed.federation import dsse
from trustfed.federation.envelope import Level, PublicationKey
from trustfed.federation.signed_document import encode_document, open_document
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import TrustDomain

PAYLOAD_TYPE = "application/vnd.trustfed.confirmation+json"
MAX_BYTES = 4096
MAX_AHEAD = timedelta(minutes=5)
"""How far in the reader's future `at` may lie: the clocks of one federation differ by seconds."""
_MEMBERS = {"at", "epoch", "sequence", "trust_domain"}
_LAST = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second that a datetime holds


@dataclass(frozen=True)
class Confirmation:
    """A verified confirmation: only `open_confirmation` makes one. `data` are the exact bytes, to be passed on."""

    level: Level
    at: datetime
    data: bytes


def payload_to_sign(level: Level, at: datetime) -> bytes:
    """What the publication key signs: the DSSE PAE bytes."""
    return dsse.encoding_to_sign(PAYLOAD_TYPE, _payload(level, at))


def assemble(level: Level, at: datetime, der_signature: bytes, key: PublicationKey) -> Confirmation:
    """The confirmation with the signature that a key store made; opened before it is returned. Raises Invalid, Denied."""
    data = encode_document(PAYLOAD_TYPE, _payload(level, at), der_signature, key)
    return open_confirmation(data, level.trust_domain, key, at)


def open_confirmation(data: bytes, trust_domain: TrustDomain, key: PublicationKey, now: datetime) -> Confirmation:
    """The confirmation in `data`, if it is `trust_domain`'s, signed by the pinned `key`, and not of the future.

    Raises Invalid (form) or Denied (key, domain, time).
    """
    what = f"the confirmation of {trust_domain}"
    document = open_document(data, PAYLOAD_TYPE, what, trust_domain, key, _MEMBERS, max_bytes=MAX_BYTES)
    epoch, sequence, at = document["epoch"], document["sequence"], document["at"]
    if type(epoch) is not int or type(sequence) is not int or type(at) is not int or not 0 <= at <= _LAST:
        raise Invalid(f"a number in {what} is not one")
    level, moment = Level(trust_domain, epoch, sequence), datetime.fromtimestamp(at, UTC)
    if moment > now + MAX_AHEAD:
        raise Denied(f"{what} is of {moment.isoformat()}, which has not come yet", hint="check both clocks")
    return Confirmation(level, moment, data)


def _payload(level: Level, at: datetime) -> bytes:
    seconds = int(at.timestamp())
    return strict_json.write(
        {
            "at": seconds,
            "epoch": level.epoch,
            "sequence": level.sequence,
            "trust_domain": level.trust_domain.name,
        }
    )
