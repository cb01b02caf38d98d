"""One authority of a trust domain: its names, its self-signed twin, and its request to the root.

The twin and the root-signed intermediate carry the same subject and key, so one leaf verifies under either. The subject
is unique per authority: a verifier that pools anchors finds the one right issuer by name. The root derives the subject
from the registry's names and takes only the key from a request.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca import der
from ca.cacert import CaFields, ca_tbs, new_serial, sign_with
from ca.keys.port import KeyStore
from ca.malformed import MALFORMED
from ca.profiles import TWIN
from ca.publickeys import check_public_key, key_id, spki_of
from ca.record import Randomness
from trustfed.errors import Denied, Invalid
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.verify import EXTERNAL

MAX_CSR = 4096  # bytes; a P-384 request with a long name takes 400

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,19}", re.ASCII)
_MAX_COMMON_NAME = 64  # RFC 5280 appendix A, ub-common-name


def new_authority_id(randomness: Randomness) -> str:
    """A fresh authority id: 16 lower-case hex digits. It is the kid of a JWT authority and part of an X.509 subject."""
    return randomness(8).hex()


def authority_subject(trust_domain: TrustDomain, authority: str, *, external: bool = False) -> x509.Name:
    """The subject of one authority, unique per authority: CN = "<trust domain> authority <id>"; `external` ones are marked.

    A common name has room for 64 characters and a trust domain for 255: a long one is cut and told apart by its hash.
    Raises Invalid for a malformed id.
    """
    if not isinstance(authority, str) or not _ID.fullmatch(authority):
        raise Invalid(f"authority id {str(authority)[:40]!r} is malformed", hint="1 to 20 of a-z, 0-9 and '-'")
    tail = f"{EXTERNAL if external else ' authority '}{authority}"
    name = trust_domain.name
    room = _MAX_COMMON_NAME - len(tail)
    if len(name) > room:
        # "~" occurs in no trust domain, so a cut name is never another domain's full one.
        name = name[: room - 17] + "~" + hashlib.sha256(name.encode()).hexdigest()[:16]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name + tail)])


async def make_twin(
    trust_domain: TrustDomain,
    authority: str,
    key_name: str,
    keys: KeyStore,
    *,
    not_after: datetime,
    now: datetime,
    randomness: Randomness,
) -> bytes:
    """The self-signed twin (DER): the anchor that the domain's SPIFFE bundle carries (X509-SVID §2, Bundle §4.2).

    No name constraint: a SPIFFE verifier binds anchor and domain in code, and some verifiers refuse URI constraints.
    Its serial is on record in the event that prepares the authority; it certifies nothing that is not in that event.
    """
    key = await keys.public_key(key_name)
    subject = authority_subject(trust_domain, authority)
    fields = CaFields(subject, key, subject, key_id(key), not_after, trust_domain=trust_domain)
    return await sign_with(keys, key_name, key, ca_tbs(TWIN, fields, new_serial(randomness), now))


async def make_authority_csr(trust_domain: TrustDomain, authority: str, key_name: str, keys: KeyStore) -> bytes:
    """A PKCS#10 request (DER, RFC 2986 §4) that proves possession of the authority's key to the root."""
    key = await keys.public_key(key_name)
    subject = authority_subject(trust_domain, authority).public_bytes()
    no_attributes = b"\xa0\x00"
    info = der.tlv(der.SEQUENCE, der.integer(0) + subject + spki_of(key) + no_attributes)
    return await sign_with(keys, key_name, key, info)


def check_csr(csr: bytes, trust_domain: TrustDomain, authority: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose signature holds and whose subject is this authority's.

    1. size  2. form  3. key kind and size  4. subject  5. nothing else asked for  6. possession (RFC 2986 §4.2).
    Raises Invalid for 1, 2, 3, 5, 6 and Denied for 4: the request speaks for another authority.
    """
    hint = "make a new request on the cluster"
    if len(csr) > MAX_CSR:  # 1
        raise Invalid(f"the certificate request has {len(csr)} bytes", hint=f"at most {MAX_CSR}")
    try:
        request = x509.load_der_x509_csr(csr)  # 2
        key = request.public_key()
    except MALFORMED as error:
        raise Invalid("the certificate request is malformed or its key is of an unknown kind", hint=hint) from error
    check_public_key(key)  # 3
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("an authority's key must be an EC key", hint="use P-256")
    try:
        if request.subject != authority_subject(trust_domain, authority):  # 4
            raise Denied(f"the certificate request is not for authority {authority} of {trust_domain}", hint=hint)
        if len(request.attributes) or request.public_bytes(Encoding.DER) != csr:  # 5
            raise Invalid("the certificate request asks for attributes; they come from the registry", hint=hint)
    except MALFORMED as error:
        raise Invalid("the certificate request has a malformed subject or attribute", hint=hint) from error
    try:
        possessed = request.is_signature_valid  # 6
    except MALFORMED as error:
        raise Invalid("the certificate request's signature algorithm is not accepted", hint=hint) from error
    if not possessed:
        raise Invalid("the certificate request's signature does not hold", hint=hint)
    return key
