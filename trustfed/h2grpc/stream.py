"""One call in progress: request bytes in, handler, messages and status out.

A stream keeps at most one message that is being sent and one that is newer; what the reader does not take in time is
replaced (`Watch`) or not yet asked for (`ServerStream`, `Bidi`), so a slow reader costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes

from trustfed.h2grpc import request, status
from trustfed.h2grpc.service import Bidi, Call, Handler, ServerStream, Unary, Watch
from trustfed.h2grpc.status import Code, Refused
from trustfed.h2grpc.wire import Opened, prefixed

if TYPE_CHECKING:
    from trustfed.h2grpc.session import Session

_COSTS = 64
"""Bytes that a message which waits for its reader costs beside itself: 50,000 empty ones fit into a window."""
_CHUNK = 65_536
"""Bytes made at once: a window of gigabytes must not bring a copy of a whole answer into the socket's buffer."""


class Stream:
    """One call; also the `Feed` that a `Watch` handler sends by."""

    complete = False
    """The request is complete."""
    answered = False
    """A message has left."""
    done = False
    part_since = 0.0
    """Since when a message of a stream of messages is unfinished; 0 while none is."""
    # What many calls never change is kept in the class.
    _buffer: bytes | bytearray = b""
    _begun = False
    _out: bytes | None = None
    _at = 0
    _newest: bytes | None = None
    _verdict: tuple[Code, str] | None = None
    _arrived: deque[bytes] | None = None
    _unread = 0
    _ended: asyncio.Future[None] | None = None
    _room: asyncio.Future[None] | None = None
    _release: Callable[[], None] | None = None
    _task: asyncio.Task[None] | None = None
    _tick: int | None = None
    _call: Call

    def __init__(self, session: Session, opened: Opened, handler: Handler | None, now: float) -> None:
        self.session = session
        self.identifier = opened.stream_id
        self.since = now
        """Since when it is the peer's turn: to finish its request, or to make room. Too long ago, a sweep ends it."""
        self._handler = handler

    def start(self, opened: Opened) -> None:
        """Judge the head; set the deadline; a `Bidi` handler starts now, the others when the request is complete."""
        head = opened.head
        if head.refusal is not None:
            return self._finish(*head.refusal, http=head.http)
        if self._handler is None:
            return self._finish(Code.UNIMPLEMENTED, f"no method {head.path}")
        deadline = None
        if opened.timeout is not None:
            try:
                left = request.timeout(opened.timeout)
            except Refused as error:
                return self._finish(error.code, error.message)
            if left <= 0:
                return self._finish(Code.DEADLINE_EXCEEDED, "the deadline was over on arrival")
            deadline = self.session.loop.time() + left
        self._call = Call(head.path, head.metadata, deadline, self.session.peer)
        if isinstance(self._handler, Bidi):
            self._arrived = deque()
            self._arm()
            self._drive(self._handler.answer(self._call, self._messages()))
        return None

    # The request.

    def receive(self, data: bytes) -> None:
        """Take request bytes, split anywhere."""
        if self.done:
            return
        if not self._buffer:
            buffer: bytes | bytearray = data  # mostly the whole request
        else:
            buffer = self._buffer if isinstance(self._buffer, bytearray) else bytearray(self._buffer)
            buffer += data
        at, limit = 0, self.session.limits.message
        while not self.done and len(buffer) - at >= 5:
            size = int.from_bytes(buffer[at + 1 : at + 5], "big")
            following = at + 5 + size
            if buffer[at]:
                self._finish(Code.UNIMPLEMENTED, "compressed messages are not taken")
            elif size > limit:
                self._finish(Code.RESOURCE_EXHAUSTED, f"a message of {size} bytes; the limit is {limit}")
            elif self._arrived is None:
                if len(buffer) > following:
                    self._finish(Code.UNIMPLEMENTED, "more than one message; this method takes one")
                break
            elif len(buffer) < following:
                break
            else:
                self._arrived.append(bytes(buffer[at + 5 : following]))
                self._unread += size + _COSTS
                at = following
                self._wake_reader()
        if not self.done:
            self._buffer = buffer[at:] if at else buffer
            if self._arrived is not None and (at or not self.part_since):
                self.part_since = self.session.now() if self._buffer else 0.0

    def half_close(self) -> None:
        """The peer has said all it had to say: a single-message method answers now."""
        self.complete = True
        if self.done:
            return None
        if self._arrived is not None:
            return self._wake_reader()
        buffer, self._buffer = self._buffer, b""
        if len(buffer) < 5 or len(buffer) != 5 + int.from_bytes(buffer[1:5], "big"):
            return self._finish(Code.UNIMPLEMENTED, "no complete message; this method takes one")
        message = bytes(buffer[5:])
        handler = self._handler
        try:
            if isinstance(handler, Watch):
                release = handler.open(self._call, message, self)
                if self.done:
                    release()
                else:
                    self._release = release
            elif isinstance(handler, Unary):
                answer = handler.answer(self._call, message)
                if isinstance(answer, bytes):
                    self._verdict = (Code.OK, "")
                    self._send(answer)
                else:
                    self._drive_one(answer)
            elif isinstance(handler, ServerStream):
                self._drive(handler.answer(self._call, message))
        except Exception as error:  # the handler's refusal, or its fault: the caller gets a status, others are served
            return self.end(error)
        if not self.done:
            self._arm()
        return None

    @property
    def held(self) -> int:
        """Bytes of the request kept: the size of an unfinished message, and what those not yet read cost."""
        return len(self._buffer) + self._unread

    @property
    def overdue(self) -> bool:
        """The request of a single-message method is still incomplete."""
        return not self.complete and self._arrived is None

    @property
    def answering(self) -> bool:
        """One answer is on its way, and then the call ends by itself."""
        return isinstance(self._handler, Unary) and self.complete

    async def _messages(self) -> AsyncIterator[bytes]:
        arrived = self._arrived
        assert arrived is not None
        while True:
            if arrived:
                message = arrived.popleft()
                self._unread -= len(message) + _COSTS
                self.session.consumed(self.identifier, 5 + len(message))
                yield message
                del message  # while the next one is waited for, which may be long
            elif self.complete:
                if self._buffer:
                    raise Refused(Code.INTERNAL, "the request ended within a message")
                return
            else:
                self._ended = self.session.loop.create_future()
                await self._ended

    def _wake_reader(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # The handler.

    def _arm(self) -> None:
        deadline = self._call.deadline
        if deadline is not None and self._tick is None:
            self._tick = self.session.deadlines.add(self, deadline)

    def late(self) -> None:
        """The deadline is over."""
        self.end(Refused(Code.DEADLINE_EXCEEDED, "the deadline is over"))

    def _drive(self, messages: AsyncIterator[bytes]) -> None:
        self._task = self.session.loop.create_task(self._stream(messages))

    def _drive_one(self, answer: Awaitable[bytes]) -> None:
        self._task = self.session.loop.create_task(self._single(answer))

    async def _single(self, answer: Awaitable[bytes]) -> None:
        try:
            message = await answer
        except Exception as error:
            self.end(error)
        else:
            self._verdict = (Code.OK, "")
            self._send(message)
            self.session.carrier.flush_soon()

    async def _stream(self, messages: AsyncIterator[bytes]) -> None:
        try:
            async for message in messages:
                self._send(message)
                del message  # while its reader takes it, which may be long, one copy is enough
                self.session.carrier.flush_soon()
                if self._out is not None:
                    self._room = self.session.loop.create_future()
                    await self._room
            self.end()
        except Exception as error:
            self.end(error)
        finally:
            close: Any = getattr(messages, "aclose", None)
            if close is not None:
                with suppress(Exception):  # its end is not news to a call that has ended
                    await close()

    # The answer.

    def send(self, message: bytes) -> None:
        """Send `message`, or keep it as the newest if the last one is still on its way."""
        if self.done or self._verdict is not None:
            return
        self._send(message)
        self.session.carrier.flush_soon()

    def end(self, error: BaseException | None = None) -> None:
        """End the call: OK after what is still to be sent, or the status of `error` at once."""
        if self.done:
            return
        if error is None:
            self._verdict = (Code.OK, "")
            self.pump()
        else:
            code, message = status.of(error, self._call.path)
            if self._out is not None and self._at:
                self.reset(ErrorCodes.CANCEL)  # in the middle of a message no status can follow
            else:
                self._finish(code, message)
        self.session.carrier.flush_soon()

    def _send(self, message: bytes) -> None:
        if self.done:
            return
        self._newest = message
        if self._out is None:
            self.pump()

    def pump(self) -> None:
        """Send what the peer's windows and the socket have room for."""
        session = self.session
        http2 = session.http2
        while not self.done:
            if self._out is None:
                if self._newest is not None:
                    self._out, self._at, self._newest = prefixed(self._newest), 0, None
                elif self._verdict is not None:
                    return self._finish(*self._verdict)
                else:
                    session.blocked.pop(self.identifier, None)
                    if self._room is not None and not self._room.done():
                        self._room.set_result(None)
                    return None
            out = self._out
            room = 0 if session.carrier.write_paused else http2.room(self.identifier)
            if room <= 0:
                if self.identifier not in session.blocked:
                    session.blocked[self.identifier] = self
                    self.since = session.now()
                return None
            if not self._begun:
                self._begun = True
                http2.begin(self.identifier)
            self.since = session.now()
            left = len(out) - self._at
            http2.data(self.identifier, out if left <= room and not self._at else out[self._at : self._at + room])
            self._at += room
            if http2.unsent >= _CHUNK:
                session.carrier.flush()
            if left <= room:
                self._out = None
                self.answered = True
                session.patience.earn()
        return None

    def _finish(self, code: Code, message: str, http: int = 200) -> None:
        if self.session.http2.alive(self.identifier):
            self.session.http2.finish(self.identifier, code, message, None if self._begun else http)
            if not self.complete:
                self.session.http2.useless += 1  # the peer could have us reset stream after stream
        self.forget()

    def reset(self, code: ErrorCodes) -> None:
        """End the stream without a status."""
        if self.session.http2.alive(self.identifier):
            self.session.http2.reset_stream(self.identifier, code)
        self.forget()

    def forget(self) -> None:
        """The stream has ended, here or there: stop the handler and let go of everything."""
        if self.done:
            return
        self.done = True
        self._buffer = b""
        self._out = self._newest = None
        if self._arrived:
            self._arrived.clear()
            self._unread = 0
        if self._tick is not None:
            self.session.deadlines.drop(self, self._tick)
        if self._release is not None:
            release, self._release = self._release, None
            try:
                release()
            except Exception as error:
                status.LOG.exception("a handler failed to end", error, path=self._call.path)
        task = self._task
        if task is not None and not task.done() and task is not asyncio.current_task(self.session.loop):
            task.cancel()
        self.session.forget(self)
