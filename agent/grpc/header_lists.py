"""Header lists of requests: decoded as hpack does, and remembered once h2's validation has passed them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache

from hpack import Decoder, HeaderTuple, HPACKError, NeverIndexedHeaderTuple, OversizedHeaderListError
from hpack.huffman_table import decode_huffman

from agent.grpc import request

_ANY_TIMEOUT = (b"grpc-timeout", b"1S")


@lru_cache(maxsize=1024)
def _huffman(raw: bytes) -> bytes:
    """Decode one short string; the same ones come with each new connection. Raises HPACKDecodingError."""
    return bytes(decode_huffman(raw))


class LeanDecoder(Decoder):
    """hpack's decoder with a short way for indexed fields and short literals, of which nearly all requests consist."""

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        headers: list[HeaderTuple] = []
        table = self.header_table
        size = at = 0
        while at < len(data):
            first = data[at]
            if 0x80 < first < 0xFF:
                header, used = HeaderTuple(*table.get_by_index(first & 0x7F)), 1
            elif first & 0x80:
                header, used = self._decode_indexed(data[at:])
            elif first & 0x40:
                header, used = self._literal(data, at, 0x3F) or self._decode_literal_index(data[at:])
            elif first & 0x20:
                return super().decode(data, raw) if not at else self._misplaced(data, at)
            else:
                header, used = self._literal(data, at, 0x0F) or self._decode_literal_no_index(data[at:])
            headers.append(header)
            size += 32 + len(header[0]) + len(header[1])
            if size > self.max_header_list_size:
                raise OversizedHeaderListError(f"a header list larger than {self.max_header_list_size} bytes")
            at += used
        self._assert_valid_table_size()
        return headers

    def _literal(self, data: bytes, at: int, mask: int) -> tuple[HeaderTuple, int] | None:
        """Decode a literal whose index and lengths are one byte each; None leaves anything else to hpack."""
        index = data[at] & mask
        end = at + 1
        if index == mask or end >= len(data):
            return None
        name = self.header_table.get_by_index(index)[0] if index else None
        strings = []
        for _ in range(1 if index else 2):
            size = data[end] & 0x7F if end < len(data) else 0x7F
            raw = data[end + 1 : end + 1 + size]
            if size == 0x7F or len(raw) != size:
                return None
            strings.append(_huffman(raw) if data[end] & 0x80 else raw)
            end += 1 + size
        value = strings.pop()
        if name is None:
            name = strings[0]
        if mask == 0x3F:
            self.header_table.add(name, value)
        elif data[at] & 0x10:
            return NeverIndexedHeaderTuple(name, value), end - at
        return HeaderTuple(name, value), end - at

    @staticmethod
    def _misplaced(data: bytes, at: int) -> Iterable[HeaderTuple]:
        raise HPACKError(f"table size update at byte {at} of {len(data)}, not at the start of the block")


class Memo:
    """Header lists that passed h2's validation, with what they mean; the least recently used are forgotten."""

    ENTRIES = 256
    LONGEST = 1024
    """Bytes of header names and values; longer lists are validated each time."""
    _NEVER = frozenset({b"content-length", b"cookie"})  # h2 keeps or changes something for these
    _VARYING = b"grpc-timeout"

    def __init__(self) -> None:
        self._heads: OrderedDict[tuple[HeaderTuple | tuple[bytes, bytes], ...], request.Head] = OrderedDict()

    @classmethod
    def key(cls, headers: list[HeaderTuple]) -> tuple[tuple[tuple[bytes, bytes], ...], bytes | None]:
        """The list with a well-formed timeout, which differs from call to call, set to one fixed value."""
        timeout = None
        for at, (name, value) in enumerate(headers):
            if name == cls._VARYING:
                if timeout is None and request.TIMEOUT.fullmatch(value):
                    normal: list[tuple[bytes, bytes]] = list(headers)
                    normal[at] = _ANY_TIMEOUT
                    return tuple(normal), value
                timeout = value
        return tuple(headers), timeout

    def get(self, key: tuple[tuple[bytes, bytes], ...]) -> request.Head | None:
        head = self._heads.get(key)
        if head is not None:
            self._heads.move_to_end(key)
        return head

    def add(self, key: tuple[tuple[bytes, bytes], ...], head: request.Head) -> None:
        if sum(len(name) + len(value) for name, value in key) > self.LONGEST:
            return
        if any(name in self._NEVER for name, _ in key):
            return
        self._heads[key] = head
        if len(self._heads) > self.ENTRIES:
            self._heads.popitem(last=False)
