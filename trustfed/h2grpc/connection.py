"""One connection of a client: who it is, its bytes in turn with others', and one write per turn."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from h2.exceptions import ProtocolError

from trustfed.errors import TrustfedError
from trustfed.h2grpc import status
from trustfed.h2grpc.deadlines import Deadlines
from trustfed.h2grpc.limits import Ledger, Readable, User
from trustfed.h2grpc.service import Peer, Routes
from trustfed.h2grpc.session import Over, Session

_INBOX_FULL = 65_536
"""Bytes read and not worked off at which the socket is no longer read."""
_CREDENTIALS = struct.Struct("iII")

Accept = Callable[[socket.socket], Peer]


class Connection(asyncio.Protocol, Readable):
    """The server's side of one connection; it is in `connections` while it is open."""

    _transport: asyncio.Transport
    _user: User
    _peer: Peer
    write_paused = False
    _session: Session | None = None  # made with the first byte: a silent connection costs little
    _uid: int | None = None
    _inbox = b""
    _at = _held = 0
    _reading = True
    _working = _flushing = _closed = False
    _since = _paused_since = 0.0

    def __init__(
        self,
        routes: Routes,
        accept: Accept,
        ledger: Ledger,
        connections: set[Connection],
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
    ) -> None:
        self._loop = loop
        self._limits = ledger.limits
        self._routes = routes
        self._accept = accept
        self._ledger = ledger
        self._connections = connections
        self._deadlines = deadlines

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Fix who calls; too many of one user, or nobody: closed at once. On TCP the kernel says uid -1 for everybody."""
        self._transport = cast(asyncio.Transport, transport)
        descriptor: int = transport.get_extra_info("socket").fileno()
        # The event loop owns the descriptor: a plain socket object is lent to `accept`, and given back.
        lent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
        try:
            size = _CREDENTIALS.size
            uid: int = _CREDENTIALS.unpack(lent.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
            user = self._ledger.admit(uid)
            if user is None and self._limits.replace:
                user = self._replace_oldest(uid)
            if user is None:
                return self._abort()
            self._uid, self._user = uid, user
            self._peer = self._accept(lent)
        except (TrustfedError, OSError) as error:
            status.LOG.info("connection refused", error=str(error))
            return self._abort()
        except Exception as error:
            status.LOG.exception("connection refused: its peer could not be told", error)
            return self._abort()
        finally:
            lent.detach()
        self._connections.add(self)
        self._since = self._loop.time()
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer)
        return None

    def _replace_oldest(self, uid: int) -> User | None:
        """Who has opened all the connections there may be locks nobody out. One without a call gives way first."""
        same = [one for one in self._connections if one._uid == uid]
        if not same:
            return None
        oldest = min(same, key=lambda one: (one._calling, one._since))
        status.LOG.info("connection closed", uid=uid, why="a newer one takes its place")
        oldest._abort()
        oldest._let_go()
        return self._ledger.admit(uid)

    @property
    def _calling(self) -> bool:
        return self._session is not None and bool(self._session.streams)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything this connection held."""
        self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        if self._session is not None:
            self._session.end()
            self._session = None  # no circle for the collector to find
        if self._uid is not None:
            self._user.waiting.pop(self, None)
            self._hold(0)
            self._ledger.leave(self._uid, self._user)
            self._uid = None
        if self in self._connections:
            self._connections.discard(self)
            self._peer.close()

    def data_received(self, data: bytes) -> None:
        """Work `data` off now, or when it is this user's turn."""
        if self._closed:
            return
        if not self._inbox:
            self._inbox = data
            if not self.write_paused:
                self._ledger.run(self._user, self)
        else:
            self._inbox = self._inbox[self._at :] + data
            self._at = 0
            if len(self._inbox) > _INBOX_FULL and self._reading:
                self._reading = False
                self._transport.pause_reading()
        if self._inbox and not self._closed and not self._hold(self._kept()):
            if self._session is not None:
                self._session.calm("")  # it hears why, as where it is found while its input is worked off
            self._close("too much to be worked off")

    def pause_writing(self) -> None:
        """The peer does not read: nothing more is written, nor read from it."""
        self.write_paused = True
        self._paused_since = self._loop.time()
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self.write_paused = False
        if self._closed:
            return
        if self._session is not None:
            self._session.pump()
            self.flush()
        if self._inbox and not self._closed:
            self._ledger.run(self._user, self)
        self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._reading and not self.write_paused and len(self._inbox) <= _INBOX_FULL and not self._closed:
            self._reading = True
            self._transport.resume_reading()

    # The work.

    def work(self) -> bool:
        """Work off one slice of what was read; True if there is more and it may be worked off."""
        if self._closed or self.write_paused:
            return False
        self._working = True
        try:
            if self._session is None:
                self._session = Session(self._routes, self._peer, self._limits, self._loop, self, self._deadlines)
            self._session.feed(self._slice())
            kept = self._kept()
            if kept != self._held and not self._hold(kept):
                raise self._session.calm("too much unfinished")
        except (ProtocolError, Over) as error:  # GOAWAY with the reason is ready to be sent
            self._close(str(error))
        except Exception as error:  # a fault of ours or of a library: this connection ends, the server goes on
            status.LOG.exception("connection closed: its input could not be handled", error)
            self._abort()
        finally:
            self._working = False
        if self._closed:
            return False
        self.flush()
        self._resume_reading()
        return bool(self._inbox) and not self.write_paused

    def _slice(self) -> bytes:
        at, size = self._at, self._limits.slice
        chunk = self._inbox
        if at or len(chunk) > size:
            chunk = chunk[at : at + size]
            self._at = at + size
        if self._at >= len(self._inbox) or not self._at:
            self._inbox, self._at = b"", 0
        return chunk

    def _kept(self) -> int:
        """Bytes kept for this connection: read and not worked off, or unfinished."""
        return len(self._inbox) - self._at + (self._session.held if self._session is not None else 0)

    def _hold(self, held: int) -> bool:
        change, self._held = held - self._held, held
        return self._ledger.hold(self._user, change) and held <= self._limits.held_per_connection

    def flush_soon(self) -> None:
        """Write at the end of this turn what was made outside of `work`."""
        if not self._working and not self._flushing and not self._closed:
            self._flushing = True
            self._loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Write all that HTTP/2 has to send, in one piece."""
        session = self._session
        if self._closed or session is None:
            return
        if data := session.http2.data_to_send():
            self._transport.write(data)
        if session.leaving and not session.streams:
            self._close("")

    # The end.

    def _abort(self) -> None:
        self._closed = True
        self._transport.abort()

    def _close(self, why: str) -> None:
        """Write what is left, GOAWAY among it, and close."""
        if self._closed:
            return
        if why:
            status.LOG.info("connection closed", uid=self._uid, why=why)
        if self._session is not None:
            if data := self._session.http2.data_to_send():
                self._transport.write(data)
            self._session.end()
        self._closed = True
        if self.write_paused:
            self._transport.abort()
        else:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """End what has taken too long: called every second."""
        session = self._session
        if self._closed:
            self._transport.abort()  # a peer that reads nothing does not keep what was left to write
        elif session is None or not session.shaken:
            if now - self._since > self._limits.handshake:
                self._abort()
        elif self.write_paused:
            if now - self._paused_since > self._limits.stall:
                self._abort()
        else:
            try:
                session.sweep(now)
                self.flush()
            except Over as error:
                self._close(str(error))

    def leave(self) -> None:
        """Tell the client to go elsewhere; close once nothing is left to answer."""
        if self._session is None:
            return self._abort()
        if not self._closed:
            self._session.leave()
            self.flush()
        return None

    def cut(self) -> None:
        """Close now."""
        if self._session is not None and not self._closed:
            self._session.cut()
        self._close("")
