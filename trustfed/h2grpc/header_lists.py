"""Header lists of requests: decoded as hpack does, and remembered once h2's validation has passed them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache

from hpack import Decoder, HeaderTuple, HPACKError, InvalidTableIndex, NeverIndexedHeaderTuple, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from trustfed.h2grpc import request

_ANY_TIMEOUT = (b"grpc-timeout", b"1S")


class LeanTable(HeaderTable):
    """hpack's, of entries that are handed out as they are, and without its log of what leaves."""

    def add(self, name: bytes, value: bytes) -> None:
        self.add_header(HeaderTuple(name, value))

    def dynamic(self, at: int) -> HeaderTuple:
        """The entry `at` places behind the newest. Raises InvalidTableIndex."""
        if at < len(self.dynamic_entries):
            return self.dynamic_entries[at]  # type: ignore[return-value]
        raise InvalidTableIndex(f"no entry {at} in a table of {len(self.dynamic_entries)}")

    def add_header(self, header: HeaderTuple) -> None:
        size = 32 + len(header[0]) + len(header[1])
        if size > self._maxsize:
            self.dynamic_entries.clear()
            self._current_size = 0
            return
        self.dynamic_entries.appendleft(header)
        self._current_size += size
        while self._current_size > self._maxsize:
            name, value = self.dynamic_entries.pop()
            self._current_size -= 32 + len(name) + len(value)


_STATIC = tuple(HeaderTuple(*entry) for entry in HeaderTable.STATIC_TABLE)
_STATICS = len(_STATIC)


@lru_cache(maxsize=1024)
def _field(raw: bytes, mask: int) -> HeaderTuple:
    """Decode one short literal that does not need the dynamic table; the same ones come with each new connection.

    Raises HPACKDecodingError.
    """
    index = raw[0] & mask
    strings = [_STATIC[index - 1][0]] if index else []
    at = 1
    while at < len(raw):
        size = raw[at] & 0x7F
        strings.append(_string(raw[at : at + 1 + size]))
        at += 1 + size
    if mask == 0x0F and raw[0] & 0x10:
        return NeverIndexedHeaderTuple(*strings)
    return HeaderTuple(*strings)


class LeanDecoder(Decoder):
    """hpack's decoder with a short way for indexed fields and short literals, of which nearly all requests consist."""

    header_table: LeanTable

    def __init__(self, max_header_list_size: int) -> None:
        self.header_table = LeanTable()
        self.max_header_list_size = max_header_list_size
        self.max_allowed_table_size = self.header_table._maxsize

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        headers: list[HeaderTuple] = []
        table = self.header_table
        size = at = 0
        while at < len(data):
            first = data[at]
            if 0x80 < first < 0xFF:
                index = first - 0x81
                header = _STATIC[index] if index < _STATICS else table.dynamic(index - _STATICS)
                at += 1
            elif first == 0xFF and at + 1 < len(data) and data[at + 1] < 0x80:
                header = table.dynamic(0x7E - _STATICS + data[at + 1])
                at += 2
            elif first & 0x80:
                header, used = self._decode_indexed(data[at:])
                at += used
            elif first & 0x40:
                end = _short(data, at, 0x3F)
                if end:
                    header = _field(data[at:end], 0x3F)
                    table.add_header(header)
                    at = end
                elif first == 0x7F and (end := _short_value(data, at)):
                    # A name of the dynamic table with a new value: the timeout of most calls.
                    name = table.dynamic(0x3E - _STATICS + data[at + 1])[0]
                    header = HeaderTuple(name, _string(data[at + 2 : end]))
                    table.add_header(header)
                    at = end
                else:
                    header, used = self._decode_literal_index(data[at:])
                    at += used
            elif first & 0x20:
                return super().decode(data, raw) if not at else self._misplaced(data, at)
            else:
                end = _short(data, at, 0x0F)
                if end:
                    header, at = _field(data[at:end], 0x0F), end
                else:
                    header, used = self._decode_literal_no_index(data[at:])
                    at += used
            headers.append(header)
            size += 32 + len(header[0]) + len(header[1])
            if size > self.max_header_list_size:
                raise OversizedHeaderListError(f"a header list larger than {self.max_header_list_size} bytes")
        if table._maxsize > self.max_allowed_table_size:
            self._assert_valid_table_size()
        return headers

    @staticmethod
    def _misplaced(data: bytes, at: int) -> Iterable[HeaderTuple]:
        raise HPACKError(f"table size update at byte {at} of {len(data)}, not at the start of the block")


def _short(data: bytes, at: int, mask: int) -> int:
    """Where a literal ends whose name is new or static and whose index and lengths are one byte each; 0: none such."""
    index = data[at] & mask
    if index == mask or index > _STATICS:
        return 0
    end = at + 1
    for _ in range(1 if index else 2):
        if end >= len(data) or data[end] & 0x7F == 0x7F:
            return 0
        end += 1 + (data[end] & 0x7F)
    return end if end <= len(data) else 0


def _short_value(data: bytes, at: int) -> int:
    """Where a literal ends whose index has two bytes and whose length has one; 0: none such."""
    end = at + 2
    if end >= len(data) or data[at + 1] & 0x80 or data[end] & 0x7F == 0x7F:
        return 0
    end += 1 + (data[end] & 0x7F)
    return end if end <= len(data) else 0


def _string(raw: bytes) -> bytes:
    return bytes(decode_huffman(raw[1:])) if raw[0] & 0x80 else raw[1:]


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
