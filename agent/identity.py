"""What makes this process the agent of its node: its SVID and key, and whom it trusts. One file, replaced as a whole.

Whoever reads `identity.json` can act as this node until it is banned or the SVID and the renewal window have ended;
whoever changes it can make the agent believe another cluster. It is 0600 in a folder 0700. No workload's key is in it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from agent import addresses
from trustfed.errors import Invalid, NotFound, TrustfedError
from trustfed.federation.envelope import Envelope, PublicationKey, open_envelope
from trustfed.runtime import logs
from trustfed.runtime.files import read_private, write_atomic
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.certificate import read
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.x509svid import X509Svid, parse_leaf

log = logs.get("agent.identity")

_MAX_BYTES = 64 * 1024 * 1024
_VERSION = 1


@dataclass(frozen=True)
class NodeIdentity:
    """One state of the node's identity. `door` is host and port of the cluster's HTTPS door that answered last, `grpc`
    likewise HOST:PORT; the two lists are all addresses that the cluster has told, in its order of preference."""

    svid: X509Svid
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    issued_at: datetime
    door: tuple[str, int]
    grpc: str
    server_id: SpiffeId
    publication_key: PublicationKey
    home: Envelope
    grpc_addresses: tuple[str, ...] = ()
    https_addresses: tuple[str, ...] = ()

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain of this node."""
        return self.svid.id.trust_domain

    def keypair(self) -> KeyPair:
        """For TLS."""
        return KeyPair(self.svid.chain, self.key)

    def marshal(self) -> bytes:
        """As JSON. It holds the private key."""
        document = {
            "version": _VERSION,
            "key": _text(private_bytes(self.key)),
            "chain": [_text(der) for der in self.svid.chain],
            "issued_at_ms": to_ms(self.issued_at),
            "door": list(self.door),
            "grpc": self.grpc,
            "server_id": str(self.server_id),
            "publication_key": _text(self.publication_key.spki),
            "envelope": _text(self.home.data),
            "grpc_addresses": list(self.grpc_addresses),
            "https_addresses": list(self.https_addresses),
        }
        return json.dumps(document).encode()

    @classmethod
    def parse(cls, data: bytes) -> NodeIdentity:
        """What `marshal` wrote. Raises Invalid for anything else."""
        try:
            document: dict[str, Any] = json.loads(data)
            if document["version"] != _VERSION:
                raise Invalid("it was written by another version of trustfed")
            key = load_der_private_key(_binary(document["key"]), None)
            chain = tuple(_binary(item) for item in document["chain"])
            svid = replace(parse_leaf(chain[0]), chain=chain)
            publication_key = PublicationKey(_binary(document["publication_key"]))
            host, port = document["door"]
            identity = cls(
                svid,
                checked_key(key, chain[0]),
                from_ms(document["issued_at_ms"]),
                (str(host), int(port)),
                str(document["grpc"]),
                SpiffeId.parse(document["server_id"]),
                publication_key,
                open_envelope(_binary(document["envelope"]), svid.id.trust_domain, publication_key),
                # A node that enrolled before clusters had several addresses has no lists.
                addresses.usable(document.get("grpc_addresses", ())),
                addresses.usable(document.get("https_addresses", ())),
            )
        except (KeyError, ValueError, TypeError, IndexError, RecursionError):
            raise Invalid("it is damaged") from None
        return identity


class IdentityFile:
    """`identity.json` in the agent's data folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "identity.json"

    def load(self) -> NodeIdentity | None:
        """The identity, None before enrolment. Raises Invalid when the file is damaged, or open to others."""
        try:
            data = read_private(self._path, _MAX_BYTES)
        except NotFound:
            return None
        try:
            return NodeIdentity.parse(data)
        except TrustfedError as error:
            raise Invalid(
                f"{self._path} cannot be used: {error.message}",
                hint="move it away and enrol this node with a new token: trustfed node token",
            ) from None

    def save(self, identity: NodeIdentity) -> None:
        """Replace it, durably. Raises Unavailable, Denied."""
        write_atomic(self._path, identity.marshal())


class Node:
    """The identity as it is now. What cannot be written is kept in memory, alarmed, and written with the next change."""

    def __init__(self, identity: NodeIdentity, file: IdentityFile, registry: Registry) -> None:
        self.identity = identity
        self._file = file
        self._lock = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._unsaved = registry.gauge(
            "agent_identity_unsaved", "1 while the node's identity could not be written to disk"
        )

    def on_svid(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the node has a new SVID."""
        self._listeners.append(listener)

    async def adopt(self, change: Callable[[NodeIdentity], NodeIdentity]) -> None:
        """Use a changed identity from now on, and keep it."""
        async with self._lock:
            before, self.identity = self.identity, change(self.identity)
            if self.identity.svid is not before.svid:
                for listener in self._listeners:
                    listener()
            try:
                await asyncio.to_thread(self._file.save, self.identity)
                self._unsaved.set(0)
            except TrustfedError as error:
                self._unsaved.set(1)
                log.error("identity not written; it is lost if this process ends", error=error.message, hint=error.hint)


def private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 DER, not encrypted. Never log it."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half as SubjectPublicKeyInfo DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def checked_key(key: object, leaf: bytes) -> ec.EllipticCurvePrivateKey:
    """`key`, if it is P-256 and the leaf certifies it. Raises Invalid."""
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("the node's key is not an ECDSA key on P-256")
    if read(leaf, "the node's SVID").public_key != key.public_key():
        raise Invalid("the node's SVID certifies another key")
    return key


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _binary(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
