"""What a service gives the server: a route table from path to handler.

Four shapes. `Unary` and `Watch` answer in the turn that read the request, without a task, when their answer is there
already: bytes prepared at rotation time, not at call time. Handlers get and give the bytes of protobuf messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Peer(Protocol):
    """Who is at the other end: fixed when the connection was accepted, closed when it has ended."""

    def close(self) -> None: ...


class Call(NamedTuple):
    """One call: what was asked, by whom, until when.

    `metadata` has lower-case names and values in order; do not change it. A `-bin` value is the latin-1 text of its
    decoded bytes (`binary` gives the bytes). `deadline` is a time of the event loop's clock in seconds, or None. `peer`
    is what `accept` returned for this connection.
    """

    path: str
    metadata: Mapping[str, list[str]]
    deadline: float | None
    peer: Peer

    def binary(self, name: str) -> list[bytes]:
        """Give the values of the `-bin` metadata `name` as bytes."""
        return [value.encode("latin-1") for value in self.metadata.get(name, [])]


class Feed(Protocol):
    """The sending end of one watched stream. A slow reader gets the newest message only; older ones are dropped."""

    def send(self, message: bytes) -> None:
        """Replace what has not been sent yet by `message`."""

    def end(self, error: BaseException | None = None) -> None:
        """End the stream after what is still to be sent: OK, or the status of `error` at once."""


@dataclass(frozen=True, slots=True)
class Unary:
    """One message in, one out. A plain function that returns bytes is answered in the same turn."""

    answer: Callable[[Call, bytes], bytes | Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Watch:
    """One message in, then the newest state whenever it changes.

    `open(call, request, feed)` sends the first state at once (or later), keeps `feed` among its subscribers, and
    returns the function that forgets it; the server calls that exactly once when the stream has ended for any reason.
    """

    open: Callable[[Call, bytes, Feed], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class ServerStream:
    """One message in, every message of the iterator out; the next one is asked for when the last has left."""

    answer: Callable[[Call, bytes], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Bidi:
    """Messages in and out, both at the reader's pace."""

    answer: Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]]


Handler = Unary | Watch | ServerStream | Bidi
Routes = Mapping[str, Handler]
