"""The server's end of one HTTP/2 connection: h2, with what a gRPC server repeats on every call made cheap.

h2 holds the state of connection and streams, and judges all that is not plain (quick.py). Leaner here:
- a header list that h2's validation has passed once is not validated again (memo over the exact list, bounded);
- our response headers are constant blocks without a reference to the dynamic table, encoded once by `hpack`;
- what is sent in the usual state changes that state at once, without h2's state machine;
- h2's trace logging of each frame, which formats it even when nobody listens, is left out.
tests/unit/h2grpc/test_wire.py runs the same bytes through a plain H2Connection and compares.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from h2.errors import ErrorCodes
from h2.events import Event, RequestReceived, StreamEnded
from h2.exceptions import (
    DenialOfServiceError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
    TooManyStreamsError,
)
from h2.stream import StreamClosedBy, StreamInputs, StreamState
from hpack import Encoder, HeaderTuple, HPACKError, NeverIndexedHeaderTuple, OversizedHeaderListError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
)

from trustfed.h2grpc import request, status
from trustfed.h2grpc.header_lists import Memo
from trustfed.h2grpc.quick import END_HEADERS, END_STREAM, FRAME_HEADER, Quick

_MESSAGE_PREFIX = struct.Struct(">BL")


def _block(*headers: tuple[bytes, bytes]) -> bytes:
    """Encode headers so that the block means the same at any time: literals that enter no dynamic table."""
    return bytes(Encoder().encode([NeverIndexedHeaderTuple(*header) for header in headers]))


_RESPONSE = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_BEGIN = _block(*_RESPONSE)


@lru_cache(maxsize=128)
def _end(code: int, message: str, http: int | None) -> bytes:
    """Encode the trailers; with `http` they are a whole response ("trailers-only")."""
    headers = [] if http is None else [(b":status", b"%d" % http), _RESPONSE[1]]
    headers.append((b"grpc-status", b"%d" % code))
    if message:
        headers.append((b"grpc-message", status.percent_encode(message)))
    return _block(*headers)


@dataclass(slots=True)
class Opened(Event):
    """A request's headers have arrived, valid for HTTP/2; `head` says what they mean to gRPC."""

    stream_id: int
    head: request.Head
    timeout: bytes | None
    headers: list[HeaderTuple]


_MEMO = Memo()


class Http2(Quick):
    """One connection: `receive_data` gives h2's events, with `Opened` for a request; bytes to send gather inside."""

    # What is received.

    def _receive_frame(self, frame: Frame) -> list[Event]:
        """As h2's, without its trace log; counts the frames that floods are made of."""
        kind = frame.__class__
        if kind is not HeadersFrame and kind is not RstStreamFrame and (kind is not DataFrame or not _moves(frame)):
            self.useless += 1
        events: list[Event]
        try:
            frames, events = getattr(self, self._frame_dispatch_table[kind])(frame)
        except StreamClosedError as error:
            if not self._stream_is_closed_by_reset(error.stream_id):
                raise
            frames, events = [self._closed(error.stream_id, error.error_code)], error._events
        except StreamIDTooLowError as error:
            if self._stream_is_closed_by_reset(error.stream_id):
                frames, events = [self._closed(error.stream_id, ErrorCodes.STREAM_CLOSED)], []
            elif self._stream_is_closed_by_end(error.stream_id):
                raise StreamClosedError(error.stream_id) from error
            else:
                raise
        if frames:
            self._prepare_for_sending(frames)
            if any(isinstance(sent, RstStreamFrame) for sent in frames):
                self.useless += 1  # a reset that the peer provoked ("MadeYouReset")
        return events

    @staticmethod
    def _closed(stream_id: int, code: ErrorCodes | int) -> RstStreamFrame:
        return RstStreamFrame(stream_id, error_code=int(code))

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        """As h2's; a list validated before takes the short way."""
        stream_id = frame.stream_id
        if stream_id in self.streams or "PRIORITY" in frame.flags:
            self.useless += 1
            return self._opened(*super()._receive_headers_frame(frame))
        if self.open_inbound_streams >= self.local_settings.max_concurrent_streams:
            raise TooManyStreamsError(f"more than {self.local_settings.max_concurrent_streams} streams")
        if not stream_id & 1 or stream_id <= self.highest_inbound_stream_id:
            return self._opened(*super()._receive_headers_frame(frame))
        events: list[Event] = []
        self.opened(stream_id, frame.data, "END_STREAM" in frame.flags, events)
        return [], events

    def opened(self, stream_id: int, block: bytes, ended: bool, events: list[Event]) -> None:
        headers = self._decode(block)
        stream = self.add_stream(stream_id)
        key, timeout = _MEMO.key(headers)
        head = _MEMO.get(key)
        if head is None:
            _, stream_events = stream.receive_headers(headers, ended, None)
            valid = stream_events[0].headers  # type: ignore[attr-defined]
            head = request.read(valid)
            _MEMO.add(key, head)
            events.append(Opened(stream_id, head, timeout, valid))
            events += stream_events[1:]
            return
        machine = stream.state_machine
        machine.state, machine.client, machine.headers_received = StreamState.OPEN, False, True
        events.append(Opened(stream_id, head, timeout, headers))
        if ended:
            machine.state = StreamState.HALF_CLOSED_REMOTE
            events.append(StreamEnded(stream_id=stream_id))

    def _decode(self, block: bytes) -> list[HeaderTuple]:
        if len(block) > 2 * self.decoder.max_header_list_size:
            raise DenialOfServiceError(f"a header block of {len(block)} bytes")  # before any work is put into it
        try:
            return list(self.decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            raise DenialOfServiceError(f"oversized header block: {error}") from error
        except (HPACKError, IndexError, TypeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"undecodable header block: {error}") from error

    @staticmethod
    def _opened(frames: list[Frame], events: list[Event]) -> tuple[list[Frame], list[Event]]:
        return frames, [
            Opened(event.stream_id, request.read(event.headers), _MEMO.key(event.headers)[1], event.headers)  # type: ignore[arg-type]
            if isinstance(event, RequestReceived)
            else event
            for event in events
        ]

    @property
    def unfinished(self) -> int:
        """Bytes of frames and header blocks that have begun and not ended."""
        buffer = self.incoming_buffer
        size = len(buffer._data)
        return size + sum(len(frame.data) for frame in buffer._headers_buffer) if buffer._headers_buffer else size

    # What is sent.

    def alive(self, stream_id: int) -> bool:
        """Whether anything may still be sent on this stream."""
        stream = self.streams.get(stream_id)
        return stream is not None and stream.state_machine.state is not StreamState.CLOSED

    def room(self, stream_id: int) -> int:
        """Bytes that one DATA frame on this stream may have now; 0 or less: wait for a WINDOW_UPDATE."""
        stream = self.streams[stream_id]
        return min(self.outbound_flow_control_window, stream.outbound_flow_control_window, self.max_outbound_frame_size)

    @property
    def unsent(self) -> int:
        """Bytes that wait for `data_to_send`."""
        return len(self._data_to_send)

    def begin(self, stream_id: int) -> None:
        """Send the response's headers."""
        machine = self.streams[stream_id].state_machine
        if machine.state is StreamState.HALF_CLOSED_REMOTE and not machine.headers_sent:
            machine.headers_sent = True
        else:
            machine.process_input(StreamInputs.SEND_HEADERS)
        self._headers(stream_id, _BEGIN, END_HEADERS)

    def data(self, stream_id: int, chunk: bytes) -> None:
        """Send a DATA frame; the caller has asked `room`."""
        stream = self.streams[stream_id]
        if stream.state_machine.state is not StreamState.HALF_CLOSED_REMOTE:
            stream.state_machine.process_input(StreamInputs.SEND_DATA)
        size = len(chunk)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self._data_to_send += FRAME_HEADER.pack(size >> 8, size & 0xFF, 0, 0, stream_id)
        self._data_to_send += chunk

    def finish(self, stream_id: int, code: int, message: str, http: int | None) -> None:
        """Send the trailers, or with `http` a whole response without messages, and end our side of the stream."""
        machine = self.streams[stream_id].state_machine
        if machine.state is StreamState.HALF_CLOSED_REMOTE and bool(machine.headers_sent) is (http is None):
            machine.headers_sent, machine.trailers_sent = True, http is None or None
            machine.state, machine.stream_closed_by = StreamState.CLOSED, StreamClosedBy.SEND_END_STREAM
        else:
            machine.process_input(StreamInputs.SEND_HEADERS)
            machine.process_input(StreamInputs.SEND_END_STREAM)
        self._headers(stream_id, _end(code, message, http), END_HEADERS | END_STREAM)
        if self.alive(stream_id):
            self.reset_stream(stream_id, ErrorCodes.NO_ERROR)  # what the client still has to say is not wanted

    def _headers(self, stream_id: int, block: bytes, flags: int) -> None:
        encoder = self.encoder
        if encoder.table_size_changes:
            # The peer has set its table's size: the next block must begin by saying that we have seen it (RFC 7541
            # §4.2). hpack forgets this where the same size is set twice, hence the flag.
            encoder.header_table.resized = True
            block = encoder.encode([]) + block
        size = len(block)
        self._data_to_send += FRAME_HEADER.pack(size >> 8, size & 0xFF, 1, flags, stream_id) + block

    def announce_end(self, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Send GOAWAY and keep the streams that are open: h2's own way of sending it would end them."""
        last = self.highest_inbound_stream_id
        self._data_to_send += GoAwayFrame(0, last_stream_id=last, error_code=int(code)).serialize()


class Framed(bytes):
    """A message that has its prefix already: streams that are sent the same one share these bytes."""


def prefixed(message: bytes) -> bytes:
    """Give `message` gRPC's 5-byte prefix: uncompressed, its length."""
    return message if isinstance(message, Framed) else _MESSAGE_PREFIX.pack(0, len(message)) + message


def _moves(frame: Any) -> bool:
    return bool(frame.data) or "END_STREAM" in frame.flags
