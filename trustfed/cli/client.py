"""The admin Unix sockets: JSON there and back, and every failure one of our errors."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from trustfed.errors import Conflict, Invalid, Unavailable
from trustfed.runtime.errors import from_http

Kind = Literal["hub", "cluster", "agent", "feed"]
# The agent's other socket, agent.sock, is its workloads'.
DEFAULTS: dict[Kind, Path] = {
    "hub": Path("/run/trustfed/hub.sock"),
    "cluster": Path("/run/trustfed/cluster.sock"),
    "agent": Path("/run/trustfed/agent-admin.sock"),
    "feed": Path("/run/trustfed/feed-admin.sock"),
}
MAX_ANSWER = 64 << 20
_PART = 1 << 16
_NOT_DONE = 300
"""From this status on. No redirect is followed, and nothing was done where one was the answer."""
_NO_TEXT, _TEXT_HINT = "a value on the command line is not UTF-8", "type it anew: it has bytes that are no letters"
TIMEOUT = 30.0
MAKING = 1_800.0
"""For what takes long to be made: an evidence pack."""


class Admin:
    """One process's admin socket; `socket` None: where the example configuration puts it."""

    def __init__(self, kind: Kind, socket: Path | None) -> None:
        self.kind, self.socket = kind, socket or DEFAULTS[kind]

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON that answers GET."""
        return self._json("GET", path, query=query)

    def post(self, path: str, body: object = None) -> Any:
        """The JSON that answers POST."""
        return self._json("POST", path, body)

    def put(self, path: str, body: object) -> Any:
        """The JSON that answers PUT."""
        return self._json("PUT", path, body)

    def delete(self, path: str, **query: str | int) -> Any:
        """The JSON that answers DELETE."""
        return self._json("DELETE", path, query=query)

    def read(self, path: str, **query: str | int) -> bytes:
        """The bytes that answer GET."""
        return self._exchange("GET", path, None, query)[0]

    def save(self, path: str, out: Path, **query: str | int) -> int:
        """Leave the bytes that answer GET in a new file; gives their number. What cannot be had whole is not left there.

        It waits as long as the answer takes to be made. Raises Conflict when the file is there.
        """
        if out.exists():
            raise Conflict(f"{out} exists already", hint="choose another name")
        part, size = out.with_name(f".{out.name}.partial"), 0
        try:
            with self._asked("GET", path, None, query, MAKING) as answer:
                if answer.status >= _NOT_DONE:
                    raise from_http(answer.status, next(self._parts(answer, MAKING), b""))
                with part.open("xb") as file:
                    for chunk in self._parts(answer, MAKING):
                        size += file.write(chunk)
            part.rename(out)
        except OSError as error:
            raise Unavailable(f"{out} cannot be written: {(error.strerror or str(error)).lower()}") from None
        finally:
            part.unlink(missing_ok=True)
        return size

    def _json(self, method: str, path: str, body: object = None, query: dict[str, str | int] | None = None) -> Any:
        data, url = self._exchange(method, path, body, query or {})
        try:
            return json.loads(data) if data else None
        except (ValueError, RecursionError):
            raise Unavailable(f"{url} answered with something that is not JSON") from None

    def _exchange(self, method: str, path: str, body: object, query: dict[str, str | int]) -> tuple[bytes, str]:
        where = self._where
        with self._asked(method, path, body, query, TIMEOUT) as answer:
            data = bytearray()
            for part in self._parts(answer, TIMEOUT):
                data += part
                if len(data) > MAX_ANSWER:
                    raise Unavailable(f"{where} answered with more than {MAX_ANSWER >> 20} MiB")
        if answer.status >= _NOT_DONE:
            raise from_http(answer.status, bytes(data))
        return bytes(data), f"{where}, {path},"

    @property
    def _where(self) -> str:
        return f"the {self.kind}'s admin socket {self.socket}"

    @contextlib.contextmanager
    def _asked(
        self, method: str, path: str, body: object, query: dict[str, str | int], seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        try:
            target = f"{path}?{urlencode(query)}" if query else path
        except UnicodeEncodeError:
            raise Invalid(_NO_TEXT, hint=_TEXT_HINT) from None
        data = None if body is None else json.dumps(body).encode()
        connection = _Connection(self.socket, seconds)
        try:
            with self._named(seconds):
                connection.connect()
                # A door that refuses a large body answers before it has read all of it, and hangs up.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, target, data, {"Content-Type": "application/json"} if data else {})
                answer = connection.getresponse()
            with answer:
                yield answer
        finally:
            connection.close()

    def _parts(self, answer: http.client.HTTPResponse, seconds: float) -> Iterator[bytes]:
        """The body as it comes."""
        while True:
            with self._named(seconds):
                part = answer.read(_PART)
                if not part and answer.length:  # the standard library counts, and says nothing
                    raise http.client.IncompleteRead(b"", answer.length)
            if not part:
                return
            yield part

    @contextlib.contextmanager
    def _named(self, seconds: float) -> Iterator[None]:
        """Raises Unavailable, with the name of the socket, for what fails at it within."""
        try:
            yield
        except TimeoutError:
            raise Unavailable(f"{self._where} did not answer within {seconds:.0f} s") from None
        except (http.client.HTTPException, OSError) as error:
            raise Unavailable(
                f"{self._where} cannot be reached: {_reason(error)}",
                hint=f"does trustfed {self.kind} serve run? --socket or TRUSTFED_{self.kind.upper()}_SOCKET names it",
            ) from None


class _Connection(http.client.HTTPConnection):
    """HTTP/1.1 over a Unix socket. Of the standard library: to load httpx would be a third of a command's time."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("admin", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def hub(socket: Path | None) -> Admin:
    """The hub."""
    return Admin("hub", socket)


def cluster(socket: Path | None) -> Admin:
    """A cluster."""
    return Admin("cluster", socket)


def either(socket: Path | None, at_hub: bool) -> Admin:
    """The hub or the cluster: as `socket` names it, or as the environment does. Raises Invalid, Conflict."""
    named = {kind: os.environ.get(f"TRUSTFED_{kind.upper()}_SOCKET", "") for kind in ("hub", "cluster")}
    if socket is not None:
        return Admin("hub" if at_hub else "cluster", socket)
    if at_hub:
        return Admin("hub", Path(named["hub"]) if named["hub"] else None)
    if named["cluster"]:
        return Admin("cluster", Path(named["cluster"]))
    if named["hub"]:
        return Admin("hub", Path(named["hub"]))
    both: tuple[Kind, Kind] = ("hub", "cluster")
    here = [kind for kind in both if DEFAULTS[kind].exists()]
    if len(here) == 1:
        return Admin(here[0], None)
    if here:
        raise Conflict("a hub and a cluster run here", hint="--hub asks the hub, --socket names one")
    raise Invalid("no admin socket is named", hint="--socket PATH, TRUSTFED_HUB_SOCKET or TRUSTFED_CLUSTER_SOCKET")


def segment(text: str) -> str:
    """One segment of a path. Raises Invalid for none: without it the path is another one."""
    if not text:
        raise Invalid("a name or an id on the command line is empty", hint="is a variable of your script not set?")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise Invalid(_NO_TEXT, hint=_TEXT_HINT) from None


def members(answer: Any, name: str) -> list[dict[str, Any]]:
    """The list of this name in an answer."""
    found = answer.get(name) if isinstance(answer, dict) else None
    return found if isinstance(found, list) else []


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the answer broke off"
    if isinstance(error, OSError):  # also of a door that hangs up without an answer
        return (error.strerror or str(error)).lower()
    return "what answers does not speak HTTP"
