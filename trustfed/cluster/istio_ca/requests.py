"""What a certificate request of Istio's protocol may say. Pure.

Of the request (PKCS#10) only the key counts, and that its holder signed it; the identity comes from the token. The steps:

 1. one PEM block of at most MAX_CSR characters  2. form  3. key kind and size, before anything is computed with it
 4. a signature algorithm we accept, and the signature (RFC 2986 §4.2)
 5. a URI among its names must be the very identity that will be given: a caller that means another one is told so
"""

from __future__ import annotations

import re

from cryptography import x509

from ca.malformed import MALFORMED
from ca.publickeys import check_public_key, spki_of
from trustfed.errors import Denied, Invalid
from trustfed.proto import istio_ca_pb2 as pb
from trustfed.spiffe.ids import SpiffeId, shown

MAX_CSR = 8 * 1024
IMPERSONATED, SIGNER = "ImpersonatedIdentity", "CertSigner"
_HASHES = ("sha256", "sha384", "sha512")
_ONE_BLOCK = re.compile(
    r"\s*-----BEGIN (NEW )?CERTIFICATE REQUEST-----[A-Za-z0-9+/=\s]+-----END (NEW )?CERTIFICATE REQUEST-----\s*",
    re.ASCII,
)
_WHAT = "the certificate request"


def impersonated(request: pb.IstioCertificateRequest) -> str:
    """For whom a ztunnel asks, "" if for nobody. Raises Invalid for metadata that asks for what does not exist here."""
    fields = request.metadata.fields
    for name in (IMPERSONATED, SIGNER):
        if name in fields and fields[name].WhichOneof("kind") not in ("string_value", "null_value"):
            raise Invalid(f"the metadata {name} is no text")
    if SIGNER in fields and fields[SIGNER].string_value:
        raise Invalid("the metadata names a Kubernetes signer, and there is none here", hint="leave CertSigner out")
    return fields[IMPERSONATED].string_value if IMPERSONATED in fields else ""


def possessed_key(text: str) -> tuple[bytes, tuple[str, ...]]:
    """(SubjectPublicKeyInfo in DER, URI names) of a request, steps 1 to 4. Raises Invalid."""
    if len(text) > MAX_CSR:  # 1
        raise Invalid(f"{_WHAT} has {len(text)} characters", hint=f"at most {MAX_CSR}")
    if not _ONE_BLOCK.fullmatch(text):
        raise Invalid(f"{_WHAT} is not one PEM block", hint="CERTIFICATE REQUEST")
    try:
        request = x509.load_pem_x509_csr(text.encode())  # 2
        key = request.public_key()
    except MALFORMED as error:
        raise Invalid(f"{_WHAT} is malformed or its key is of an unknown kind") from error
    check_public_key(key)  # 3
    try:
        used = request.signature_hash_algorithm  # 4
        if used is None or used.name not in _HASHES:
            raise Invalid(f"{_WHAT} is signed with an algorithm that is not accepted", hint="SHA-256 or stronger")
        possessed = request.is_signature_valid
        names = [
            name.value
            for extension in request.extensions
            if isinstance(extension.value, x509.SubjectAlternativeName)
            for name in extension.value
            if isinstance(name, x509.UniformResourceIdentifier)
        ]
    except MALFORMED as error:
        raise Invalid(f"{_WHAT} has a malformed extension or signature") from error
    if not possessed:
        raise Invalid(f"{_WHAT}'s signature does not hold", hint="sign it with the key that is in it")
    return spki_of(key), tuple(names)  # type: ignore[arg-type]  # check_public_key refused every other kind


def check_names(names: tuple[str, ...], given: SpiffeId) -> None:
    """Step 5. Raises Denied when a request names another identity than the one its caller has."""
    for name in names:
        if name != str(given):
            raise Denied(
                f"{_WHAT} names {shown(name)}, its caller is {given}",
                hint="is the mesh's trust domain (meshConfig.trustDomain) this one?",
            )
    if len(names) > 1:
        raise Denied(f"{_WHAT} has {len(names)} URI names", hint="an SVID has one (X509-SVID §2)")
