"""A whole exchange over a blocking socket by a deadline: a timeout alone bounds each wait, and a slow drip never waits long."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator

from trustfed.errors import TrustfedError


@contextlib.contextmanager
def cut_at(end: float, raw: socket.socket) -> Iterator[None]:
    """Cut the connection at `end` (of time.monotonic). TimeoutError is raised then, whatever failed by it."""
    over = threading.Event()
    # TLS takes the socket over, so the cut needs a handle of its own.
    with socket.socket(fileno=os.dup(raw.fileno())) as handle:

        def cut() -> None:
            over.set()
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(end - time.monotonic(), 0.001), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException, TrustfedError):
            if not over.is_set():
                raise
        finally:
            timer.cancel()
            timer.join()
        if over.is_set():
            raise TimeoutError("no whole answer in time")
