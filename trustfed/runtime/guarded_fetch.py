"""One HTTPS GET of an address that somebody else named, such as a peer's bundle endpoint, or a POST to one. Run it in a thread.

It blocks. Of a GET:

 1. the URL is https, without user information or fragment; its port is 443 or above 1023 (`Target.parse`)
 2. its host is resolved once, and every address that comes back is judged (trustfed.runtime.reach): one bad one refuses all
 3. the connection goes to an address that was judged, not to the name again; the name is for TLS and the Host header
 4. TLS by the caller's context; then `verify` says whether the chain that answered is who was meant (SPIFFE profiles)
 5. redirects are followed (SPIFFE Federation §5.2.1.4, §5.2.2.4) only within the same origin, at most `redirects`, each
    over a new connection to the same address with the same checks; the standard asks for others too, and they are refused
 6. nothing compressed, at most MAX_BODY bytes, and all of it, resolving included, within `seconds`
 7. of what the peer said, errors repeat its status number and nothing else: an error is no way to read other doors

No proxies, no cookies, no resumed sessions.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urljoin

from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.runtime.deadline import cut_at
from trustfed.runtime.https_client import Verify
from trustfed.runtime.reach import Reach, Target
from trustfed.runtime.tls import peer_chain

MAX_BODY = 1 << 20
SECONDS = 15.0
MAX_REDIRECTS = 3
MAX_ADDRESSES = 16
_TRIED = 3
"""Of several addresses so many are tried, one after the other, within the same time."""
_AGENT = "trustfed"
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_ETAG = 256
_ETAG = re.compile(r'(?:W/)?"[!#-~]*"', re.ASCII)
Answer = TypeVar("Answer")
Resolve = Callable[[str, int], Sequence[str]]
"""(host, port) → numeric addresses. Raises OSError."""


@dataclass(frozen=True)
class Fetched:
    """A whole answer. `body` is None when the server says that what `etag` names is still the newest (304)."""

    body: bytes | None
    etag: str
    address: str


@dataclass(frozen=True)
class Form:
    """What is sent with POST instead of a GET: a form, encoded already, and an Authorization header ("" for none)."""

    body: bytes
    authorization: str = ""

    def headers(self) -> dict[str, str]:
        """What a POST of it says of it."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return kind | ({"Authorization": self.authorization} if self.authorization else {})


@dataclass(frozen=True)
class _Sent:
    method: str
    headers: Mapping[str, str]
    body: bytes | None = None


def fetch(
    url: str,
    context: ssl.SSLContext,
    *,
    verify: Verify | None = None,
    etag: str = "",
    reach: Reach | None = None,
    seconds: float = SECONDS,
    resolve: Resolve | None = None,
    redirects: int = MAX_REDIRECTS,
    form: Form | None = None,
) -> Fetched:
    """GET `url` under every guard above; `etag` is that of the answer held ("" for none). A `form` follows no redirect.

    Raises Invalid (URL, form of the answer), Denied (address, redirect, who answered), Unavailable (all else).
    """
    target, end = Target.parse(url), time.monotonic() + seconds
    headers = {"Accept": "application/json"} | ({"If-None-Match": etag} if etag else {})
    sent = _Sent("GET", headers) if form is None else _Sent("POST", headers | form.headers(), form.body)
    judged = _judged(target, resolve, reach, end)
    for _ in range(1 if form else redirects + 1):
        raw, address = _connected(target, judged, end)
        read = functools.partial(_read, target, etag=etag, address=address)
        with raw:
            found = _exchange(target, raw, context, verify, end, sent, read)
        if isinstance(found, Fetched):
            return found
        target, judged = found, [address]
    raise Denied(f"{target.origin} redirected more than {0 if form else redirects} times")


def post(
    url: str,
    context: ssl.SSLContext,
    body: bytes,
    headers: Mapping[str, str],
    *,
    reach: Reach | None = None,
    seconds: float = SECONDS,
    resolve: Resolve | None = None,
) -> int:
    """POST `body` to `url` under guards 1 to 4, 6 and 7; no redirect is followed. Answers the status, 200 to 299.

    Raises like `fetch`, and Unavailable for every other status: what the peer says beside it is not read.
    """
    target, end = Target.parse(url), time.monotonic() + seconds
    raw, _ = _connected(target, _judged(target, resolve, reach, end), end)
    with raw:
        sent = _Sent("POST", headers, body)
        status = _exchange(target, raw, context, None, end, sent, lambda response: response.status)
    if not 200 <= status < 300:
        raise Unavailable(f"{target.origin} answered with status {status}", hint="ask the owner of that endpoint")
    return status


def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of a name as this machine resolves it, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def _judged(target: Target, resolve: Resolve | None, reach: Reach | None, end: float) -> list[str]:
    judge = reach or Reach()
    return [str(judge.check(address)) for address in _resolved(target, resolve or system_resolve, end)]  # 2


def _resolved(target: Target, resolve: Resolve, end: float) -> list[str]:
    """What the name resolves to; the system's resolver knows no deadline, so it gets a thread of its own."""
    found: list[str] = []
    failure: list[OSError] = []

    def run() -> None:
        try:
            found.extend(resolve(target.host, target.port))
        except (OSError, UnicodeError) as error:
            failure.append(error if isinstance(error, OSError) else OSError("not a host name"))

    thread = threading.Thread(target=run, name="resolve", daemon=True)
    thread.start()
    thread.join(_left(end))
    if thread.is_alive():
        raise _unreachable(target, TimeoutError("its name was not resolved in time"))
    if failure or not found:
        raise _unreachable(target, failure[0] if failure else OSError("its name has no address"))
    if len(found) > MAX_ADDRESSES:
        raise Denied(f"{target.origin}: its name has more than {MAX_ADDRESSES} addresses")
    return found


def _connected(target: Target, addresses: Sequence[str], end: float) -> tuple[socket.socket, str]:
    failure: Exception = TimeoutError("no time was left")
    for address in addresses[:_TRIED]:  # 3
        try:
            return socket.create_connection((address, target.port), _left(end)), address
        except OSError as error:
            failure = error
    raise _unreachable(target, failure)


def _exchange(
    target: Target,
    raw: socket.socket,
    context: ssl.SSLContext,
    verify: Verify | None,
    end: float,
    sent: _Sent,
    read: Callable[[http.client.HTTPResponse], Answer],
) -> Answer:
    """What `read` makes of the answer to `sent`."""
    connection = http.client.HTTPSConnection(target.host, target.port, context=context)
    headers = {"Accept-Encoding": "identity", "User-Agent": _AGENT, "Connection": "close", **sent.headers}
    try:
        raw.settimeout(_left(end))
        with cut_at(end, raw):
            connection.sock = context.wrap_socket(raw, server_hostname=target.host)  # 4
            if verify is not None:
                verify(peer_chain(connection.sock))
            connection.request(sent.method, target.path, body=sent.body, headers=headers)
            with contextlib.closing(connection.getresponse()) as response:
                return read(response)
    except ssl.SSLCertVerificationError as error:
        raise Denied(
            f"{target.origin} did not prove that it is {target.host}: {error.verify_message}",
            hint="is it the endpoint that was meant, and is its CA (--ca) or its bundle (--bundle) still the one held?",
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(target, error) from None
    finally:
        connection.close()


def _read(target: Target, response: http.client.HTTPResponse, *, etag: str, address: str) -> Fetched | Target:
    status = response.status
    if status in _REDIRECTS:  # 5
        return _redirected(target, status, response.getheader("Location", ""))
    if status == 304 and etag:
        return Fetched(None, etag, address)
    if status != 200:
        raise Unavailable(f"{target.origin} answered with status {status}", hint="ask the owner of that endpoint")
    if response.getheader("Content-Encoding", "identity").strip().lower() not in ("", "identity"):  # 6
        raise Invalid(f"{target.origin} answered with compressed data, which was not asked for")
    if response.length is not None and response.length > MAX_BODY:
        raise Invalid(f"{target.origin} answered with more than {MAX_BODY} bytes")
    body = response.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise Invalid(f"{target.origin} answered with more than {MAX_BODY} bytes")
    if response.length:
        raise Unavailable(f"{target.origin} ended before its answer did", hint="it is tried again")
    return Fetched(body, _tag(response.getheader("ETag", "")), address)


def _redirected(target: Target, status: int, location: str) -> Target:
    """Where a redirect leads, if that is the same origin."""
    try:
        to = Target.parse(urljoin(target.origin + target.path, location)) if location else None
    except (Invalid, ValueError):
        to = None
    if to is None or to.origin != target.origin:
        raise Denied(
            f"{target.origin} answered with a redirect ({status}) to another place, which is not followed",
            hint="if the endpoint has moved, ask its owner, and configure its new URL",
        )
    return to


def _tag(text: str) -> str:
    """An entity tag fit to be sent back (RFC 9110 §8.8.3), else none."""
    return text if len(text) <= _MAX_ETAG and _ETAG.fullmatch(text) else ""


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.001)


def _unreachable(target: Target, error: Exception) -> Unavailable:
    """What the machine says of a failure; an HTTP library's words would repeat the peer's."""
    if isinstance(error, ssl.SSLError):
        said = f"TLS failed ({error.reason or 'no reason given'})"
    elif isinstance(error, OSError):
        said = (error.strerror or str(error) or type(error).__name__).lower()
    else:
        said = f"its answer is not HTTP ({type(error).__name__})"
    return Unavailable(f"{target.origin} cannot be reached: {said}", hint="check the address and that it is up")
