"""The short way through h2: the plain frames of a gRPC client, taken from their bytes; all others go through h2 itself.

Whole, unpadded PING, WINDOW_UPDATE, RST_STREAM, DATA, HEADERS, GOAWAY and empty SETTINGS frames that are valid in the present
state change h2's own records as h2 would, without a frame object, a set of flags and an event for each step. A frame
with anything unusual about it, or wrong with it, is h2's to judge. Connections and streams are h2's as well, built from
ready parts. tests/unit/h2grpc/test_wire.py compares all of it with plain h2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import islice
from typing import Any

from h2.connection import ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.errors import _error_code_from_int
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.settings import Settings
from h2.stream import H2Stream, StreamClosedBy, StreamState
from hpack import Encoder
from hyperframe.frame import Frame, SettingsFrame

from trustfed.h2grpc.header_lists import LeanDecoder
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.parts import CONFIG, ENCODER, METHODS, THEIR_SETTINGS, LeanStream, LeanWindow, own_settings

FRAME_HEADER = struct.Struct(">HBBBL")
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS_ACK = SettingsFrame(0, flags=["ACK"]).serialize()
_PING_ACK = FRAME_HEADER.pack(0, 8, 6, ACK, 0)
_LARGEST_WINDOW = 2**31 - 1
_REJOINED = 64
"""Bytes of an unfinished frame that are put before what follows; a longer one is left to h2, which appends in place."""


class Quick(H2Connection):
    """One connection of the server, that has said its settings."""

    MAX_CLOSED_STREAMS = 512
    """Of which the older half is forgotten; h2 would remember 65,536 for each connection."""
    _frame_dispatch_table: dict[type[Frame], str] = METHODS  # type: ignore[assignment]
    """The names of h2's methods, the same for all connections; h2 binds twelve methods for each."""

    def __init__(self, limits: Limits) -> None:
        # All that H2Connection.__init__ and initiate_connection do.
        self.config = CONFIG
        self.local_settings, said = own_settings(limits)
        self.remote_settings, self.encoder = THEIR_SETTINGS, ENCODER
        self.state_machine = H2ConnectionStateMachine()
        self.streams: dict[int, H2Stream] = {}
        self.highest_inbound_stream_id = self.highest_outbound_stream_id = 0
        self.decoder = LeanDecoder(limits.header_list)
        self.outbound_flow_control_window = 65_535
        self.max_outbound_frame_size = self.max_inbound_frame_size = 16_384
        self.incoming_buffer = FrameBuffer(server=True)
        self._header_frames: list[Frame] = []
        self._data_to_send = bytearray(said)
        self._closed_streams: dict[int, StreamClosedBy | None] = {}
        self._inbound_flow_control_window_manager = LeanWindow(65_535)
        self.useless = 0
        """Frames received since the caller last set this to 0 that moved no call forward."""

    def receive_data(self, data: bytes) -> list[Event]:  # type: ignore[override]
        """As h2's; frames that change nothing but our answer (PING, acknowledgements) give no event."""
        buffer = self.incoming_buffer
        if buffer._preamble_len:
            if buffer._preamble_len != len(_PREFACE) or not data.startswith(_PREFACE):
                return super().receive_data(data)
            buffer._preamble, buffer._preamble_len = b"", 0
            data = data[len(_PREFACE) :]
        elif buffer._data:
            if len(buffer._data) > _REJOINED:
                return super().receive_data(data)
            data = bytes(buffer._data) + data
            buffer._data.clear()
        events: list[Event] = []
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(data, at)
            body = at + 9
            following = body + (high << 8) + low
            if following > end:
                break
            if (
                kind > 8
                or following - body > self.max_inbound_frame_size
                or buffer._headers_buffer
                or self.state_machine.state is ConnectionState.CLOSED
                or not _WAYS[kind](self, data[body:following], flags, stream_id & 0x7FFFFFFF, events)
            ):
                events += super().receive_data(data[at:following])
            at = following
        if at < end:
            events += super().receive_data(data[at:])
        return events

    # Each gives False, and has changed nothing, where h2 is to judge.

    def _settings_quickly(self, body: bytes, flags: int, stream_id: int, events: list[Event]) -> bool:
        if body or stream_id:
            return False
        self.useless += 1
        if not flags & ACK:
            self._data_to_send += _SETTINGS_ACK
            events.append(RemoteSettingsChanged())
        return True

    def _ping_quickly(self, body: bytes, flags: int, stream_id: int, _: list[Event]) -> bool:
        if len(body) != 8 or stream_id:
            return False
        self.useless += 1
        if not flags & ACK:
            self._data_to_send += _PING_ACK + body
        return True

    def _window_quickly(self, body: bytes, _: int, stream_id: int, events: list[Event]) -> bool:
        if len(body) != 4:
            return False
        increment = int.from_bytes(body, "big")
        target: Quick | H2Stream | None = self
        if stream_id:
            target = self.streams.get(stream_id)
            if target is None or target.state_machine.state not in _OPEN:
                return False
        assert target is not None
        window = target.outbound_flow_control_window + increment
        if not 0 < increment <= _LARGEST_WINDOW or window > _LARGEST_WINDOW:
            return False
        target.outbound_flow_control_window = window
        self.useless += 1
        events.append(WindowUpdated(stream_id=stream_id, delta=increment))
        return True

    def _reset_quickly(self, body: bytes, _: int, stream_id: int, events: list[Event]) -> bool:
        if len(body) != 4 or not stream_id or self.state_machine.state is not ConnectionState.SERVER_OPEN:
            return False
        stream = self.streams.get(stream_id)
        if stream is None or stream.state_machine.state is StreamState.CLOSED:
            self.useless += 1
            return True
        machine = stream.state_machine
        if machine.state not in _OPEN:
            return False
        machine.state, machine.stream_closed_by = StreamState.CLOSED, StreamClosedBy.RECV_RST_STREAM
        events.append(StreamReset(stream_id=stream_id, error_code=_error_code_from_int(int.from_bytes(body, "big"))))
        return True

    def _data_quickly(self, body: bytes, flags: int, stream_id: int, events: list[Event]) -> bool:
        stream = self.streams.get(stream_id)
        size = len(body)
        if (
            flags & PADDED
            or stream is None
            or stream.state_machine.state is not StreamState.OPEN
            or stream._expected_content_length is not None
        ):
            return False
        whole, own = self._inbound_flow_control_window_manager, stream._inbound_window_manager
        if size > whole.current_window_size or size > own.current_window_size:
            return False
        whole.current_window_size -= size
        own.current_window_size -= size
        stream._actual_content_length += size
        ended = StreamEnded(stream_id=stream_id) if flags & END_STREAM else None
        events.append(DataReceived(stream_id=stream_id, data=body, flow_controlled_length=size, stream_ended=ended))
        if ended is not None:
            stream.state_machine.state = StreamState.HALF_CLOSED_REMOTE
            events.append(ended)
        elif not size:
            self.useless += 1
        return True

    def _goaway_quickly(self, body: bytes, _: int, stream_id: int, events: list[Event]) -> bool:
        if stream_id or len(body) < 8 or body[0] & 0x80:
            return False
        self.useless += 1
        self.state_machine.state = ConnectionState.CLOSED
        self.clear_outbound_data_buffer()
        end = ConnectionTerminated()
        end.last_stream_id = int.from_bytes(body[:4], "big")
        end.error_code = _error_code_from_int(int.from_bytes(body[4:8], "big"))
        end.additional_data = body[8:] or None
        events.append(end)
        return True

    def _headers_quickly(self, body: bytes, flags: int, stream_id: int, events: list[Event]) -> bool:
        if (
            flags & (END_HEADERS | PADDED | PRIORITY) != END_HEADERS
            or not stream_id & 1
            or stream_id <= self.highest_inbound_stream_id
            or self._count_open() >= self.local_settings.max_concurrent_streams
        ):
            return False
        try:
            self.opened(stream_id, body, bool(flags & END_STREAM), events)
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise
        return True

    def opened(self, stream_id: int, block: bytes, ended: bool, events: list[Event]) -> None:
        """A new stream begins with the header block `block`; says what happened in `events`. Raises ProtocolError."""
        raise NotImplementedError

    def add_stream(self, stream_id: int) -> LeanStream:
        """Begin a stream, whose identifier has been checked."""
        stream = self.streams[stream_id] = LeanStream(
            stream_id,
            self.local_settings.initial_window_size,
            self.remote_settings.initial_window_size,
            self.max_outbound_frame_size,
        )
        self.highest_inbound_stream_id = stream_id
        self.state_machine.state = ConnectionState.SERVER_OPEN
        return stream

    def _count_open(self) -> int:
        """How many streams are open; forgets the others (h2's `open_inbound_streams`)."""
        streams = self.streams
        if streams:
            remembered = self._closed_streams
            for stream_id, stream in list(streams.items()):
                if stream.state_machine.state is StreamState.CLOSED:
                    del streams[stream_id]
                    remembered[stream_id] = stream.state_machine.stream_closed_by
            if len(remembered) > self.MAX_CLOSED_STREAMS:
                for stream_id in list(islice(remembered, self.MAX_CLOSED_STREAMS // 2)):
                    del remembered[stream_id]
        return len(streams)

    @property
    def open_inbound_streams(self) -> int:
        """As h2's."""
        return self._count_open()

    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[list[Frame], list[Event]]:
        if self.remote_settings is THEIR_SETTINGS:
            self.remote_settings, self.encoder = Settings(client=True), Encoder()
        return super()._receive_settings_frame(frame)


def _refused(*_: object) -> bool:
    return False


_OPEN = frozenset({StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE, StreamState.HALF_CLOSED_LOCAL})
_WAYS: tuple[Callable[[Any, bytes, int, int, list[Event]], bool], ...] = (
    Quick._data_quickly,
    Quick._headers_quickly,
    _refused,
    Quick._reset_quickly,
    Quick._settings_quickly,
    _refused,
    Quick._ping_quickly,
    Quick._goaway_quickly,
    Quick._window_quickly,
)
