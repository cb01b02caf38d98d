"""The Unix sockets of the demo's processes: one JSON request, one JSON answer. It blocks."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from trustfed.errors import Unavailable
from trustfed.runtime.errors import from_http

TIMEOUT = 15.0
MAX_ANSWER = 16 << 20
ALONE = {"reason": "a demo has one person", "break_glass": True}
"""What a command on a CA is sent with: it takes two people, and the demo is one, whom the log alarms about."""


def ask(path: Path, method: str, target: str, body: object = None) -> Any:
    """What answers. Raises what the process says, Unavailable when it cannot be reached."""
    connection = _UnixConnection(path)
    try:
        data = json.dumps(body) if body is not None else None
        connection.request(method, target, body=data, headers={"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{path} cannot be reached: {error}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise from_http(response.status, answer)
    return json.loads(answer) if answer else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))
