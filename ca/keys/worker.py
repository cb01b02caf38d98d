"""A signing worker: a process that signs digests for its parent, over the socket that is its standard input.

A frame is a length (4 bytes, big endian) and a body. The first frame is the setup, JSON: where the key files lie and
where their wrapping secret lies (paths, no secrets). Then each request has one answer, in order:

    b"S" + length of the name (1 byte) + name + 32-byte digests  →  b"=" + (length (1 byte) + DER signature) for each
    b"F" + length of the name + name: forget the key              →  b"="
    anything that was refused                                    →  b"!" + JSON [error class, message, hint]

The worker reads the key files itself, when first asked for a key. It ends at the end of the stream, so it never
outlives its parent. Whatever else goes wrong ends it too, and the parent starts another. It imports little, to start
in 0.1 s.
"""

from __future__ import annotations

import json
import resource
import socket
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from ca.keys.digests import DIGEST_BYTES, sign_digests
from ca.keys.folder import KeyFolder
from ca.keys.port import EC_P256, MAX_MESSAGES, PrivateKey, check_key_kind
from ca.keys.wrapping import wrapping_from
from trustfed.errors import TrustfedError

SIGN = b"S"
FORGET = b"F"
DONE = b"="
REFUSED = b"!"
MAX_FRAME = 64 + 2 + MAX_MESSAGES * (DIGEST_BYTES + 48)  # the largest request and the largest answer fit


def framed(body: bytes) -> bytes:
    """Return the frame of a body."""
    return len(body).to_bytes(4, "big") + body


def setup_frame(folder: KeyFolder) -> bytes:
    """Return the first frame: where the worker finds the keys of this folder."""
    setup = {
        "directory": str(folder.directory.absolute()),
        "source": folder.wrapping.source,
        "path": str(folder.wrapping.path.absolute()),
    }
    return framed(json.dumps(setup).encode())


def request(operation: bytes, name: str, digests: list[bytes]) -> bytes:
    """Return the frame of a request."""
    return framed(operation + bytes([len(name)]) + name.encode() + b"".join(digests))


def serve(stream: socket.socket) -> None:
    """Answer requests until the stream ends."""
    setup = json.loads(_receive(stream))
    folder = KeyFolder(Path(setup["directory"]), wrapping_from(setup["source"], Path(setup["path"])))
    held: dict[str, PrivateKey] = {}
    while body := _receive(stream):
        try:
            answer = DONE + _answer(body, folder, held)
        except TrustfedError as error:
            answer = REFUSED + json.dumps([type(error).__name__, error.message, error.hint]).encode()
        stream.sendall(framed(answer))


def _answer(body: bytes, folder: KeyFolder, held: dict[str, PrivateKey]) -> bytes:
    start = 2 + body[1]
    name = body[2:start].decode()
    if body[:1] == FORGET:
        held.pop(name, None)
        return b""
    if name not in held:
        held[name] = folder.load(name)
    key = held[name]
    check_key_kind(name, key, EC_P256)
    assert isinstance(key, EllipticCurvePrivateKey)  # checked just now: a digest is nothing to an ed25519 key
    digests = [body[at : at + DIGEST_BYTES] for at in range(start, len(body), DIGEST_BYTES)]
    return b"".join(bytes([len(signature)]) + signature for signature in sign_digests(key, digests))


def _receive(stream: socket.socket) -> bytes:
    """Return the next body, or b"" at the end of the stream."""
    length = int.from_bytes(_exactly(stream, 4), "big")
    if length > MAX_FRAME:
        raise ValueError("frame too large")
    return _exactly(stream, length)


def _exactly(stream: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        chunk = stream.recv(count - len(content))
        if not chunk:
            return b""
        content += chunk
    return content


def main() -> None:
    """Serve the socket at descriptor 0."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold keys
    serve(socket.socket(fileno=0))
