"""Listening sockets made safely: Unix sockets with the mode they will have from the first moment, TCP by HOST:PORT."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable

MAX_PATH = 107
"""Bytes of a Unix socket's path (unix(7): sun_path has 108, the last is NUL)."""
_ADDRESS = re.compile(r"(?P<host>[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a Unix socket when it connected (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


def check_path(path: Path) -> None:
    """Raise Invalid when `path` is too long for a Unix socket."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise Invalid(f"socket path {path} is longer than {MAX_PATH} bytes", hint="choose a folder with a shorter path")


def group_id(name: str) -> int:
    """The id of a Unix group. Raises Invalid when this machine has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise Invalid(f"this machine has no group {name[:64]!r}", hint="groupadd makes one; getent group") from None


def check_admin_group(name: str, path: Path, private: Path) -> None:
    """Raise Invalid when the group cannot use a socket at `path`: it must be there, and `private` (0700) not around it."""
    if name:
        group_id(name)
        if path.absolute().is_relative_to(private.absolute()):
            raise Invalid(
                f"admin_group {name} could not reach {path}: {private} is its owner's alone",
                hint='name another place: admin_socket = "/run/trustfed/NAME.sock"',
            )


def listen_admin(path: Path, group: str = "") -> socket.socket:
    """An admin socket: its owner's alone (0600), or also its group's (0660). Raises as `listen_unix`, and Invalid."""
    if not group:
        return listen_unix(path)
    gid = group_id(group)
    listener = listen_unix(path)
    try:
        # In this order it is never another group's.
        os.chown(path, -1, gid)
        path.chmod(0o660)
    except OSError as error:
        listener.close()
        raise Denied(
            f"{path} cannot be given to the group {group}: {(error.strerror or str(error)).lower()}",
            hint="let the process be a member of that group",
        ) from error
    return listener


def listen_unix(path: Path, mode: int = 0o600, backlog: int = 128) -> socket.socket:
    """A listening, non-blocking stream socket at `path`. A stale socket there is replaced.

    Raises Conflict when a process answers there or something else is there, Invalid for a path over 107 bytes,
    NotFound, Denied, Unavailable.
    """
    check_path(path)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # bind() gives the file the mode of the socket less the umask: never a moment in which it is open to all.
        os.fchmod(listener.fileno(), mode)
        listener.bind(str(path))
        # The umask may have narrowed it.
        path.chmod(mode)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise _refusal(error, str(path)) from error
    return listener


def listen_tcp(address: str, backlog: int = 128) -> socket.socket:
    """A listening, non-blocking socket at "HOST:PORT" or "[IPV6]:PORT"; port 0 lets the system choose.

    Raises Invalid, Conflict (in use), Denied, Unavailable.
    """
    host, port = parse_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise Invalid(
            f"cannot listen at {address}: {error.strerror}", hint="name an address of this machine"
        ) from error
    listener = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise _refusal(error, address) from error
    return listener


def check_addresses(*addresses: str) -> None:
    """Raise Invalid for the first that is neither HOST:PORT nor empty: configuration is checked before anything starts."""
    for address in addresses:
        if address:
            parse_address(address)


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT" or "[IPV6]:PORT", brackets removed. Raises Invalid."""
    match = _ADDRESS.fullmatch(address)
    if not match or int(match["port"]) > 65535:
        raise Invalid(f"{address[:120]!r} is not HOST:PORT", hint='such as "127.0.0.1:8443" or "[::1]:8443"')
    return match["host"].strip("[]"), int(match["port"])


def parse_url(url: str) -> tuple[str, int]:
    """(host, port) of "https://HOST[:PORT]", brackets removed; 443 if it names no port. Raises Invalid."""
    rest = url.removeprefix("https://").rstrip("/")
    if rest == url.rstrip("/"):
        raise Invalid(f"{url[:120]!r} is not https://HOST or https://HOST:PORT")
    named = rest.rpartition(":")[2].isdigit() and not rest.endswith("]")
    return parse_address(rest if named else f"{rest}:443")


def address_of(listener: socket.socket) -> str:
    """Where it listens, in words: a path or HOST:PORT."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return os.fsdecode(name)
    return f"[{name[0]}]:{name[1]}" if listener.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def peer_of(connection: socket.socket) -> Peer:
    """Who connected to a Unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", credentials)
    return Peer(pid, uid, gid)


def has_account(uid: int) -> bool:
    """Whether a uid is root's, this process's own, or that of an account of this machine. It may block for long.

    A subordinate one (subuid(5)) is none of these: in a user namespace an ordinary user is thousands of them.
    """
    if uid in (0, os.geteuid()):
        return True
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _remove_stale(path: Path) -> None:
    """Remove a socket at `path` that nobody answers; raise Conflict for anything else that is there."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refusal(error, str(path)) from error
    if not stat.S_ISSOCK(facts.st_mode):
        raise Conflict(f"{path} exists and is not a socket", hint="remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except BlockingIOError:  # its backlog is full: somebody is there
            pass
        except OSError as error:
            raise _refusal(error, str(path)) from error
    raise Conflict(f"another process serves {path}", hint="stop it, or choose another path")


def _refusal(error: OSError, where: str) -> Exception:
    reason = f"cannot listen at {where}: {(error.strerror or str(error)).lower()}"
    if error.errno == errno.EADDRINUSE:
        return Conflict(reason, hint="another process listens there: stop it, or choose another address")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Denied(reason, hint="check owner and permissions, or choose a port above 1023")
    if error.errno == errno.ENOENT:
        return NotFound(reason, hint="make the folder first")
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENOTDIR):
        return Invalid(reason, hint="name an address of this machine")
    return Unavailable(reason)
