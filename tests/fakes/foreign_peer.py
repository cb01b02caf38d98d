"""A foreign bundle endpoint: a real TLS server on loopback that serves what a test says, byte by byte if need be."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.cluster import Domain, Key, ca_certificate, leaf, new_key, usage
from trustfed.runtime.tls import KeyPair, server_context
from trustfed.spiffe.ids import SpiffeId

Answer = Callable[[str, dict[str, str]], Iterable[bytes]]
"""(path, headers) → the pieces of the raw HTTP answer."""
ENDPOINT = "/spire/server"
HOUR = timedelta(hours=1)


class WebCa:
    """A certification authority of the Web PKI kind."""

    def __init__(self) -> None:
        self.key, self.name = new_key(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web root")])
        self.der = ca_certificate(self.name, self.key, self.name, self.key, None, HOUR)

    def server(self, host: str = "127.0.0.1") -> KeyPair:
        """A certificate for one host."""
        key, now = new_key(), datetime.now(UTC)
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        der = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + HOUR)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(ca=False), critical=True)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )
        return KeyPair((der,), key)


def svid(domain: Domain, path: str = ENDPOINT, life: timedelta = HOUR) -> KeyPair:
    """An X509-SVID of this domain's newest authority."""
    key: Key = new_key()
    der = leaf(domain.authorities[-1], SpiffeId.of(domain.trust_domain, path), key.public_key(), life)
    return KeyPair((der,), key)


class ForeignPeer:
    """`with ForeignPeer(domain, keypair) as peer:` serves the domain's bundle at `peer.url` until told otherwise."""

    def __init__(self, domain: Domain, keypair: KeyPair) -> None:
        self.domain = domain
        self.refresh_hint: int | None = 60
        self.sequence: bool = True
        self.answer: Answer = self.good
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.identity(keypair)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> ForeignPeer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/bundle"

    def identity(self, keypair: KeyPair) -> None:
        """Who answers from now on."""
        self._context = server_context(keypair, (), "none")

    def rotate(self) -> None:
        """A new authority beside the old ones; the sequence rises."""
        self.domain.authorities.append(self.domain.authority(f"a{len(self.domain.authorities) + 1}"))
        self.domain.sequence += 1

    def document(self, **changes: Any) -> bytes:
        """The bundle as JSON, members changed; None removes one."""
        found = json.loads(self.domain.bundle().marshal())
        found["spiffe_refresh_hint"] = self.refresh_hint
        if not self.sequence:
            found["spiffe_sequence"] = None
        found.update(changes)
        return json.dumps({name: value for name, value in found.items() if value is not None}).encode()

    def good(self, path: str, headers: dict[str, str]) -> Iterable[bytes]:
        return [http(self.document())]

    def says(self, *pieces: bytes, pause: float = 0) -> None:
        """From now on answer with these pieces, with a pause before each."""

        def answer(path: str, headers: dict[str, str]) -> Iterable[bytes]:
            for piece in pieces:
                time.sleep(pause)
                yield piece

        self.answer = answer

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(raw,), daemon=True).start()

    def _one(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), raw:
            raw.settimeout(5)
            with self._context.wrap_socket(raw, server_side=True) as connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(4096)
                    if not piece:
                        return
                    data += piece
                head, *lines = data.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                path = head.split(" ")[1]
                self.asked.append((path, headers))
                for piece in self.answer(path, headers):
                    connection.sendall(piece)


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """One HTTP answer, with its length unless `headers` say another."""
    given = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in given.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    return http(b"", status, Location=to)


def zipped(body: bytes) -> bytes:
    return http(gzip.compress(body), Content_Encoding="gzip")
