"""The load client joins a trustfed cluster as a node, so that it may ask for SVIDs as an agent does."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from trustfed.federation import enrolment, roots
from trustfed.federation.token import EnrolmentToken
from trustfed.runtime import https_client
from trustfed.runtime.tls import client_context

ATTEST = "/v1/node/attest"


def attest(text: str, directory: Path, bundle: str) -> None:
    """Leave svid.pem, key.pem and bundle.pem in `directory`. `bundle` is the cluster's X.509 authorities as PEM.

    Raises trustfed.errors.TrustfedError when the token in `text` or the node is refused.
    """
    token = EnrolmentToken.decode(text, "node")
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    request = {
        "attestor": "join_token",
        "payload": text,
        "public_key": enrolment.text(public),
        "software": "bench",
    }
    proof = key.sign(enrolment.proof_input(enrolment.ATTEST, request), ec.ECDSA(hashes.SHA256()))
    documents = https_client.root_documents(token.host, token.port)
    root_set = roots.pinned(documents, token.root_version, token.root_hash, datetime.now(UTC))
    door = https_client.Server(
        token.host, token.port, client_context(None, root_set.roots), https_client.exactly(token.server_id)
    )
    answer = https_client.post(door, ATTEST, {**request, "proof": enrolment.text(proof)})
    chain = answer["chain"]
    assert isinstance(chain, list)
    certificates = [x509.load_der_x509_certificate(base64.b64decode(one)) for one in chain]
    write_private(directory / "svid.pem", b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    write_private(directory / "key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_private(directory / "bundle.pem", bundle.encode())


def write_private(path: Path, data: bytes) -> None:
    """A file that only we can read."""
    path.touch(mode=0o600)
    path.write_bytes(data)
