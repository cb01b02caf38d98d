"""Whoever answers where we knock: redirects, drips, bombs, garbage and silence each end as one clear error, in time."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from trustfed.errors import TrustfedError
from trustfed.runtime import https_client
from trustfed.runtime.https_client import MAX_ANSWER, Server, get, pinned_content_context, post

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PATIENCE = 1.0
pytestmark = pytest.mark.timeout(20)


class Hostile:
    """A TLS server that does as it is told; `asked` are the paths it was asked for."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.asked: list[str] = []
        self.port = 0
        self.behaviour: Behaviour = _silence

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.split(b" ")[1].decode())
            await self.behaviour(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def _says(answer: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return behave


def _drips(head: bytes, byte: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(0.05)

    return behave


def _endless(head: bytes, part: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)  # drain alone does not give way while there is room

    return behave


OK = b"HTTP/1.1 200 OK\r\n"
CASES: dict[str, Behaviour] = {
    "redirect-to-http": _says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n"),
    "redirect-to-metadata": _says(
        b"HTTP/1.1 307 x\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n"
    ),
    "redirect-to-itself": _says(b"HTTP/1.1 301 x\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"),
    "silence": _silence,
    "closes-at-once": _says(b""),
    "no-http": _says(b"\x00\x01\x02 nonsense\r\n\r\n"),
    "endless-status-line": _endless(b"HTTP/1.1 200 ", b"x" * 65_536),
    "endless-headers": _endless(OK, b"X-Header: y\r\n" * 1_000),
    "endless-body": _endless(OK + b"\r\n", b"x" * 65_536),
    "announces-more-than-it-sends": _says(OK + b"Content-Length: 1000\r\n\r\nshort"),
    "endless-chunks": _endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
    "bad-chunk": _says(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n"),
    "dripped-headers": _drips(OK, b"X"),
    "dripped-body": _drips(OK + b"Content-Length: 100000\r\n\r\n", b" "),
}
DOCUMENTS: dict[str, bytes] = {
    "deep-json": b"[" * 200_000,
    "gzip-bomb": gzip.compress(b" " * 50_000_000),
    "not-utf8": b"\xff\xfe",
    "array": b"[]",
    "nothing": b"",
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("hostile")
    certificate, key = folder / "x.pem", folder / "x.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=hostile", "-days", "2", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made


@pytest.fixture
async def hostile(context: ssl.SSLContext) -> AsyncIterator[Hostile]:
    made = Hostile(context)
    await made.open()
    yield made
    await made.close()


def _server(hostile: Hostile, verify: https_client.Verify | None = None) -> Server:
    return Server("127.0.0.1", hostile.port, pinned_content_context(), verify, timeout=PATIENCE)


@pytest.mark.parametrize("name", CASES)
async def test_one_clear_error_within_the_time_and_nothing_is_followed(hostile: Hostile, name: str) -> None:
    hostile.behaviour = CASES[name]
    begun = time.monotonic()
    with pytest.raises(TrustfedError) as refused:
        await asyncio.to_thread(get, _server(hostile), "/v1/roots")
    assert time.monotonic() - begun < 5 * PATIENCE
    assert hostile.asked == ["/v1/roots"]
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_an_answer_that_is_no_document_is_one_clear_error(hostile: Hostile, name: str) -> None:
    body = DOCUMENTS[name]
    head = OK + b"Content-Encoding: gzip\r\n" * (name == "gzip-bomb") + b"Content-Length: %d\r\n\r\n" % len(body)
    hostile.behaviour = _says(head + body)
    with pytest.raises(TrustfedError) as refused:
        await asyncio.to_thread(post, _server(hostile), "/v1/enrol", {"token": "a secret"})
    assert "a secret" not in str(refused.value)


async def test_the_largest_answer_is_read_whole(hostile: Hostile) -> None:
    """The bound is where it is said to be, so that the refusals above are the bound's."""
    hostile.behaviour = _says(OK + b"Content-Length: %d\r\n\r\n" % MAX_ANSWER + b"x" * MAX_ANSWER)
    assert len(await asyncio.to_thread(get, _server(hostile), "/x")) == MAX_ANSWER


async def test_nothing_is_said_to_a_server_that_is_not_the_one_meant(hostile: Hostile) -> None:
    """A token in a request leaves only after the server proved who it is."""

    def never(chain: tuple[bytes, ...]) -> None:
        raise https_client.Invalid("this is not the server that was meant")

    with pytest.raises(TrustfedError):
        await asyncio.to_thread(post, _server(hostile, never), "/v1/enrol", {"token": "a secret"})
    assert hostile.asked == []
