"""One bounded HTTPS request to a door of ours: enrolment, renewal, root sets. It blocks; run it in a thread.

No redirects, no proxies, no cookies, no compression: a door of ours uses none of them.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trustfed.errors import Invalid, Unavailable
from trustfed.runtime.errors import from_http
from trustfed.runtime.tls import peer_chain

MAX_ANSWER = 4 * 1024 * 1024
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
    """TLS without a check of the peer: only for a document whose hash is already known, such as the pinned root set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


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
    except ValueError:
        raise Invalid(f"https://{server.host}:{server.port}{path} answered with something that is not JSON") from None
    if not isinstance(answer, dict):
        raise Invalid(f"https://{server.host}:{server.port}{path} answered with something that is not a JSON object")
    return answer


def _exchange(server: Server, method: str, path: str, body: bytes | None) -> bytes:
    where = f"https://{server.host}:{server.port}"
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=server.timeout, context=server.context)
    try:
        connection.connect()
        if server.verify is not None:
            # Before a secret is sent: TLS alone does not say who this is.
            sock = connection.sock
            assert isinstance(sock, ssl.SSLSocket)
            server.verify(peer_chain(sock))
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
    if response.status != 200:
        raise from_http(response.status, answer)
    return answer
