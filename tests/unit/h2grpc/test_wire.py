"""Our lean HTTP/2 end says what a plain h2 connection says, for any bytes."""

from __future__ import annotations

import random
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.h2grpc.client import headers
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.wire import Http2, Opened

_SILENT = h2.events.PingReceived | h2.events.PingAckReceived | h2.events.SettingsAcknowledged
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _plain(limits: Limits) -> h2.connection.H2Connection:
    plain = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    lean = Http2(limits)
    plain.local_settings = h2.settings.Settings(client=False, initial_values=dict(lean.local_settings))
    plain.decoder.max_header_list_size = limits.header_list
    plain.initiate_connection()
    return plain


def _said(connection: h2.connection.H2Connection, data: bytes) -> tuple[list[Any], str, bytes]:
    """Events, error and bytes to send, in a form that compares."""
    error = ""
    events: list[h2.events.Event] = []
    try:
        events = connection.receive_data(data)
    except h2.exceptions.ProtocolError as caught:
        error = str(int(caught.error_code))
    said: list[Any] = []
    for event in events:
        if isinstance(event, Opened | h2.events.RequestReceived):
            said.append(("request", event.stream_id, [tuple(header) for header in event.headers or []]))
        elif isinstance(event, _SILENT):
            continue  # what they cause is in the bytes to send
        elif not isinstance(event, h2.events.UnknownFrameReceived | h2.events.RemoteSettingsChanged):
            said.append(
                {key: value for key, value in vars(event).items() if key not in ("stream_ended", "priority_updated")}
                | {"kind": type(event).__name__}
            )
        else:
            said.append(type(event).__name__)
    return said, error, connection.data_to_send()


LISTS = [
    headers(),
    headers("/test.Echo/Watch", ("grpc-timeout", "9999S")),
    headers("/test.Echo/Watch", ("grpc-timeout", "1m")),
    headers("/test.Echo/Watch", ("grpc-timeout", "nonsense")),
    headers("/a/b", ("Upper", "case")),
    headers("/a/b", ("connection", "close")),
    headers("/a/b", ("x", " space")),
    headers("/a/b", ("content-length", "3")),
    headers("/a/b", ("cookie", "a"), ("z", "1"), ("cookie", "b")),
    headers("/a/b", (":late", "x")),
    headers("/a/b", ("grpc-timeout", "1S"), (":method", "POST")),
    headers("/a/b", ("grpc-timeout", "1S"), ("grpc-timeout", "2S")),
    headers("/a/b", ("host", "localhost")),
    headers("/a/b", ("host", "other")),
    headers(te="gzip"),
    headers(authority=None),
    headers(method=None),
    [("grpc-timeout", "1S"), *headers()],
    [("x", "y")],
    [(":status", "200"), *headers()],
    [],
]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Mostly sensible frames of a client, in any order, on few streams, some spoilt."""
    encoder = hpack.Encoder()
    out = b""
    identifier = 1
    for _ in range(draw(st.integers(1, 12))):
        stream = draw(st.sampled_from([identifier, identifier, max(1, identifier - 2), 1, 3]))
        kind = draw(st.integers(0, 10))
        frame: Frame
        if kind <= 3:
            identifier += 2
            block = encoder.encode(draw(st.sampled_from(LISTS)))
            flags = ["END_HEADERS"] + (["END_STREAM"] if draw(st.booleans()) else [])
            frame = HeadersFrame(identifier, data=block, flags=flags)
            if draw(st.integers(0, 5)) == 0:
                frame.flags.discard("END_HEADERS")
                half = len(block) // 2
                frame.data = block[:half]
                rest = ContinuationFrame(identifier, data=block[half:], flags=["END_HEADERS"])
                out += frame.serialize()
                frame = rest
        elif kind == 4:
            frame = DataFrame(
                stream, data=draw(st.binary(max_size=20)), flags=draw(st.sampled_from([[], ["END_STREAM"]]))
            )
        elif kind == 5:
            frame = RstStreamFrame(stream, error_code=8)
        elif kind == 6:
            size = draw(st.sampled_from([0, 1, 65_535, 2**31 - 1]))
            frame = WindowUpdateFrame(draw(st.sampled_from([0, stream])), window_increment=size or 1)
        elif kind == 7:
            frame = PingFrame(0, opaque_data=b"12345678", flags=draw(st.sampled_from([[], ["ACK"]])))
        elif kind == 8:
            frame = SettingsFrame(
                0, settings=draw(st.dictionaries(st.integers(1, 6), st.integers(0, 70_000), max_size=3))
            )
        elif kind == 9:
            frame = PriorityFrame(stream, depends_on=0, stream_weight=3)
        else:
            frame = HeadersFrame(stream, data=encoder.encode([("trailer", "1")]), flags=["END_HEADERS", "END_STREAM"])
        out += frame.serialize()
    if draw(st.integers(0, 9)) == 0:
        out += GoAwayFrame(0).serialize()
    if draw(st.integers(0, 4)) == 0 and out:
        at = draw(st.integers(0, len(out) - 1))
        out = out[:at] + draw(st.binary(min_size=1, max_size=2)) + out[at + 1 :]
    return out


@settings(max_examples=400, deadline=None)
@given(data=frames(), cuts=st.integers(0, 2**32), twice=st.booleans())
def test_the_same_bytes_mean_the_same(data: bytes, cuts: int, twice: bool) -> None:
    limits = Limits()
    for _ in range(1 + twice):  # the second time, header lists come from the memo
        lean, plain = Http2(limits), _plain(limits)
        chance = random.Random(cuts)
        rest = PREFACE + SettingsFrame(0).serialize() + data
        while rest:
            size = chance.choice([1, 9, 30, 1000])
            chunk, rest = rest[:size], rest[size:]
            expected = _said(plain, chunk)
            assert _said(lean, chunk) == expected
            if expected[1]:
                return
        _same_state(lean, plain)


def _same_state(lean: Http2, plain: h2.connection.H2Connection) -> None:
    """Everything that h2 keeps of connection and streams, and that later frames are judged by."""
    for name in ("highest_inbound_stream_id", "outbound_flow_control_window", "max_outbound_frame_size"):
        assert getattr(lean, name) == getattr(plain, name), name
    assert lean.state_machine.state is plain.state_machine.state
    assert lean.inbound_flow_control_window == plain.inbound_flow_control_window
    assert lean.remote_settings == plain.remote_settings
    assert lean.local_settings == plain.local_settings
    assert lean.encoder.table_size_changes == plain.encoder.table_size_changes
    assert lean._closed_streams == plain._closed_streams
    assert set(lean.streams) == set(plain.streams)
    for identifier, stream in plain.streams.items():
        mine = lean.streams[identifier]
        for name in vars(stream.state_machine):
            assert getattr(mine.state_machine, name) == getattr(stream.state_machine, name), name
        for name in vars(stream).keys() - {"state_machine", "_inbound_window_manager", "config"}:
            assert getattr(mine, name) == getattr(stream, name), name
        for name, value in vars(stream._inbound_window_manager).items():
            assert getattr(mine._inbound_window_manager, name) == value, name


def test_what_is_built_from_ready_parts_has_every_part() -> None:
    """An attribute that a later h2 adds is missed here first."""
    lean, plain = Http2(Limits()), _plain(Limits())
    block = hpack.Encoder().encode(headers())
    data = PREFACE + SettingsFrame(0).serialize() + HeadersFrame(1, data=block, flags=["END_HEADERS"]).serialize()
    for connection in (lean, plain):
        connection.receive_data(data)
    for mine, theirs in (
        (lean, plain),
        (lean.decoder, plain.decoder),
        (lean.encoder, plain.encoder),
        (lean.streams[1], plain.streams[1]),
        (lean.streams[1].state_machine, plain.streams[1].state_machine),
        (lean.streams[1]._inbound_window_manager, plain.streams[1]._inbound_window_manager),
    ):
        for name in vars(theirs):
            assert hasattr(mine, name), f"{type(theirs).__name__}.{name}"
    _same_state(lean, plain)


def test_settings_of_one_connection_are_not_those_of_another() -> None:
    first, second = Http2(Limits()), Http2(Limits())
    changed = SettingsFrame(0, settings={1: 0, 4: 1, 5: 20_000}).serialize()
    first.receive_data(PREFACE + changed)
    second.receive_data(PREFACE + SettingsFrame(0).serialize())
    third = Http2(Limits())
    assert (first.remote_settings.initial_window_size, first.max_outbound_frame_size) == (1, 20_000)
    assert first.encoder.table_size_changes == [0]
    for other in (second, third):
        assert (other.remote_settings.initial_window_size, other.max_outbound_frame_size) == (65_535, 16_384)
        assert other.encoder.table_size_changes == []


def test_closed_streams_are_remembered_within_bounds() -> None:
    lean, encoder = Http2(Limits()), hpack.Encoder()
    lean.receive_data(PREFACE + SettingsFrame(0).serialize())
    for identifier in range(1, 6001, 2):
        block = encoder.encode(headers())
        lean.receive_data(HeadersFrame(identifier, data=block, flags=["END_HEADERS"]).serialize())
        lean.receive_data(RstStreamFrame(identifier, error_code=8).serialize())
        assert len(lean._closed_streams) <= Http2.MAX_CLOSED_STREAMS
        assert len(lean.streams) == 1
    assert max(lean._closed_streams) == 5997


@st.composite
def acts(draw: st.DrawFn) -> list[tuple[str, int]]:
    """What client and server do to a few streams, mostly in the order of gRPC calls."""
    kinds = ["open", "open", "message", "last", "begin", "answer", "finish", "trailers-only", "cancel", "reset"]
    kinds += ["window", "whole window", "ping", "half"]
    return draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 3)), max_size=25))


def _frames(data: bytes) -> list[tuple[str, int, Any]]:
    """What was sent; header blocks may be spelt in more than one way and are left out."""
    found = []
    while data:
        frame, size = Frame.parse_frame_header(memoryview(data[:9]))
        body = b"" if isinstance(frame, HeadersFrame) else data[9 : 9 + size]
        found.append((type(frame).__name__, frame.stream_id, (sorted(frame.flags), body)))
        data = data[9 + size :]
    return found


@settings(max_examples=300, deadline=None)
@given(script=acts())
def test_answers_leave_the_same_state(script: list[tuple[str, int]]) -> None:
    lean, plain, encoder = Http2(Limits()), _plain(Limits()), hpack.Encoder()
    data, identifier = PREFACE + SettingsFrame(0).serialize(), -1
    response = [(":status", "200"), ("content-type", "application/grpc")]
    for kind, which in script:
        stream = max(1, identifier - 2 * which)
        if kind == "open":
            identifier += 2
            data += HeadersFrame(identifier, data=encoder.encode(headers()), flags=["END_HEADERS"]).serialize()
        elif kind in ("message", "last"):
            flags = ["END_STREAM"] if kind == "last" else []
            data += DataFrame(stream, data=bytes(5), flags=flags).serialize()
        elif kind == "cancel":
            data += RstStreamFrame(stream, error_code=8).serialize()
        elif kind in ("window", "whole window"):
            data += WindowUpdateFrame(stream if kind == "window" else 0, window_increment=9).serialize()
        elif kind == "ping":
            data += PingFrame(0, opaque_data=b"12345678").serialize()
        elif kind == "half":
            data += PingFrame(0, opaque_data=b"12345678").serialize()[:12]
        expected, error, sent = _said(plain, data)
        found, mine, answered = _said(lean, data)
        assert (found, mine, _frames(answered)) == (expected, error, _frames(sent))
        data = b""
        if error:
            return
        if kind in ("begin", "answer", "finish", "trailers-only", "reset") and lean.alive(stream):
            begun = lean.streams[stream].state_machine.headers_sent
            if kind == "begin" and not begun:
                lean.begin(stream)
                plain.send_headers(stream, response)
            elif kind == "answer" and begun:
                lean.data(stream, b"answer")
                plain.send_data(stream, b"answer")
            elif kind == "finish" and begun:
                lean.finish(stream, 0, "", None)
                plain.send_headers(stream, [("grpc-status", "0")], end_stream=True)
                _no_more(plain, stream)
            elif kind == "trailers-only" and not begun:
                lean.finish(stream, 5, "x", 200)
                plain.send_headers(stream, [*response, ("grpc-status", "5")], end_stream=True)
                _no_more(plain, stream)
            elif kind == "reset":
                lean.reset_stream(stream, 8)
                plain.reset_stream(stream, 8)
            assert _frames(lean.data_to_send()) == _frames(plain.data_to_send())
        for one in plain.streams.values():  # h2 notes here which method was asked, when it sends
            one.request_method = None
        _same_state(lean, plain)


def _no_more(plain: h2.connection.H2Connection, stream: int) -> None:
    """What the client still has to say is not wanted (RFC 9113 §8.1)."""
    if not plain.streams[stream].closed:
        plain.reset_stream(stream, 0)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 140), again=st.lists(st.integers(0, 139), max_size=30), plain_text=st.booleans())
def test_a_full_table_is_decoded_as_hpack_does(count: int, again: list[int], plain_text: bool) -> None:
    """Indices of two bytes, and new values for names that stand far down in the table."""
    lean, plain, encoder = Http2(Limits()).decoder, hpack.Decoder(Limits().header_list), hpack.Encoder()
    names = [(f"n{at}", f"{at}") for at in range(count)]
    more = [(f"n{at}", f"{at}" if at % 3 else "new") for at in again if at < count]
    for block in (names, more, [*more, *names[:40]]):
        raw = encoder.encode(block, huffman=not plain_text)
        assert list(lean.decode(raw, raw=True)) == list(plain.decode(raw, raw=True))
        assert lean.header_table.dynamic_entries == plain.header_table.dynamic_entries
        assert lean.header_table._current_size == plain.header_table._current_size


@settings(max_examples=300, deadline=None)
@given(blocks=st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(LISTS)), max_size=6))
def test_the_decoder_decodes_as_hpack_does(blocks: list[bytes | list[tuple[str, str]]]) -> None:
    lean, plain, encoder = Http2(Limits()).decoder, hpack.Decoder(Limits().header_list), hpack.Encoder()
    for block in blocks:
        raw = block if isinstance(block, bytes) else encoder.encode(block)
        try:
            expected = list(plain.decode(raw, raw=True))
        except Exception as error:
            try:
                lean.decode(raw, raw=True)
            except hpack.HPACKError:
                return
            raise AssertionError("taken, though hpack refuses it") from error
        found = list(lean.decode(raw, raw=True))
        assert found == expected
        assert [type(header) for header in found] == [type(header) for header in expected]
        assert lean.header_table.dynamic_entries == plain.header_table.dynamic_entries
