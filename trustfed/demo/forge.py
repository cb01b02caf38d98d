"""A forged identity, made in earnest: the SPIFFE ID of one trust domain, signed by the authority of another.

`ca.issuance` refuses to make such a certificate. Whoever stole an authority's key is not bound by that, so this signs
with the key itself. The impostor then serves with it: TLS is content, since the signing authority is in every pool.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.cacert import sign_with
from ca.keys.open import close_keys, open_keys
from trustfed.cluster.config import ClusterConfig
from trustfed.runtime.config import load
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import KeyPair, server_context


def authorities(bundle: dict[str, Any]) -> list[x509.Certificate]:
    """The X.509 authorities in a SPIFFE bundle document."""
    held = [key["x5c"][0] for key in bundle["keys"] if key["use"] == "x509-svid"]
    return [x509.load_der_x509_certificate(base64.b64decode(text)) for text in held]


def forge(
    config: Path,
    authority: str,
    issuer: x509.Certificate,
    spiffe_id: str,
    life: timedelta = timedelta(minutes=5),
) -> KeyPair:
    """A key and a certificate for `spiffe_id`, signed by the cluster's X.509 authority (`issuer`: its twin)."""
    settings = load(config, ClusterConfig)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC).replace(microsecond=0)
    template = _template(issuer, key, spiffe_id, now, now + life)

    async def sign() -> bytes:
        keys = open_keys(replace(settings.keys.within(settings.data_dir), workers=0))
        try:
            signer = issuer.public_key()
            assert isinstance(signer, ec.EllipticCurvePublicKey)
            return await sign_with(keys, f"x509-{authority}", signer, template)
        finally:
            await close_keys(keys)

    return KeyPair((asyncio.run(sign()),), key)


@contextlib.contextmanager
def impostor(keypair: KeyPair, address: str = "127.0.0.1:0") -> Iterator[str]:
    """A server that shows `keypair` to whoever connects, at the HOST:PORT given, until the block ends."""
    context = server_context(keypair, (), client="none")
    listener = socket.create_server(parse_address(address))
    listener.settimeout(0.2)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(2)
                with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True) as wrapped:
                    if wrapped.recv(100):
                        wrapped.sendall(b'{"served_by": "the impostor"}\n')

    thread = threading.Thread(target=serve, name="impostor", daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        thread.join(3)
        listener.close()


def _template(
    issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, spiffe_id: str, now: datetime, end: datetime
) -> bytes:
    """What is to be signed: an X509-SVID in every respect (X509-SVID §2 to §4)."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1)
        .not_valid_before(now - timedelta(seconds=10))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    # pyca signs with keys that it holds; the signature made here is thrown away, its content is what the store signs.
    return builder.sign(key, hashes.SHA256()).tbs_certificate_bytes
