"""How a hub and an auditor know whose a log key is: the domain says so, under the key that signs its envelopes.

DSSE around canonical JSON

    {"trust_domain": name, "vkey": "trustfed/NAME/journal+1a2b3c4d+..."}

The text of the key is C2SP signed-note's; it is taken apart by whoever verifies a note (trustfed.journal.merkle.vkey).
Here only its name is looked at: a domain speaks for logs of its own name and for no others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trustfed.errors import Denied, Invalid
from trustfed.federation import dsse
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.signed_document import encode_document, open_document
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import TrustDomain, shown

PAYLOAD_TYPE = "application/vnd.trustfed.log-key+json"
MAX_BYTES = 4096
_FORM = re.compile(r"(trustfed/[^\s+]{1,500})\+[0-9a-f]{8}\+[A-Za-z0-9+/]{40,100}={0,2}")


@dataclass(frozen=True)
class LogKey:
    """A verified log key: only `open_log_key` makes one. `data` are the exact bytes, to be passed on."""

    trust_domain: TrustDomain
    vkey: str
    data: bytes


def payload_to_sign(trust_domain: TrustDomain, vkey: str) -> bytes:
    """What the publication key signs: the DSSE PAE bytes."""
    return dsse.encoding_to_sign(PAYLOAD_TYPE, _payload(trust_domain, vkey))


def assemble(trust_domain: TrustDomain, vkey: str, der_signature: bytes, key: PublicationKey) -> LogKey:
    """The log key with the signature that a key store made; opened before it is returned. Raises Invalid, Denied."""
    data = encode_document(PAYLOAD_TYPE, _payload(trust_domain, vkey), der_signature, key)
    return open_log_key(data, trust_domain, key)


def open_log_key(data: bytes, trust_domain: TrustDomain, key: PublicationKey) -> LogKey:
    """The log key in `data`, if it is `trust_domain`'s and signed by the pinned `key`.

    Raises Invalid (form) or Denied (key, domain, a key that is named as another domain's).
    """
    what = f"the log key of {trust_domain}"
    document = open_document(data, PAYLOAD_TYPE, what, trust_domain, key, {"trust_domain", "vkey"}, max_bytes=MAX_BYTES)
    vkey = document["vkey"]
    form = _FORM.fullmatch(vkey) if isinstance(vkey, str) else None
    if not isinstance(vkey, str) or form is None:
        raise Invalid(f"{what} is no key of a log: {shown(vkey)}", hint="trustfed/NAME/journal+8 hex digits+base64")
    if form[1].split("/")[1] != trust_domain.name:
        raise Denied(f"{what} is named {shown(form[1])}, which is not a log of that domain")
    return LogKey(trust_domain, vkey, data)


def _payload(trust_domain: TrustDomain, vkey: str) -> bytes:
    return strict_json.write({"trust_domain": trust_domain.name, "vkey": vkey})
