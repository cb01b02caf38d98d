"""HTTP/1.1 to one origin that configuration names, with every bound hard: bytes, time in all, pace, and what is followed.

For stores that are read (S3, a web server) and for the STS that a cluster asks. Nobody else's word chooses the address here;
where a peer's does, trustfed.runtime.guarded_fetch is the way. It blocks; run it in a thread or a process of its own.

 1. https, below the system's roots or the given ones; plain http only to this machine itself
 2. no redirect is followed, no proxy, cookie or compression is used
 3. all exchanges over one connection end before `Limits.seconds` have passed: then the socket is cut, however it drips
 4. no wait is longer than `Limits.pause`, and after that time a body must have come at `Limits.pace` bytes a second
 5. a body is read in parts, never beyond the limit that its reader gives
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from trustfed.errors import Denied, Invalid, Unavailable

MAX_URL = 2048
_PART = 65_536
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}", re.ASCII)
_PATH = re.compile(r"[!-~]*", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """Seconds for everything over one connection, seconds of one wait, and bytes a second below which it is too slow."""

    seconds: float = 30.0
    pause: float = 10.0
    pace: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.pause <= self.seconds <= 3600 or self.pace < 0:
            raise Invalid("limits are 0 < pause <= seconds <= 3600, and a pace of at least 0")


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> tuple[Origin, str]:
        """The origin in `url`, and its path ("" or beginning with /). Raises Invalid."""
        try:
            parts = urlsplit(url if len(url) <= MAX_URL and _PATH.fullmatch(url) else "")
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        if parts.scheme not in ("https", "http") or not _HOST.fullmatch(host) or not plain or port == 0:
            raise Invalid(f"{url[:200]!r} is not an address of the form https://HOST[:PORT]/PATH")
        made = cls(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))
        if made.scheme == "http" and not made.local:
            raise Invalid(f"{made} is not protected by TLS", hint="use https; http is for this machine itself only")
        return made, parts.path

    @property
    def local(self) -> bool:
        """Whether it names this machine itself."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def authority(self) -> str:
        """As it stands in a Host header: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def tls_context(ca_file: str = "") -> ssl.SSLContext:
    """TLS by host name below the system's roots, or those in `ca_file` (PEM). Raises Invalid."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(
            f"{ca_file} cannot be used as roots: {error.strerror or error}", hint="PEM certificates"
        ) from None


class Response:
    """A status, headers, and a body that is still to be read. `text` is the reason that errors name the request by."""

    def __init__(self, raw: http.client.HTTPResponse, what: str, limits: Limits) -> None:
        self._raw, self._what, self._limits = raw, what, limits
        self.status = raw.status
        self.content_type = raw.getheader("Content-Type", "")[:256].partition(";")[0].strip().lower()

    def parts(self, limit: int) -> Iterator[bytes]:
        """The body as it comes. Raises Invalid beyond `limit` bytes or when compressed, Unavailable when slow or cut."""
        raw, begun, count = self._raw, time.monotonic(), 0
        if raw.getheader("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise Invalid(f"{self._what}: compressed data, which was not asked for")
        left = raw.length
        if left is not None and left > limit:
            raise endless(self._what, limit)
        while left is None or left > 0:
            part = raw.read1(_PART if left is None else min(left, _PART))
            if not part:
                break
            count += len(part)
            left = None if left is None else left - len(part)
            if count > limit:  # 5
                raise endless(self._what, limit)
            taken = time.monotonic() - begun
            if taken > self._limits.pause and count < taken * self._limits.pace:  # 4
                raise slow(self._what)
            yield part
        if left:
            raise Unavailable(f"{self._what}: the answer ended before its end", hint="it is tried again")
        raw.close()

    def body(self, limit: int) -> bytes:
        """All of the body."""
        return b"".join(self.parts(limit))


class Connection:
    """A connection that is kept between requests, and opened again when it was closed. Use as a context manager."""

    def __init__(self, origin: Origin, context: ssl.SSLContext | None, limits: Limits) -> None:
        self._origin, self._context, self._limits = origin, context, limits
        self._end = time.monotonic() + limits.seconds
        self._connection: http.client.HTTPConnection | None = None
        self._handle: socket.socket | None = None
        self._over = threading.Event()
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Connection:
        self._timer = threading.Timer(self._limits.seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._close()

    @contextlib.contextmanager
    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[Response]:
        """The answer to one request; its body is read within the block. `target` is path and query, already encoded.

        `headers` are all that is sent beside Content-Length; Host is this origin's. Raises Unavailable, Denied (TLS).
        """
        what = f"{self._origin}{target.partition('?')[0]}"
        try:
            yield Response(self._answer(method, target, headers, body), what, self._limits)
            if self._over.is_set():
                # To http.client a connection that was cut within the headers looks like a whole answer.
                raise TimeoutError
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                f"{self._origin} did not prove that it is {self._origin.host}: {error.verify_message}",
                hint="is the address right? ca_file names roots of your own",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            self._close()
            if self._over.is_set() or isinstance(error, TimeoutError):
                raise slow(what) from None
            raise Unavailable(
                f"{self._origin} cannot be reached: {_said(error)}", hint="is the address right?"
            ) from None
        except BaseException:
            self._close()
            raise

    def _answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        sent = {"Host": self._origin.authority, "Accept-Encoding": "identity", **headers}
        kept = self._connection is not None
        try:
            return self._send(method, target, sent, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            if not kept or self._over.is_set():
                raise
        self._close()  # the server had closed a connection that was kept: that is no fault, once
        return self._send(method, target, sent, body)

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        if self._connection is not None and self._connection.sock is None:
            self._close()  # the server's last answer ended the connection
        connection = self._connection or self._open()
        connection.request(method, target, body=body, headers=dict(headers))
        answer = connection.getresponse()
        if 300 <= answer.status < 400 and answer.status != 304:  # 2
            raise Denied(
                f"{self._origin} answered with a redirect ({answer.status}), which is not followed",
                hint="configure the address, or the region, where it really is",
            )
        return answer

    def _open(self) -> http.client.HTTPConnection:
        origin, wait = self._origin, min(self._limits.pause, max(self._end - time.monotonic(), 0.001))
        raw = socket.create_connection((origin.host, origin.port), wait)
        raw.settimeout(self._limits.pause)  # 4
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # TLS takes the socket over, so the cut needs a handle of its own.
        self._handle = socket.socket(fileno=os.dup(raw.fileno()))
        self._connection = http.client.HTTPConnection(origin.host, origin.port)
        self._connection.auto_open = 0  # it would open the next one itself: without TLS, and without a limit
        self._connection.sock = raw
        if origin.scheme == "https":
            context = self._context or tls_context()
            self._connection.sock = context.wrap_socket(raw, server_hostname=origin.host)  # 1
        return self._connection

    def _cut(self) -> None:  # 3
        self._over.set()
        handle = self._handle
        if handle is not None:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        connection, handle = self._connection, self._handle
        self._connection = self._handle = None
        if connection is not None:
            connection.close()
        if handle is not None:
            handle.close()


def endless(what: str, limit: int) -> Invalid:
    """More came than there may be."""
    return Invalid(f"{what}: endless data refused: more than {limit} bytes", hint="no such document is that large")


def slow(what: str) -> Unavailable:
    """It came too slowly, or not at all, in the time that there was."""
    return Unavailable(f"{what}: slow retrieval refused: no whole answer in time", hint="is the store overloaded?")


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'no reason given'})"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return f"its answer is not HTTP ({type(error).__name__})"
