"""One bounded HTTPS request to a door of ours: enrolment, renewal, root sets. It blocks; run it in a thread.

Who is asked for the first time is a stranger: `root_documents` gives what it says of its roots, a pin decides whether that
is believed (trustfed.federation.roots), and `exactly` lets only the one server answer that was meant.

No redirects, no proxies, no cookies, no compression: a door of ours uses none of them.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.federation import roots
from trustfed.runtime.deadline import cut_at
from trustfed.runtime.errors import from_http
from trustfed.runtime.tls import peer_chain
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.x509svid import parse_leaf

MAX_ANSWER = roots.MAX_ANSWER
DEADLINE = 3
"""Timeouts that one exchange may last as a whole."""
Verify = Callable[[tuple[bytes, ...]], None]


@dataclass(frozen=True)
class Server:
    """Where to knock, how to check TLS, and (`verify`) whether the chain that answered is the one that was meant."""

    host: str
    port: int
    context: ssl.SSLContext
    verify: Verify | None
    timeout: float = 10.0


def pinned_content_context() -> ssl.SSLContext:
    """TLS without a check of the peer: only for a document that a pin decides about: a root set, an envelope."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def exactly(server_id: SpiffeId) -> Verify:
    """Accept this server only. TLS has proved a path to the roots under their name constraints; this is who it is."""

    def verify(chain: tuple[bytes, ...]) -> None:
        found = parse_leaf(chain[0]).id if chain else None
        if found != server_id:
            raise Denied(f"the server is {found}, not {server_id}", hint="the address or the token is another's")

    return verify


def root_documents(host: str, port: int) -> tuple[bytes, ...]:
    """The signed root sets that whoever answers there has, version n at index n - 1; none is verified yet."""
    return roots.listed(get(Server(host, port, pinned_content_context(), None), "/v1/roots"))


def get(server: Server, path: str) -> bytes:
    """The body of a GET. Raises what the server's problem details say, Unavailable when it cannot be reached."""
    return _exchange(server, "GET", path, None)


def post(server: Server, path: str, document: dict[str, Any]) -> dict[str, Any]:
    """The JSON object that answers a JSON object."""
    return post_bytes(server, path, json.dumps(document).encode())


def post_bytes(server: Server, path: str, data: bytes) -> dict[str, Any]:
    """The JSON object that answers a document given as bytes."""
    body = _exchange(server, "POST", path, data)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid(f"https://{server.host}:{server.port}{path} answered with something that is not JSON") from None
    if not isinstance(answer, dict):
        raise Invalid(f"https://{server.host}:{server.port}{path} answered with something that is not a JSON object")
    return answer


def _exchange(server: Server, method: str, path: str, body: bytes | None) -> bytes:
    where = f"https://{server.host}:{server.port}"
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=server.timeout, context=server.context)
    try:
        end = time.monotonic() + server.timeout * DEADLINE
        with socket.create_connection((server.host, server.port), server.timeout) as raw, cut_at(end, raw):
            connection.sock = server.context.wrap_socket(raw, server_hostname=server.host)
            if server.verify is not None:
                # Before a secret is sent: TLS alone does not say who this is.
                server.verify(peer_chain(connection.sock))
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"{where} cannot be reached: {error or type(error).__name__}", hint="check the address and that it is up"
        ) from error
    finally:
        connection.close()
    if len(answer) > MAX_ANSWER:
        raise Invalid(f"{where}{path} answered with more than {MAX_ANSWER} bytes")
    if response.length:
        raise Unavailable(f"{where}{path} ended before its answer did", hint="try again")
    if response.status != 200:
        raise from_http(response.status, answer)
    return answer
