"""Batches of signatures made in worker processes, for keys that lie in files of this machine.

Signing in Python holds the interpreter's lock, 25 µs each: done here, 500 signatures would stop every coroutine for
12 ms. Up to `INLINE` are signed here all the same, for handing them over costs as much (measured, see the figures in
docs/reference/key-stores.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import ca
import trustfed
from ca.keys.digests import digests_of
from ca.keys.file import FileKeys
from ca.keys.folder import KeyFolder
from ca.keys.port import EC_P256, ED25519, EcP256, Ed25519, PublicKey, check_messages, check_name
from ca.keys.worker import DONE, FORGET, MAX_FRAME, SIGN, request, setup_frame
from trustfed import errors
from trustfed.errors import Unavailable

INLINE = 8
MAX_WAITING = 20_000  # messages that may wait for a worker: half a second of work
DEADLINE = 30.0  # seconds; argon2id on a busy machine is the slowest thing a worker does
_HASHED_AT_ONCE = 256 * 1024  # bytes hashed in the loop, about 0.2 ms; more goes to a thread


class SigningPool:
    """A KeyStore that signs for `keys` in `workers` processes, started at once; `close` ends them, as does our own end.

    Raises Unavailable when more than 20,000 messages wait, or when a worker and its replacement died over one batch.
    """

    def __init__(self, keys: FileKeys, *, workers: int = 1, inline: int = INLINE) -> None:
        self._keys = keys
        self._inline = inline
        self._workers = [_Worker(keys.folder) for _ in range(workers)]

    @overload
    async def create(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def create(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def create(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore."""
        return await (self._keys.create(name, ED25519) if kind == ED25519 else self._keys.create(name, kind))

    @overload
    async def public_key(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def public_key(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def public_key(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore."""
        return await (self._keys.public_key(name, ED25519) if kind == ED25519 else self._keys.public_key(name, kind))

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        """See KeyStore."""
        if len(messages) <= self._inline or not self._workers:
            return await self._keys.sign(name, messages)
        check_name(name)
        check_messages(messages)
        if await self._keys.signs_notes(name):
            return await self._keys.sign(name, messages)  # rare and single: the workers are told digests only
        if sum(worker.waiting for worker in self._workers) + len(messages) > MAX_WAITING:
            raise Unavailable("too many signatures are waiting", hint="try again; if it lasts, raise [keys] workers")
        if sum(map(len, messages)) > _HASHED_AT_ONCE:
            digests = await asyncio.to_thread(digests_of, messages)
        else:
            digests = digests_of(messages)
        answers = await asyncio.gather(*(self._handed_over(name, part) for part in self._parts(digests)))
        signatures = [signature for answer in answers for signature in _signatures(answer)]
        if len(signatures) != len(messages):
            raise Unavailable("a signing worker answered with another number of signatures", hint="try again")
        return signatures

    async def destroy(self, name: str) -> None:
        """See KeyStore. On return no worker holds the key any more."""
        await self._keys.destroy(name)
        await asyncio.gather(*(worker.ask(request(FORGET, name, []), 0) for worker in self._workers))

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, for whoever watches their memory."""
        return [worker.pid for worker in self._workers]

    def _parts(self, digests: list[bytes]) -> list[list[bytes]]:
        """Share a batch between the workers that have nothing to do, in parts worth the hand-over."""
        free = sum(worker.waiting == 0 for worker in self._workers)
        parts = max(1, min(free, len(digests) // (4 * INLINE)))
        size = -(-len(digests) // parts)
        return [digests[start : start + size] for start in range(0, len(digests), size)]

    def _handed_over(self, name: str, digests: list[bytes]) -> asyncio.Future[bytes]:
        worker = min(self._workers, key=lambda worker: worker.waiting)
        return worker.ask(request(SIGN, name, digests), len(digests))


def _signatures(answer: bytes) -> list[bytes]:
    signatures, at = [], 0
    while at < len(answer):
        end = at + 1 + answer[at]
        signatures.append(answer[at + 1 : end])
        at = end
    return signatures


class _Worker:
    """One worker process and our end of its socket; one request at a time."""

    def __init__(self, folder: KeyFolder) -> None:
        self.waiting = 0
        self._folder = folder
        self._turn = asyncio.Lock()
        self._closed = False
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, frame: bytes, weight: int) -> asyncio.Future[bytes]:
        """Queue a request and return its answer to come; `weight` counts as waiting from now until then."""
        self.waiting += weight
        # Shielded: a caller who gives up must not leave half an answer in the stream for the next one.
        return asyncio.shield(asyncio.ensure_future(self._ask(frame, weight)))

    async def _ask(self, frame: bytes, weight: int) -> bytes:
        try:
            async with self._turn:
                answer = await self._asked(frame)
        finally:
            self.waiting -= weight
        if answer[:1] == DONE:
            return answer[1:]
        kind, message, hint = json.loads(answer[1:])
        refusals: dict[str, type[errors.TrustfedError]] = {
            each.__name__: each for each in (errors.Invalid, errors.Denied, errors.NotFound, errors.Conflict)
        }
        raise refusals.get(kind, Unavailable)(message, hint=hint)

    async def _asked(self, frame: bytes) -> bytes:
        for _ in range(2):  # a worker that died is replaced, and the request made once more: signing twice is harmless
            if self._closed:
                break
            with contextlib.suppress(OSError, TimeoutError):
                if self._process.poll() is not None:
                    self._start()
                async with asyncio.timeout(DEADLINE):
                    await asyncio.get_running_loop().sock_sendall(self._stream, frame)
                    return await self._receive()
            self._end()
        raise Unavailable("the signing workers keep ending", hint="their last words are on this process's error output")

    async def _receive(self) -> bytes:
        loop = asyncio.get_running_loop()
        content = bytearray()
        length = 4
        while len(content) < 4 or len(content) < 4 + length:
            chunk = await loop.sock_recv(self._stream, 64 * 1024)
            if not chunk:
                raise ConnectionResetError
            content += chunk
            if len(content) >= 4:
                length = int.from_bytes(content[:4], "big")
                if not 0 < length <= MAX_FRAME:
                    raise ConnectionResetError
        return bytes(content[4:])

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._stream = ours
        with theirs:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _program()], stdin=theirs.fileno()
            )
        ours.sendall(setup_frame(self._folder))  # fits into the socket's buffer, so it does not wait for the worker
        ours.setblocking(False)

    def _end(self) -> None:
        self._stream.close()
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process; a request under way is told Unavailable, and closes our end of the socket itself."""
        self._closed = True
        if self._turn.locked():
            self._process.kill()
        else:
            self._end()


def _program() -> str:
    """Return what a worker runs: our own import path without the current directory, and nothing of `site`."""
    roots = [str(Path(package.__path__[0]).absolute().parent) for package in (ca, trustfed)]
    path = [entry for entry in [*sys.path, *roots] if Path(entry).is_absolute()]
    return (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # Ctrl-C is for the parent, which ends us
        f"sys.path[:] = {path!r}; from ca.keys.worker import main; main()"
    )
