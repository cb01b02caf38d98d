"""A web server that keeps documents under conditions (RFC 9110 §13), real HTTP on loopback, and misbehaves on demand.

with HttpStore() as store:                       store.url; store.held["bundles/west"] = (bytes, tag)
with HttpStore(tls=Tls(...), token="...") as store:   https, client certificates, a bearer token
store.fault("503", times=2)     the next requests are answered 503: also "401", "403", "302", "501", ...
store.fault("cut")              half of the answer, then it hangs up
store.fault("lost")             the request is carried out, and its answer never comes
store.fault("slow")             nothing until `store.release()`
store.fault("drip")             the answer's body comes a byte at a time
store.fault("weak-etag"), ("no-etag"), ("other-etag"), ("endless"), ("garbage")
store.ignores_conditions = True                  a server that takes every PUT
"""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

DRIP_SECONDS = 0.05
MAX_BODY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Tls:
    """PEM files of the server, and the authorities of its clients' certificates, if they need one."""

    certificate: Path
    key: Path
    clients: Path | None = None


class HttpStore:
    """The server; it answers in threads."""

    def __init__(self, tls: Tls | None = None, token: str = "", path: str = "/trust") -> None:
        self.held: dict[str, tuple[bytes, str]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        """Of the last PUT of each name, as the client sent them (lower case)."""
        self.requests: list[tuple[str, str]] = []
        self.ignores_conditions = False
        self.token, self.path = token, path
        self._count = 0
        self._faults: deque[str] = deque()
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            if tls.clients is not None:
                context.load_verify_locations(tls.clients)
                context.verify_mode = ssl.CERT_REQUIRED
            # Shaken hands on in each request's own thread: a client that fails there holds up no other.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> HttpStore:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, kind: str, times: int = 1) -> None:
        """Let the next `times` requests meet this fault."""
        with self._lock:
            self._faults.extend([kind] * times)

    def release(self) -> None:
        """End every "slow", also those to come."""
        self._gate.set()

    def put(self, name: str, data: bytes) -> str:
        """Let somebody else write."""
        with self._lock:
            return self._keep(name, data)

    def next_fault(self) -> str:
        with self._lock:
            return self._faults.popleft() if self._faults else ""

    def wait(self) -> None:
        self._gate.wait(30)

    def carry_out(self, method: str, name: str, conditions: tuple[str, str], body: bytes) -> tuple[int, bytes, str]:
        """(status, body, tag)."""
        if_match, if_none_match = conditions
        with self._lock:
            data, tag = self.held.get(name, (b"", ""))
            met = (not if_match or (if_match in ("*", tag) and bool(tag))) and not (if_none_match == "*" and tag)
            if method == "GET":
                return (200, data, tag) if tag else (404, b"", "")
            if not met and not self.ignores_conditions:
                return 412, b"", ""
            if method == "DELETE":
                self.held.pop(name, None)
                return (204, b"", "") if tag else (404, b"", "")
            return (200 if tag else 201), b"", self._keep(name, body)

    def _keep(self, name: str, data: bytes) -> str:
        self._count += 1
        self.held[name] = (data, f'"v{self._count}"')
        return self.held[name][1]


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


def _handler(store: HttpStore) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def _answer(self) -> None:
            self.close_connection = True
            fault = store.next_fault()
            store.requests.append((self.command, self.path))
            body = self.rfile.read(min(int(self.headers.get("content-length") or 0), MAX_BODY))
            if fault == "slow":
                store.wait()
            if fault == "garbage":
                self.wfile.write(b"this is no HTTP\r\n\r\n")
                return
            if fault.isdigit():
                self._send(int(fault), b"", {"Location": "http://127.0.0.1:1/"} if fault.startswith("3") else {})
                return
            if store.token and self.headers.get("authorization") != f"Bearer {store.token}":
                self._send(401, b"", {})
                return
            if not self.path.startswith(store.path + "/"):
                self._send(404, b"", {})
                return
            name = self.path.removeprefix(store.path + "/")
            conditions = (self.headers.get("if-match", ""), self.headers.get("if-none-match", ""))
            status, data, tag = store.carry_out(self.command, name, conditions, body)
            if self.command == "PUT" and status < 300:
                store.headers[name] = {key.lower(): value for key, value in self.headers.items()}
            if fault == "lost":
                return
            tag = {"weak-etag": f"W/{tag}", "no-etag": "", "other-etag": '"other"'}.get(fault, tag)
            self._send(status, data, {"ETag": tag} if tag else {}, fault)

        def _send(self, status: int, data: bytes, headers: dict[str, str], fault: str = "") -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if fault == "endless":
                self.end_headers()  # no length: the body goes on until one side hangs up
                while not self.wfile.closed:
                    self.wfile.write(bytes(1 << 20))
            self.send_header("Content-Length", str(len(data) + (10 if fault == "cut" else 0)))
            self.end_headers()
            for at in range(len(data)) if fault == "drip" else ():
                self.wfile.write(data[at : at + 1])
                self.wfile.flush()
                time.sleep(DRIP_SECONDS)
            if fault != "drip":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
