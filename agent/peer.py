"""Who connected to the Workload API, as the kernel fixed it at connect(2), and whether that process still lives."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from pathlib import Path

from trustfed.errors import Denied

_CREDENTIALS = struct.Struct("iII")
_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python does not name these two
_SO_PEERPIDFD = 77
_MAX_OPTION = 1024  # bytes of an option that Python reads


class Caller:
    """One connected process; `pidfd` is held until the connection ends, so that its pid cannot become another's.

    `generation` and `entries` are the caller's identities as last matched (see agent.identification), `facts` what an
    attestor found out, by kind of selector.
    """

    __slots__ = ("_poll", "entries", "facts", "generation", "gid", "groups", "pid", "pidfd", "uid")

    def __init__(self, pid: int, uid: int, gid: int, groups: tuple[int, ...], pidfd: int) -> None:
        self.pid, self.uid, self.gid, self.groups, self.pidfd = pid, uid, gid, groups, pidfd
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        self._poll = poll.poll
        self.generation = -1
        self.entries: tuple[str, ...] = ()
        self.facts: dict[str, frozenset[str]] = {}

    @classmethod
    def of(cls, connection: socket.socket) -> Caller:
        """The process at the other end. Raises Denied when it is gone or not of this pid namespace.

        1. credentials and groups as they were at connect(2)
        2. a pidfd of that very process: from the socket (Linux 6.5), else opened by pid and then compared
        3. it lives
        """
        pid, uid, gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )  # 1
        if pid <= 0:
            raise Denied("the caller is not a process of this pid namespace", hint="share the host's pid namespace")
        pidfd = _pidfd(connection, pid, uid)  # 2
        try:
            caller = cls(pid, uid, gid, _groups(connection, pid), pidfd)
        except BaseException:
            os.close(pidfd)
            raise
        if not caller.alive():  # 3
            caller.close()
            raise Denied("the calling process has ended")
        return caller

    def alive(self) -> bool:
        """Whether the process has not ended: a pidfd becomes readable when it has (pidfd_open(2))."""
        return self.pidfd >= 0 and not self._poll(0)

    def close(self) -> None:
        """Let the process go; nothing is answered after this."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _knows_peer_pidfd() -> bool:
    """Whether this kernel has SO_PEERPIDFD (Linux 6.5)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError as error:
            return error.errno != errno.ENOPROTOOPT
    return True


_KNOWS_PEER_PIDFD = _knows_peer_pidfd()
"""Decided once: a failure that depends on the caller must never lead to the weaker way."""


def _pidfd(connection: socket.socket, pid: int, uid: int) -> int:
    if _KNOWS_PEER_PIDFD:
        try:
            return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:  # Linux 6.5 to 6.15 cannot name a process that has been reaped
            raise Denied("the calling process has ended") from error
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise Denied("the calling process has ended") from error
    # The pid may have been taken over between connect(2) and here: by another user's process it is noticed. By one of
    # the same user it is not, and its path and hash are attested instead: entries by these want Linux 6.5.
    try:
        if int(_status(pid, "Uid").split()[1]) != uid:
            raise Denied("the calling process has ended")
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def _groups(connection: socket.socket, pid: int) -> tuple[int, ...]:
    """The supplementary groups (SO_PEERGROUPS, Linux 4.13)."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
    except OSError:  # more than fit
        return tuple(int(group) for group in _status(pid, "Groups").split())
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _status(pid: int, name: str) -> str:
    """One line of /proc/PID/status (proc(5)). Raises Denied when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError as error:
        raise Denied("the calling process has ended") from error
    return next((line.partition(":")[2] for line in text.splitlines() if line.startswith(name + ":")), "")
