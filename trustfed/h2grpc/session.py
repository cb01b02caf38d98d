"""The HTTP/2 session of one connection: frames to calls, calls to frames, and what the peer may not do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)

from trustfed.h2grpc.deadlines import Deadlines
from trustfed.h2grpc.limits import Limits, Patience
from trustfed.h2grpc.service import Peer, Routes
from trustfed.h2grpc.status import Code, Refused
from trustfed.h2grpc.stream import Stream
from trustfed.h2grpc.wire import Http2, Opened

_ACKNOWLEDGE = 16_384
"""Bytes taken from the connection's window before it is given back."""


class Over(Exception):
    """The session ends here: the peer has said goodbye (no reason), or gone beyond a bound (the reason)."""


class Carrier(Protocol):
    """What carries the session's bytes."""

    write_paused: bool

    def flush(self) -> None: ...

    def flush_soon(self) -> None: ...


class Session:
    """`feed` takes bytes; what is to be sent gathers in `http2` until the carrier fetches it."""

    def __init__(
        self,
        routes: Routes,
        peer: Peer,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        carrier: Carrier,
        deadlines: Deadlines,
    ) -> None:
        self.peer = peer
        self.limits = limits
        self.loop = loop
        self.now = loop.time
        self.carrier = carrier
        self.deadlines = deadlines
        self.http2 = Http2(limits)
        self.patience = Patience(limits.patience, limits.patience_per_second, self.now())
        self.blocked: dict[int, Stream] = {}
        """Streams with something to send that a window or the socket has no room for."""
        self.streams: dict[int, Stream] = {}
        self.held = 0
        """Bytes of unfinished frames and requests."""
        self.shaken = False
        """The peer has sent its preface and settings."""
        self.leaving = False
        self.over = False
        self._routes = routes
        self._taken = 0
        self._idle_since = self.now()
        self._unfinished_since = 0.0

    def feed(self, chunk: bytes) -> None:
        """Take received bytes. Raises Over, or h2's ProtocolError with GOAWAY ready to be sent."""
        http2 = self.http2
        events = http2.receive_data(chunk)
        for event in events:
            act = _ACTS.get(event.__class__)
            if act is not None:
                act(self, event)
        unfinished = http2.unfinished
        if not unfinished:
            self._unfinished_since = 0.0
        elif events or not self._unfinished_since:
            self._unfinished_since = self.now()
        self.held = unfinished
        if self.streams:
            self.held += sum([stream.held for stream in self.streams.values()])
        if unfinished > 2 * self.limits.header_list + 16_384:
            raise self.calm("header block too long")
        if http2.useless:
            useless, http2.useless = http2.useless, 0
            if not self.patience.spend(useless, self.now()):
                raise self.calm("too many frames without use")

    def calm(self, why: str) -> Over:
        """Say ENHANCE_YOUR_CALM; the caller raises what this returns, or closes."""
        self.http2.announce_end(ErrorCodes.ENHANCE_YOUR_CALM)
        return Over(why)

    def _opened(self, event: Event) -> None:
        assert isinstance(event, Opened)
        if not self.http2.alive(event.stream_id):
            return  # reset in the same breath; the reset counts
        if self.leaving:
            self.http2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = Stream(self, event, self._routes.get(event.head.path), self.now())
        self.streams[event.stream_id] = stream
        stream.start(event)

    def _data(self, event: Event) -> None:
        assert isinstance(event, DataReceived)
        self._taken += event.flow_controlled_length or 0
        if self._taken >= _ACKNOWLEDGE:
            self.http2.increment_flow_control_window(self._taken)
            self._taken = 0
        stream = self.streams.get(event.stream_id)
        if stream is not None and event.data and self.http2.alive(event.stream_id):
            stream.receive(event.data)

    def _ended(self, event: Event) -> None:
        assert isinstance(event, StreamEnded)
        stream = self.streams.get(event.stream_id)
        if stream is not None and self.http2.alive(event.stream_id):
            stream.half_close()

    def _reset(self, event: Event) -> None:
        assert isinstance(event, StreamReset)
        stream = self.streams.get(event.stream_id)
        if stream is None or not stream.answered:
            self.http2.useless += 1  # rapid reset: work asked for and thrown away
        if stream is not None:
            stream.forget()

    def _settings(self, _: Event) -> None:
        self.shaken = True
        self.pump()

    def _window(self, _: Event) -> None:
        self.pump()

    def _terminated(self, _: Event) -> None:
        raise Over

    def pump(self) -> None:
        """Send what there is room for now."""
        if self.blocked:
            for stream in list(self.blocked.values()):
                stream.pump()

    def consumed(self, identifier: int, size: int) -> None:
        """A handler has taken `size` bytes of a stream: its window is given back."""
        if not self.over and self.http2.alive(identifier):
            self.http2.increment_flow_control_window(size, identifier)
            self.carrier.flush_soon()

    def forget(self, stream: Stream) -> None:
        """A stream has ended."""
        self.streams.pop(stream.identifier, None)
        self.blocked.pop(stream.identifier, None)
        if not self.streams:
            self._idle_since = self.now()
            self.carrier.flush_soon()

    def end(self) -> None:
        """The connection is gone: so is every call."""
        self.over = True
        for stream in list(self.streams.values()):
            stream.forget()

    def sweep(self, now: float) -> None:
        """End what the peer leaves undone for too long. Raises Over."""
        limits = self.limits
        if self._unfinished_since and now - self._unfinished_since > limits.drip:
            raise self.calm("a frame was never finished")
        if not self.streams and now - self._idle_since > limits.idle:
            self.http2.announce_end()
            raise Over
        for stream in list(self.streams.values()):
            slow = now - stream.since
            if stream.identifier in self.blocked and slow > limits.stall:
                stream.reset(ErrorCodes.CANCEL)
            elif stream.overdue and slow > limits.drip:
                stream.end(Refused(Code.DEADLINE_EXCEEDED, "the request was never finished"))
            elif stream.part_since and now - stream.part_since > limits.drip:
                stream.end(Refused(Code.DEADLINE_EXCEEDED, "a message was never finished"))

    def leave(self) -> None:
        """Send the client elsewhere; calls whose one answer is being made may finish, the others end now."""
        self.leaving = True
        self.http2.announce_end()
        for stream in list(self.streams.values()):
            if not stream.answering:
                stream.end(Refused(Code.UNAVAILABLE, "the server is stopping"))

    def cut(self) -> None:
        """End what `leave` left."""
        for stream in list(self.streams.values()):
            stream.end(Refused(Code.UNAVAILABLE, "the server is stopping"))


_ACTS: dict[type[Event], Callable[[Session, Event], None]] = {
    Opened: Session._opened,
    DataReceived: Session._data,
    StreamEnded: Session._ended,
    StreamReset: Session._reset,
    WindowUpdated: Session._window,
    RemoteSettingsChanged: Session._settings,
    ConnectionTerminated: Session._terminated,
}
