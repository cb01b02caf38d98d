"""mTLS between two workloads: the handshake proves a key, the verification behind it says whose it is."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trustfed.errors import TrustfedError, Unavailable
from trustfed.runtime.tls import KeyPair, ReloadingContext, client_context, peer_chain
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

SECONDS = 5.0
MAX_LINE = 4_096


@dataclass(frozen=True)
class Identity:
    """One push of the Workload API: who we are, and the bundle of each trust domain we may believe."""

    id: SpiffeId
    keypair: KeyPair
    bundles: BundleMap
    serial: str
    authority: str
    received: float  # Unix seconds
    client: ssl.SSLContext

    @property
    def anchors(self) -> list[bytes]:
        """All authorities in one pool: what TLS libraries ask for, and why TLS alone proves no trust domain."""
        return [der for bundle in self.bundles.bundles.values() for der in bundle.x509_authorities]


@dataclass(frozen=True)
class Call:
    """A call that was answered: the peer's ID as verified, and the authority that signed its SVID."""

    peer: SpiffeId
    authority: str


@dataclass(frozen=True)
class Refusal:
    """A call that came to nothing; `handshake`: TLS had been content."""

    reason: str
    handshake: bool


def read_identity(context: Any, now: float, wanted: str = "") -> Identity:
    """The library's X509Context in our types: the identity `wanted`, else the default one. Raises Unavailable without it."""
    svid = context.default_svid
    if wanted:
        svid = next((one for one in context.x509_svids if str(one.spiffe_id) == wanted), None)
        if svid is None:
            raise Unavailable(f"there is no SVID {wanted} just now")
    chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in svid.cert_chain)
    bundles = {}
    for held in context.x509_bundle_set.bundles:
        domain = TrustDomain.parse(str(held.trust_domain.name))
        ders = sorted(authority.public_bytes(Encoding.DER) for authority in held.x509_authorities)
        bundles[domain] = Bundle(domain, tuple(ders))
    keypair = KeyPair(chain, svid.private_key)
    anchors = [der for bundle in bundles.values() for der in bundle.x509_authorities]
    return Identity(
        SpiffeId.parse(str(svid.spiffe_id)),
        keypair,
        BundleMap(bundles),
        serial_text(svid.leaf.serial_number),
        authority_of(chain[0]),
        now,
        client_context(keypair, anchors),
    )


def authority_of(leaf: bytes) -> str:
    """The id of the authority that a leaf names as its issuer ("NAME authority ID")."""
    names = x509.load_der_x509_certificate(leaf).issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value).rpartition(" ")[2] if names else ""


async def call(host: str, port: int, identity: Identity, peer_id: SpiffeId) -> Call | Refusal:
    """Call HOST:PORT once over a new connection; only `peer_id`, by its own trust domain's bundle, is talked to."""
    handshake = False
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=identity.client, limit=MAX_LINE)
            handshake = True
            try:
                chain = peer_chain(writer.get_extra_info("ssl_object"))
                peer = verify_x509_svid(
                    chain, identity.bundles.bundle(peer_id.trust_domain), datetime.now(UTC), expected=peer_id
                )
                writer.write(b'{"order": 1}\n')
                answer = json.loads(await reader.readline() or b'{"refused": "the server ended the connection"}')
            finally:
                writer.transport.abort()
    except TrustfedError as error:
        return Refusal(error.message, handshake)
    except TimeoutError:
        return Refusal(f"no answer within {SECONDS:.0f} s", handshake)
    except ssl.SSLError as error:
        return Refusal("TLS: " + (error.reason or str(error)).replace("_", " ").lower(), handshake)
    except (OSError, ValueError) as error:
        return Refusal(str(error), handshake)
    if answer.get("refused"):
        return Refusal(f"the server refused us: {answer['refused']}", handshake)
    return Call(peer.id, authority_of(chain[0]))


async def serve(
    listener: socket.socket,
    identity: Callable[[], Identity],
    peer_id: SpiffeId,
    told: Callable[[SpiffeId | None, str], None],
) -> Callable[[Identity], None]:
    """Answer `peer_id` and nobody else on `listener`; the function returned puts a newer identity to use."""
    tls = ReloadingContext(identity().keypair, identity().anchors)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                try:
                    chain = peer_chain(writer.get_extra_info("ssl_object"))
                    bundle = identity().bundles.bundle(peer_id.trust_domain)
                    svid = verify_x509_svid(chain, bundle, datetime.now(UTC), expected=peer_id)
                except TrustfedError as error:
                    told(None, error.message)
                    said = {"refused": error.message}
                else:
                    await reader.readline()
                    told(svid.id, "")
                    said = {"served_by": str(identity().id), "caller": str(svid.id)}
                writer.write(json.dumps(said).encode() + b"\n")
                await writer.drain()
                writer.write_eof() if writer.can_write_eof() else None
                await reader.read(1)
        except (OSError, TimeoutError, ValueError):
            pass  # the caller has gone
        finally:
            writer.transport.abort()

    await asyncio.start_server(answer, sock=listener, ssl=tls.context, limit=MAX_LINE, ssl_handshake_timeout=SECONDS)

    def update(newer: Identity) -> None:
        tls.replace(newer.keypair, newer.anchors)

    return update
