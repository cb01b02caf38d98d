"""An admin socket, asked by a test that waits for the answer."""

from __future__ import annotations

import contextlib
import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any


class Admin:
    """The admin socket of one process: JSON in, JSON out, AssertionError with the problem's text for anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, method: str, path: str, body: object = None) -> Any:
        # By hand: `until` asks this often, and a client of httpx takes longer to make than the answer.
        with contextlib.closing(_UnixConnection(self.path)) as connection:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
        assert 200 <= answer.status < 300, f"{method} {path}: {answer.status} {data.decode(errors='replace')}"
        return json.loads(data)

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def post(self, path: str, body: object = None) -> Any:
        return self.ask("POST", path, {} if body is None else body)

    def ready(self) -> bool:
        try:
            self.get("/ready")
        except (OSError, HTTPException, AssertionError):
            return False
        return True


class _UnixConnection(HTTPConnection):
    """HTTP/1.1 over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
