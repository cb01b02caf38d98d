"""Ports of loopback for processes that are told where to listen; each is given once, on this machine.

A port that nobody listens at yet looks free to everybody who looks. So each that is given is locked, by a byte of one file
in the temporary folder, until the process that asked ends.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

from trustfed.errors import Unavailable

PORTS = range(10_000, 32_000)
"""Below those that the system gives to outgoing connections: a process that was killed finds its port free again."""
_TRIES = 10_000
_given: set[int] = set()


def free_port() -> int:
    """One port; see `free_ports`."""
    return free_ports(1)[0]


def free_ports(count: int, above: int = 0) -> list[int]:
    """That many ports, which nothing listens at, and which nobody else is given while this process lives.

    `above`: the port that lies so far above each is its caller's, too. Raises Unavailable when there are not as many.
    """
    found: list[int] = []
    choose = random.SystemRandom().choice
    for _ in range(_TRIES):
        if len(found) == count:
            return found
        port = choose(range(PORTS.start, PORTS.stop - above))
        if all(_claim(one) for one in {port, port + above}):
            found.append(port)
    raise Unavailable(f"no {count} free ports between {PORTS[0]} and {PORTS[-1]} on this machine")


def _claim(port: int) -> bool:
    """Whether it is free, and given to nobody else; from now on it is given."""
    if port in _given:  # who holds a lock is given it again
        return False
    with socket.socket() as probe:
        try:
            fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            _given.add(port)
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@functools.cache
def _claims() -> int:
    """The file whose bytes are locked; it stays empty. One for each user: another's cannot be opened."""
    path = Path(tempfile.gettempdir()) / f"trustfed-ports-{os.getuid()}"
    try:
        # Open until the end: closing any descriptor of a file gives up all of a process's locks on it (POSIX).
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened: {error.strerror}", hint="delete it, or set TMPDIR") from error
