"""TLS from an SVID, with real handshakes on loopback: who may connect, what is seen of him, what can be replaced."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trustfed.errors import Denied, Invalid
from trustfed.runtime.tls import KeyPair, ReloadingContext, client_context, peer_chain, server_context
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
WEST, EAST = TrustDomain("west"), TrustDomain("east")


@dataclass(frozen=True)
class Authority:
    """One authority as docs/concepts.md has it: one key and subject, a self-signed twin, a root-signed intermediate."""

    domain: TrustDomain
    key: ec.EllipticCurvePrivateKey
    twin: bytes
    intermediate: bytes

    def svid(self, path: str, *, domain: TrustDomain | None = None, minutes: int = 60, root: bool = False) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        end = NOW + dt.timedelta(minutes=minutes)
        issuer = x509.load_der_x509_certificate(self.twin).subject
        uri = x509.UniformResourceIdentifier((domain or self.domain).id + path)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            builder_of(x509.Name([]), issuer, key, end)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(usage(ca=False), True)
            .add_extension(x509.ExtendedKeyUsage(usages), False)
            .add_extension(x509.SubjectAlternativeName([uri]), True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        )
        leaf = builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)
        return KeyPair((leaf, self.intermediate) if root else (leaf,), key)


def usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)


def builder_of(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: dt.datetime
) -> x509.CertificateBuilder:
    start = NOW - dt.timedelta(days=1)
    return x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), start, end)


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = (
    builder_of(named("root"), named("root"), ROOT_KEY, NOW + dt.timedelta(days=9))
    .add_extension(x509.BasicConstraints(True, 1), True)
    .add_extension(usage(ca=True), True)
    .add_extension(x509.SubjectKeyIdentifier.from_public_key(ROOT_KEY.public_key()), False)
    .sign(ROOT_KEY, hashes.SHA256())
    .public_bytes(Encoding.DER)
)


def authority(domain: TrustDomain) -> Authority:
    key, end = ec.generate_private_key(ec.SECP256R1()), NOW + dt.timedelta(days=5)
    subject = named(f"{domain} authority 1")

    def common(issuer: x509.Name) -> x509.CertificateBuilder:
        uri = x509.UniformResourceIdentifier(domain.id)
        return (
            builder_of(subject, issuer, key, end)
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(usage(ca=True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.SubjectAlternativeName([uri]), False)
        )

    constraints = x509.NameConstraints([x509.UniformResourceIdentifier(domain.name)], [x509.DNSName("")])
    return Authority(
        domain,
        key,
        common(subject).sign(key, hashes.SHA256()).public_bytes(Encoding.DER),
        common(named("root"))
        .add_extension(constraints, True)
        .sign(ROOT_KEY, hashes.SHA256())
        .public_bytes(Encoding.DER),
    )


A, B = authority(WEST), authority(EAST)
HUB = A.svid("/trustfed/hub")


@dataclass
class Seen:
    """What one handshake showed to either side; `refused` is the error of whoever refused."""

    client_chain: tuple[bytes, ...] | None = None
    server_chain: tuple[bytes, ...] | None = None
    resumed: bool | None = None
    refused: str = ""


async def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> Seen:
    """One connection, a few bytes each way, so that a late refusal in TLS 1.3 is seen too."""
    seen = Seen()
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.client_chain = peer_chain(writer.get_extra_info("ssl_object"))
            writer.write(await reader.readexactly(2))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            served.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    try:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="")
        connection = writer.get_extra_info("ssl_object")
        seen.server_chain, seen.resumed = peer_chain(connection), connection.session_reused
        assert connection.version() == "TLSv1.3"
        writer.write(b"hi")
        assert await reader.readexactly(2) == b"hi"
        writer.close()
        await asyncio.wait_for(served.wait(), 20)
    except (ssl.SSLError, OSError, asyncio.IncompleteReadError) as error:
        seen.refused = getattr(error, "verify_message", "") or getattr(error, "reason", "") or type(error).__name__
    finally:
        listener.close()
    return seen


async def test_mutual_and_each_side_sees_the_chain_sent() -> None:
    node = B.svid("/trustfed/node/n1")
    seen = await shake(server_context(HUB, [A.twin, B.twin]), client_context(node, [A.twin]))
    assert not seen.refused and seen.client_chain == node.chain
    # OpenSSL adds the anchor that issued it; nothing else of the pool.
    assert seen.server_chain == (*HUB.chain, A.twin)


async def test_root_chains_verify_against_the_root_through_a_constrained_intermediate() -> None:
    hub, cluster = A.svid("/trustfed/hub", root=True), B.svid("/trustfed/cluster", root=True)
    seen = await shake(server_context(hub, [ROOT]), client_context(cluster, [ROOT]))
    assert not seen.refused and seen.client_chain == cluster.chain and len(cluster.chain) == 2
    assert seen.server_chain == hub.chain


async def test_name_constraints_hold_in_tls() -> None:
    """East's intermediate cannot speak for west: OpenSSL refuses it against the root."""
    forged = B.svid("/trustfed/cluster", domain=WEST, root=True)
    seen = await shake(server_context(HUB, [ROOT]), client_context(forged, [A.twin]))
    assert seen.refused and not seen.client_chain


async def test_the_wrong_domain_passes_the_pool_and_is_refused_in_code() -> None:
    """A west ID signed by east's twin: TLS pools both anchors and lets it in; the verification in code does not."""
    forged = B.svid("/payments", domain=WEST)
    seen = await shake(server_context(HUB, [A.twin, B.twin]), client_context(forged, [A.twin]))
    assert not seen.refused and seen.client_chain == forged.chain
    with pytest.raises(Denied):
        verify_x509_svid(seen.client_chain, Bundle(WEST, (A.twin,)), NOW)
    with pytest.raises(Denied):
        verify_x509_svid(seen.client_chain, Bundle(EAST, (B.twin,)), NOW)
    good = A.svid("/payments")
    assert verify_x509_svid(good.chain, Bundle(WEST, (A.twin,)), NOW).id.trust_domain == WEST


async def test_clients_without_or_with_a_bad_certificate() -> None:
    required, optional = server_context(HUB, [A.twin]), server_context(HUB, [A.twin], "optional")
    none = server_context(HUB, [], "none")
    nobody, expired = client_context(None, [A.twin]), client_context(A.svid("/x", minutes=-5), [A.twin])
    stranger = client_context(B.svid("/x"), [A.twin])
    for context in (nobody, expired, stranger):
        seen = await shake(required, context)
        assert seen.refused and seen.client_chain is None
    assert (await shake(optional, nobody)).client_chain == ()
    for context in (expired, stranger):
        assert (await shake(optional, context)).refused
    assert (await shake(none, stranger)).client_chain == ()


async def test_servers_with_a_bad_certificate() -> None:
    for keypair in (A.svid("/trustfed/hub", minutes=-5), B.svid("/trustfed/hub")):
        seen = await shake(server_context(keypair, [], "none"), client_context(None, [A.twin]))
        assert seen.refused and seen.server_chain is None


async def test_older_tls_is_refused() -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert (await shake(server_context(HUB, [], "none"), old)).refused


def test_nothing_is_resumed() -> None:
    """Even a client that wants to resume gets no ticket, so that its certificate is asked for each time."""
    server, client = server_context(HUB, [A.twin]), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    load(client, A.svid("/x"))
    session = None
    for _ in range(3):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        there = server.wrap_bio(to_server, to_client, server_side=True)
        here = client.wrap_bio(to_client, to_server, session=session)
        for side in (here, there) * 4:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        there.write(b"x")
        assert here.read(1) == b"x"
        assert not here.session_reused and not there.session_reused and peer_chain(there)
        session = here.session
        assert session is None or not session.has_ticket


def load(context: ssl.SSLContext, keypair: KeyPair) -> None:
    """A client that is not ours: only its certificate is."""
    file = os.memfd_create("x")
    os.write(file, keypair.chain_pem() + keypair.key_pem())
    context.load_cert_chain(f"/proc/self/fd/{file}")
    os.close(file)


def leaf(seen: Seen) -> bytes:
    assert seen.server_chain, seen.refused
    return seen.server_chain[0]


async def test_certificate_and_anchors_are_replaced_while_listening() -> None:
    reloading = ReloadingContext(HUB, [A.twin])
    west, east = client_context(A.svid("/x"), [A.twin, B.twin]), client_context(B.svid("/x"), [A.twin, B.twin])
    assert leaf(await shake(reloading.context, west)) == HUB.chain[0]
    assert (await shake(reloading.context, east)).refused

    renewed = A.svid("/trustfed/hub")
    reloading.replace(keypair=renewed)
    assert leaf(await shake(reloading.context, west)) == renewed.chain[0]
    assert (await shake(reloading.context, east)).refused

    reloading.replace(anchors=[B.twin])
    seen = await shake(reloading.context, east)
    assert not seen.refused and leaf(seen) == renewed.chain[0] and seen.client_chain
    assert (await shake(reloading.context, west)).refused, "the anchors of the generation before must not count"


async def test_a_bad_replacement_changes_nothing() -> None:
    reloading = ReloadingContext(HUB, [A.twin])
    mixed = KeyPair(HUB.chain, ec.generate_private_key(ec.SECP256R1()))
    bad: Sequence[tuple[KeyPair | None, Sequence[bytes] | None]] = ((mixed, None), (None, [b"junk"]), (None, []))
    for keypair, anchors in bad:
        with pytest.raises(Invalid):
            reloading.replace(keypair, anchors)
    assert not (await shake(reloading.context, client_context(A.svid("/x"), [A.twin]))).refused


def test_bad_input_is_named() -> None:
    with pytest.raises(Invalid, match="belong together"):
        try:
            server_context(KeyPair(HUB.chain, ec.generate_private_key(ec.SECP256R1())), [A.twin])
        except Invalid as error:
            raise Invalid(f"{error.message} {error.hint}") from None
    for anchors in ([b""], [b"junk"], [A.twin[:-1]], [A.twin, b"junk"]):
        with pytest.raises(Invalid):
            server_context(HUB, anchors)
    with pytest.raises(Invalid, match="needs anchors"):
        client_context(HUB, [])
    with pytest.raises(Invalid, match="needs anchors"):
        server_context(HUB, [], "required")
    with pytest.raises(Invalid):
        server_context(KeyPair((), HUB.key), [A.twin])
    with pytest.raises(Invalid):
        server_context(KeyPair((b"junk",), HUB.key), [A.twin])


def test_keys_are_not_shown_and_leave_nothing_behind() -> None:
    assert "key" not in repr(HUB).replace("KeyPair", "")
    assert b"PRIVATE KEY" in HUB.key_pem() and HUB.chain_pem().count(b"BEGIN") == 1

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(20):
        server_context(HUB, [A.twin])
        with pytest.raises(Invalid):
            server_context(KeyPair((b"junk",), HUB.key), [A.twin])
    assert open_files() == before


def test_no_connection_no_chain() -> None:
    assert peer_chain(None) == ()


async def test_application_protocols() -> None:
    server, client = server_context(HUB, [], "none", ["h2"]), client_context(None, [A.twin], ["h2", "http/1.1"])
    seen = await shake(server, client)
    assert not seen.refused
