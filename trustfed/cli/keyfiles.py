"""Public keys and certificates from files, PEM or DER."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from trustfed.errors import Invalid


def public_key(data: bytes, source: str) -> bytes:
    """The SPKI (DER) of a public key. Raises Invalid."""
    try:
        key = load_pem_public_key(data) if data.lstrip().startswith(b"-----") else load_der_public_key(data)
    except Exception:  # pyca raises several kinds for what is no key
        raise Invalid(f"{source} holds no public key", hint="PEM or DER, SubjectPublicKeyInfo") from None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificates(data: bytes, source: str) -> list[bytes]:
    """The certificates (DER) of a PEM or DER file, in order, at most 256. Raises Invalid."""
    try:
        if data.lstrip().startswith(b"-----"):
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
    except ValueError:
        raise Invalid(f"{source} holds no certificate", hint="PEM or DER") from None
    if len(found) > 256:
        raise Invalid(f"{source} holds {len(found)} certificates", hint="at most 256")
    return [certificate.public_bytes(Encoding.DER) for certificate in found]
