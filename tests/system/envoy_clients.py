"""Clients in front of Envoys that speak for themselves: TLS with whatever certificate, HTTP/2 on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from tests.unit.agent.world import Workload
from trustfed.demo.envoy.stage import GRPC, HTTP, TCP
from trustfed.feed.identity import certificates
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import KeyPair, client_context

SECONDS = 20.0
ALPN = {
    HTTP: ("istio-http/1.1", "istio", "http/1.1"),
    GRPC: ("istio-h2", "istio", "h2"),
    TCP: ("istio-peer-exchange", "istio"),
}
"""What a sidecar asks for when it calls a port."""


@dataclass(frozen=True)
class Held:
    """What the Workload API gives this very process."""

    keypairs: dict[str, KeyPair]  # by SPIFFE ID
    anchors: tuple[bytes, ...]  # of all domains: the clients here prove what servers refuse, not whom they believe


def held(agent: Path) -> Held:
    """Ask the agent at this workload socket."""

    async def ask() -> Held:
        workload = Workload(agent)
        try:
            said = await workload.x509()
        finally:
            workload.close()
        keypairs: dict[str, KeyPair] = {}
        anchors: list[bytes] = []
        for svid in said.svids:
            key = load_der_private_key(svid.x509_svid_key, None)
            assert isinstance(key, EllipticCurvePrivateKey)
            keypairs[svid.spiffe_id] = KeyPair(certificates(svid.x509_svid), key)
            anchors += certificates(svid.bundle)
        for bundle in said.federated_bundles.values():
            anchors += certificates(bundle)
        return Held(keypairs, tuple(anchors))

    return asyncio.run(ask())


def dial(
    address: str, keypair: KeyPair | None, anchors: tuple[bytes, ...], name: str, alpn: tuple[str, ...]
) -> ssl.SSLSocket:
    """A TLS connection. In TLS 1.3 a client's certificate is judged after the handshake: the first read tells."""
    context = client_context(keypair, anchors, alpn)
    connection = socket.create_connection(parse_address(address), SECONDS)
    try:
        return context.wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise


def said(connection: socket.socket, data: bytes) -> bytes:
    """What comes back for `data`; b"" when it was refused, in whichever way."""
    try:
        connection.sendall(data)
        return connection.recv(4096)
    except OSError:  # TLS alerts are among these
        return b""


class Http2:
    """One HTTP/2 connection. `get` raises ConnectionError once the other side has ended it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SECONDS)
        self._connection = connection
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._ended = False
        connection.sendall(self._h2.data_to_send())

    def get(self) -> tuple[int, str]:
        """Status and body of one request."""
        if self._ended:
            raise ConnectionError("the connection is being closed: GOAWAY")
        stream = self._h2.get_next_available_stream_id()
        head = ((":method", "GET"), (":scheme", "http"), (":authority", "payments"), (":path", "/"))
        self._h2.send_headers(stream, head, end_stream=True)
        self._connection.sendall(self._h2.data_to_send())
        status, body = 0, b""
        while True:
            for event in self._events():
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    status = int(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                    raise ConnectionError("the stream was reset")
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    self._send()
                    return status, body.decode()
            self._send()

    def ended(self) -> bool:
        """Whether the other side has said that it takes no more, or has closed the connection."""
        self._connection.settimeout(0.01)
        try:
            self._events()
        except TimeoutError:
            pass
        except OSError:
            self._ended = True
        self._connection.settimeout(SECONDS)
        return self._ended

    def close(self) -> None:
        self._connection.close()

    def _events(self) -> list[h2.events.Event]:
        data = self._connection.recv(65_536)
        if not data:
            raise ConnectionError("the connection was closed")
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:  # behind a GOAWAY this library takes nothing, not even an answer
            raise ConnectionError(str(error)) from error
        if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
            self._ended = True
        return events

    def _send(self) -> None:
        if data := self._h2.data_to_send():
            self._connection.sendall(data)


class Lasting:
    """A TCP connection by way of a sidecar that is left alone, and how long it lasts."""

    def __init__(self, address: str) -> None:
        self._connection = socket.create_connection(parse_address(address))
        self._opened, self.seconds = time.monotonic(), 0.0
        assert said(self._connection, b"first") == b"first"
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._connection.close()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.recv(1)
        self.seconds = time.monotonic() - self._opened
