"""How a domain's word on its mesh travels: DSSE around canonical JSON

    {"body": {...}, "kind": "gateway" | "export" | "import", "name": text, "sequence": int >= 1, "trust_domain": name}

signed by the domain's publication key under a type of its own. So the hub decides who hears of what, and can hold news
back, but it can neither send a caller to another gateway nor let another identity answer. `sequence` rises with every
statement of a domain: an importer never goes back to an older one of the same kind and name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trustfed.errors import Invalid
from trustfed.federation import dsse
from trustfed.federation.envelope import MAX_NUMBER, PublicationKey
from trustfed.federation.mesh import MAX_BYTES, Item, Kind, body_of, check_own, item_of, kind_of
from trustfed.federation.signed_document import encode_document, open_document
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import TrustDomain, shown

PAYLOAD_TYPE = "application/vnd.trustfed.mesh+json"
_MEMBERS = {"body", "kind", "name", "sequence", "trust_domain"}
_AROUND = 512  # bytes of a DSSE envelope beside its payload: names, keyid, one P-256 signature; 330 at most


@dataclass(frozen=True)
class Statement:
    """A verified statement: only `open_statement` makes one. `data` are the exact bytes, to be passed on."""

    trust_domain: TrustDomain
    kind: Kind
    name: str
    sequence: int
    item: Item
    data: bytes = field(repr=False)


def payload_to_sign(trust_domain: TrustDomain, item: Item, sequence: int) -> bytes:
    """What the publication key signs: the DSSE PAE bytes."""
    return dsse.encoding_to_sign(PAYLOAD_TYPE, _payload(trust_domain, item, sequence))


def assemble(
    trust_domain: TrustDomain, item: Item, sequence: int, der_signature: bytes, key: PublicationKey
) -> Statement:
    """The statement with the signature that a key store made; opened before it is returned. Raises Invalid, Denied."""
    payload = _payload(trust_domain, item, sequence)
    data = encode_document(PAYLOAD_TYPE, payload, der_signature, key)
    return open_statement(data, trust_domain, key)


def check_size(trust_domain: TrustDomain, item: Item) -> None:
    """Raise Invalid if no statement of `item`, whatever its sequence, would be small enough to be read."""
    size = (len(_payload(trust_domain, item, MAX_NUMBER)) + 2) // 3 * 4 + _AROUND
    if size > MAX_BYTES:
        raise Invalid(
            f"{kind_of(item)} {item.name} would be {size} bytes long when it is told to others",
            hint=f"at most {MAX_BYTES}: name whole trust domains (spiffe://DOMAIN) instead of many callers",
        )


def open_statement(data: bytes, trust_domain: TrustDomain, key: PublicationKey) -> Statement:
    """The statement in `data`, if it is `trust_domain`'s and signed by the pinned `key`.

    Raises Invalid (form, or an item that is not valid) or Denied (key, domain, an export that another domain answers).
    """
    what = f"the mesh statement of {trust_domain}"
    document = open_document(data, PAYLOAD_TYPE, what, trust_domain, key, _MEMBERS, max_bytes=MAX_BYTES)
    kind, body, sequence = document["kind"], document["body"], document["sequence"]
    if not isinstance(kind, str) or not isinstance(body, dict) or type(sequence) is not int:
        raise Invalid(f"a member of {what} has the wrong type")
    if not 1 <= sequence <= MAX_NUMBER:
        raise Invalid(f"the sequence of {what} is {shown(sequence)}", hint=f"1 to {MAX_NUMBER}")
    item = item_of(kind, body)
    if item.name != document["name"]:
        raise Invalid(f"{what} is named {shown(document['name'])}, what it says {shown(item.name)}")
    check_own(trust_domain, item)
    return Statement(trust_domain, kind_of(item), item.name, sequence, item, data)


def _payload(trust_domain: TrustDomain, item: Item, sequence: int) -> bytes:
    return strict_json.write(
        {
            "body": body_of(item),
            "kind": kind_of(item),
            "name": item.name,
            "sequence": sequence,
            "trust_domain": trust_domain.name,
        }
    )
