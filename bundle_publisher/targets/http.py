"""A web server as a target: PUT, GET and DELETE under conditions (RFC 9110 §13), with a bearer token or mTLS.

The server must give strong ETags and keep to If-Match and If-None-Match; one that does not is refused with its name.
Trust: whoever runs the server decides what plain readers see. It gets public documents and, where one is configured, a
bearer token, which is sent over verified TLS only (or to this very machine, where configuration allows that).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from bundle_publisher.targets.address import Address
from bundle_publisher.targets.conditions import Conditions
from bundle_publisher.targets.http_exchange import Ask, Reply, exchange
from bundle_publisher.targets.port import MAX_DOCUMENT, Document, Stored, check_document, check_name
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.runtime.secret_file import SecretFile

_ETAG = re.compile(r'"[!#-~]{0,512}"', re.ASCII)
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]{1,8192}")
AT_ONCE = 8


@dataclass(frozen=True)
class HttpAccess:
    """How the server is reached: `seconds` for each request; `ca` None means the system's authorities (Web PKI)."""

    address: Address
    token: SecretFile | None = None
    certificate: Path | None = None
    key: SecretFile | None = None
    ca: Path | None = None
    seconds: float = 10.0


class HttpTarget:
    """Documents below a URL. Token, certificate and authorities are read again when their files change."""

    def __init__(self, access: HttpAccess) -> None:
        """Raises Invalid when the files of TLS cannot be used."""
        self._access, self._address = access, access.address
        self._conditions = Conditions(str(access.address))
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tls: tuple[object, ssl.SSLContext | None] | None = None
        self._context()

    async def read(self, name: str) -> Stored | None:
        """See Target."""
        check_name(name)
        reply = await self._ask("GET", name, read=MAX_DOCUMENT)
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise self._refusal(reply, "GET", name)
        return Stored(reply.body, self._tag(reply))

    async def write(self, document: Document, if_tag: str | None) -> str:
        """See Target."""
        check_document(document)
        await self._conditions.prove(document, self._put)
        return await self._put(document, if_tag)

    async def remove(self, name: str, if_tag: str) -> None:
        """See Target."""
        check_name(name)
        reply = await self._ask("DELETE", name, (("If-Match", _checked(if_tag)),))
        if reply.status in (200, 202, 204, 404, 410):
            return
        if reply.status == 412 and await self.read(name) is None:
            return
        raise self._refusal(reply, "DELETE", name)

    async def _put(self, document: Document, if_tag: str | None) -> str:
        condition = ("If-None-Match", "*") if if_tag is None else ("If-Match", _checked(if_tag))
        presented = [("Content-Type", document.content_type)]
        if document.cache_control:
            presented.append(("Cache-Control", document.cache_control))
        reply = await self._ask("PUT", document.name, (condition, *presented), document.data)
        if reply.status not in (200, 201, 204):
            raise self._refusal(reply, "PUT", document.name)
        if "etag" in reply.headers:
            return self._tag(reply)
        # RFC 9110 §9.3.4 lets a server say nothing: it is what is there now, if that is what was sent.
        held = await self.read(document.name)
        if held is None or held.data != document.data:
            raise Conflict(f"{document.name} was changed by another publisher")
        return held.tag

    async def _ask(
        self, method: str, name: str, headers: tuple[tuple[str, str], ...] = (), body: bytes = b"", read: int = 0
    ) -> Reply:
        async with self._slots:
            tls, authorization = await asyncio.to_thread(lambda: (self._context(), self._authorization()))
            asked = Ask(method, f"{self._address.path}/{name}", (*headers, *authorization), body, read)
            return await exchange(self._address, tls, asked, self._access.seconds)

    def _authorization(self) -> tuple[tuple[str, str], ...]:
        if self._access.token is None:
            return ()
        token = self._access.token.read()
        if not _TOKEN.fullmatch(token):
            raise Invalid(f"{self._access.token.path} holds no bearer token (RFC 6750 §2.1)")
        return (("Authorization", f"Bearer {token.decode('ascii')}"),)

    def _context(self) -> ssl.SSLContext | None:
        """The TLS context, made anew when one of its files has changed."""
        access = self._access
        if self._address.scheme == "http":
            return None
        paths = [path for path in (access.certificate, access.key and access.key.path, access.ca) if path]
        try:
            seen = tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in (path.stat() for path in paths))
            if self._tls is None or self._tls[0] != seen:
                context = ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                if access.certificate and access.key:
                    access.key.read()  # for its permissions
                    context.load_cert_chain(access.certificate, access.key.path)
                self._tls = (seen, context)
        except OSError as error:  # an SSLError is one
            raise Invalid(
                f"the TLS files of {self._address} cannot be used: {error.strerror or error}",
                hint="certificate_file, key_file and ca_file are PEM; the key belongs to the certificate",
            ) from None
        return self._tls[1]

    def _tag(self, reply: Reply) -> str:
        tag = reply.headers.get("etag", "")
        if not _ETAG.fullmatch(tag):
            raise Invalid(
                f"{self._address} gives {'a weak' if tag.startswith('W/') else 'no usable'} ETag",
                hint="conditional writes need strong ones (RFC 9110 §8.8.3); compression by the server weakens them",
            )
        return tag

    def _refusal(self, reply: Reply, method: str, name: str) -> TrustfedError:
        """A status as an error; nothing that the server says beside it is repeated."""
        status, what = reply.status, f"{self._address} answered {method} {name} with {reply.status}"
        if status in (409, 412):
            return Conflict(f"{name} was changed by another publisher")
        if status in (401, 407):
            hint = "is the bearer token, or the client certificate, the right one, and not expired?"
            return Denied(f"{what}: it does not know us", hint=hint)
        if status == 403:
            return Denied(f"{what}: we may not do that there", hint="let this client GET, PUT and DELETE below the URL")
        if status in (408, 425, 429) or (status >= 500 and status not in (501, 505)):
            return Unavailable(f"{what}: it cannot now", hint="see the server's own log")
        if 300 <= status < 400:
            return Invalid(f"{what}: redirects are not followed", hint="configure the URL that it leads to")
        if status in (404, 405, 501) and method != "GET":
            return Invalid(f"{what}: it takes no {method} there", hint="allow it (WebDAV, or a server of your own)")
        if status == 413:
            return Invalid(f"{what}: the document is too large for it", hint="raise the server's limit")
        return Invalid(what, hint="see the server's own log")


def _checked(tag: str) -> str:
    if not _ETAG.fullmatch(tag):
        raise Conflict("the tag is none that this server gave")
    return tag
