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

from agent.grpc.limits import Limits
from agent.grpc.wire import Http2, Opened
from tests.unit.agent_grpc.client import headers

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
        assert set(lean.streams) == set(plain.streams)
        for identifier, stream in plain.streams.items():
            mine = lean.streams[identifier]
            assert mine.state_machine.state == stream.state_machine.state
            assert mine.inbound_flow_control_window == stream.inbound_flow_control_window
            assert mine.outbound_flow_control_window == stream.outbound_flow_control_window


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
