"""Immutable tables for folded state: every version stays readable, and a change costs O(log n), not a copy."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any, Generic, TypeVar, get_args

import msgspec
from rpds import HashTrieMap

Row = TypeVar("Row")


class Table(Generic[Row]):
    """A persistent mapping from a string key to a row."""

    __slots__ = ("_rows",)

    def __init__(self, rows: HashTrieMap[str, Row] | None = None) -> None:
        self._rows: HashTrieMap[str, Row] = HashTrieMap() if rows is None else rows

    def put(self, key: str, row: Row) -> Table[Row]:
        """This table with `row` at `key`."""
        return Table(self._rows.insert(key, row))

    def drop(self, key: str) -> Table[Row]:
        """This table without `key`; the same table when it is not there."""
        return Table(self._rows.discard(key))

    def get(self, key: str) -> Row | None:
        return self._rows.get(key)

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self._rows == other._rows

    __hash__ = None  # type: ignore[assignment]

    def values(self) -> ValuesView[Row]:
        return self._rows.values()

    def items(self) -> ItemsView[str, Row]:
        return self._rows.items()


def encode_state(state: object) -> bytes:
    """A state of msgspec Structs and Tables as JSON, for a snapshot."""
    return msgspec.json.encode(state, enc_hook=_encode)


def decode_state(data: bytes, kind: type[Row]) -> Row:
    """The state that `encode_state` wrote; msgspec.ValidationError when it does not fit `kind`."""
    return msgspec.json.decode(data, type=kind, dec_hook=_decode)


def _encode(value: object) -> object:
    if isinstance(value, Table):
        return dict(value.items())
    raise NotImplementedError(type(value).__name__)


def _decode(kind: Any, value: object) -> object:
    (row,) = get_args(kind)
    rows: Any = dict[str, row]  # type: ignore[valid-type]
    return Table(HashTrieMap(msgspec.convert(value, rows, dec_hook=_decode)))
