"""The form of every sealed file, pure: a header that says what it is and for whom, then AES-256-GCM under a key of its own.

    trustfed-cache 1 KIND\\n     the format, its version, and what this file is
    key id        8 bytes       tells another key from damage; reveals no more than the GCM tags do
    node         16 bytes       a hash of the node's SPIFFE ID
    salt         32 bytes       the file's key is HKDF-SHA256(sealing key, salt, KIND)
    length        8 bytes       of what follows the header, big-endian
    check         8 bytes       SHA-256 over the header so far, cut: tells damage from everything else
    sealed parts                nonce = their place in the file, associated data = version, node ID, name

Each file is written once, under a key of its own: no nonce is ever used twice, however often the process starts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from agent.cache.refusal import Refused
from trustfed.spiffe.ids import SpiffeId

TAG = 16
VERSION = 1
_FORMAT = b"trustfed-cache "
_VERSIONED = _FORMAT + b"%d " % VERSION
_LONGEST_LINE = 64
_FIXED = 8 + 16 + 32 + 8 + 8
_ANEW = "nothing needs to be done: the agent begins a new cache once its cluster has answered"

Randomness = Callable[[int], bytes]


class Box:
    """The parts of one file: each is sealed and opened by its place (0, 1, ...) and its name."""

    def __init__(self, key: bytes, node: SpiffeId) -> None:
        self._cipher = AESGCM(key)
        self._data = _FORMAT + b"%d\0" % VERSION + str(node).encode() + b"\0"

    def seal(self, place: int, name: str, plain: bytes) -> bytes:
        """`plain` and TAG bytes."""
        return self._cipher.encrypt(place.to_bytes(12), plain, self._data + name.encode())

    def open(self, place: int, name: str, sealed: bytes | memoryview) -> bytes:
        """What was sealed with this place and name. Raises ValueError for anything else."""
        try:
            return self._cipher.decrypt(place.to_bytes(12), sealed, self._data + name.encode())
        except InvalidTag:
            raise ValueError("it does not decrypt") from None


class Sealer:
    """Seals files to one node under one sealing key of 32 bytes."""

    def __init__(self, key: bytes, node: SpiffeId, randomness: Randomness) -> None:
        self._key, self._node_id, self._randomness = key, node, randomness
        self._id = HKDFExpand(SHA256(), 8, b"trustfed-cache key id").derive(key)
        self._node = hashlib.sha256(b"trustfed-cache node\0" + str(node).encode()).digest()[:16]

    def begin(self, kind: str) -> tuple[bytes, Box]:
        """The salt of a new file, for `header`, and its box."""
        salt = self._randomness(32)
        return salt, self._box(kind, salt)

    def header(self, kind: str, salt: bytes, length: int) -> bytes:
        """What stands before `length` bytes of sealed parts."""
        start = _line(kind) + self._id + self._node + salt + length.to_bytes(8)
        return start + hashlib.sha256(start).digest()[:8]

    def file(self, kind: str, plain: bytes) -> bytes:
        """A whole file with one part."""
        salt, box = self.begin(kind)
        return self.header(kind, salt, len(plain) + TAG) + box.seal(0, kind, plain)

    def open(self, kind: str, data: bytes) -> tuple[Box, memoryview]:
        """The box and the sealed parts of a file, whose every byte but those of the parts is as it must be."""
        # 1. The format and the version are ours.
        if not data.startswith(_VERSIONED):
            _refuse_format(kind, data)
        # 2. The header is whole and undamaged, and of this very file.
        line = data.find(b"\n", 0, _LONGEST_LINE) + 1
        size = line + _FIXED
        if (not line and len(data) < _LONGEST_LINE) or len(data) < size:
            raise Refused("truncated", f"the {kind} ends within its header", _ANEW)
        start = data[: size - 8]
        if not line or hashlib.sha256(start).digest()[:8] != data[size - 8 : size]:
            raise Refused("damaged", f"the header of the {kind} is damaged", _ANEW)
        if not data.startswith(_line(kind)):
            raise Refused("swapped", f"another file lies in the place of the {kind}", _ANEW)
        # 3. It was sealed for this node, with this key.
        key_id, node, salt = (start[line + a : line + b] for a, b in ((0, 8), (8, 24), (24, 56)))
        if node != self._node:
            raise Refused("other_node", f"the {kind} was sealed for another node than {self._node_id}", _ANEW)
        if key_id != self._id:
            raise Refused("other_key", f"the {kind} was sealed with another key than the one in use", _ANEW)
        # 4. Nothing is missing behind it, and nothing was added.
        length, found = int.from_bytes(start[-8:]), len(data) - size
        if found < length:
            raise Refused("truncated", f"the {kind} ends after {found} of {length} sealed bytes", _ANEW)
        if found > length:
            raise Refused("damaged", f"the {kind} has {found - length} bytes behind its end", _ANEW)
        return self._box(kind, salt), memoryview(data)[size:]

    def open_file(self, kind: str, data: bytes) -> bytes:
        """The one part of a file that `file` made."""
        box, sealed = self.open(kind, data)
        try:
            return box.open(0, kind, sealed)
        except ValueError:
            raise Refused("damaged", f"the {kind} was altered: it does not decrypt", _ANEW) from None

    def _box(self, kind: str, salt: bytes) -> Box:
        return Box(HKDF(SHA256(), 32, salt, _line(kind)).derive(self._key), self._node_id)


def _line(kind: str) -> bytes:
    return _FORMAT + f"{VERSION} {kind}\n".encode()


def _refuse_format(kind: str, data: bytes) -> None:
    if _VERSIONED.startswith(data):
        raise Refused("truncated", f"the {kind} ends within its first line", _ANEW)
    if re.match(_FORMAT + rb"\d{1,9} ", data):
        raise Refused("unknown_version", f"the {kind} has a version that this trustfed does not know", _ANEW)
    raise Refused("damaged", f"the {kind} does not begin like one", _ANEW)
