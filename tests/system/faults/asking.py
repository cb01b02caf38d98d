"""One request to an admin socket, without waiting longer than an observer may."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

SECONDS = 4.0


class Unanswered(Exception):
    """No answer: the process is away, or hangs, or its connection broke. Whether it did what was asked is unknown."""


class Refused(Exception):
    """An answer that says no; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text[:200]}")
        self.status = status


async def ask(socket: Path, method: str, path: str, body: object = None, command_id: str = "") -> Any:
    """The JSON that an admin socket answers. Raises Unanswered, Refused."""
    data = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", "Host: admin", "Connection: close", f"Content-Length: {len(data)}"]
    head += ["Content-Type: application/json"] if data else []
    head += [f"Command-Id: {command_id}"] if command_id else []
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=1 << 20)
            try:
                writer.write("\r\n".join([*head, "", ""]).encode() + data)
                raw = await reader.read(-1)
            finally:
                writer.close()
        top, _, rest = raw.partition(b"\r\n\r\n")
        status = int(top.split(maxsplit=2)[1])
        length = next(
            (int(line[15:]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:")), -1
        )
        if length != len(rest):
            raise Unanswered("the answer is cut")
        found = json.loads(rest) if b"json" in top.lower() else rest.decode()
    except (OSError, TimeoutError, ValueError, IndexError) as error:
        raise Unanswered(f"{socket.name} {path}: {type(error).__name__} {error}") from None
    if status >= 300:
        raise Refused(status, rest.decode(errors="replace"))
    return found
