"""The API server through the official client: its configuration, authentication and connections, with bounds of our own.

The client's own lists and watches build a model of every object and read lines of any length, so requests go through its
ApiClient and answers are read here: a page and a line have a most size, a list has an end in time, and every document must
be what was asked for. The client is imported when the first driver is made, so that only clusters that read Kubernetes need
the extra and its 30 MB. It blocks, so each read is made in a thread of its own; `close` cuts what is open.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

from trustfed.cluster.foreign.workers import Workers
from trustfed.cluster.mesh.kubernetes.config import KubernetesConfig
from trustfed.cluster.mesh.kubernetes.port import (
    MAX_OBJECTS,
    Change,
    Collection,
    Gone,
    Kept,
    Listed,
    Name,
    Object,
    name_of,
)
from trustfed.errors import Invalid, Unavailable

PAGE = 500
MAX_PAGES = 2_000
MAX_PAGE_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 4 * 1024 * 1024
WATCH_SECONDS = 60
THREADS = 96
_CHUNK = 65_536
_STATUS_BYTES = 8_192
_RIGHTS = "has the service account the rights of deploy/kubernetes/cluster-reader.yaml?"


class OfficialClient:
    """An ApiServer. Raises Invalid, without connecting, for a configuration that cannot be used."""

    def __init__(self, config: KubernetesConfig) -> None:
        self._client = _client_of(config)
        self._seconds = config.timeout.total_seconds()
        self._workers = Workers(THREADS, "kubernetes")
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def server(self) -> str:
        """The address of the API server."""
        return str(self._client.configuration.host)

    async def list(self, of: Collection, keep: Callable[[Object], Kept | None]) -> Listed[Kept]:
        """What is kept of a collection, page by page."""
        items: dict[Name, Kept] = {}
        following, version = "", ""
        for _ in range(MAX_PAGES):
            page = await self._workers.run(partial(self._page, of, keep, following))
            if page is None:
                return Listed({}, "")
            found, version, following = page
            items |= found
            if len(items) > MAX_OBJECTS:
                raise Unavailable(f"there are more than {MAX_OBJECTS} {of}", hint="this process reads no more")
            if not following:
                return Listed(items, version)
        raise Unavailable(f"the API server's list of {of} does not come to an end")

    async def watch(self, of: Collection, version: str) -> AsyncGenerator[tuple[Change, ...], None]:
        """What happened since `version`; first, once the server answers, nothing."""
        if not version:  # a group that is not there: look again later
            return
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(WATCH_SECONDS * random.uniform(0.8, 1.2))),  # noqa: S311 - jitter
        }
        opened = await self._workers.run(partial(self._get, of.path, query, WATCH_SECONDS + self._seconds))
        try:
            lines = _lines(opened.response.stream(_CHUNK, decode_content=False), of)
            yield ()
            while True:
                changes = await self._workers.run(partial(self._some, lines, of))
                if changes is None:
                    return
                yield changes
        finally:
            self._end(opened)

    def close(self) -> None:
        """Cut every open answer; who waits for one is told Unavailable."""
        self._closed = True
        with self._lock:
            for opened in list(self._open):
                _cut(opened)

    def _page(
        self, of: Collection, keep: Callable[[Object], Kept | None], following: str
    ) -> tuple[dict[Name, Kept], str, str] | None:
        """What is kept of one page, its version, and what asks for the next one ("" after the last)."""
        until = time.monotonic() + self._seconds
        query = {"limit": str(PAGE), **({"continue": following} if following else {})}
        try:
            document = self._document(of.path, query, until)
        except _NotFound:
            # An API group that is not installed has no objects; any other 404 is a server that is not what it should be.
            groups = self._document("/apis", {}, until)
            named = groups.get("groups")
            if groups.get("kind") != "APIGroupList" or not isinstance(named, list) or not of.group:
                raise Unavailable(f"the API server knows no {of}") from None
            if any(isinstance(group, dict) and group.get("name") == of.group for group in named):
                raise Unavailable(f"the API server has the group {of.group} and no {of}") from None
            return None
        metadata, items = document.get("metadata"), document.get("items")
        if document.get("kind") != f"{of.kind}List" or not isinstance(metadata, dict) or not isinstance(items, list):
            raise Unavailable(f"the API server answered with something that is no list of {of}")
        version, following = metadata.get("resourceVersion"), metadata.get("continue") or ""
        if not isinstance(version, str) or not version or not isinstance(following, str):
            raise Unavailable(f"the API server's list of {of} has no version")
        found: dict[Name, Kept] = {}
        for item in items:
            name = name_of(item) if isinstance(item, dict) else None
            if name is None:
                raise Unavailable(f"the API server lists one of the {of} without a name")
            kept = keep(item)
            if kept is not None:
                found[name] = kept
        return found, version, following

    def _document(self, path: str, query: dict[str, str], until: float) -> dict[str, Any]:
        opened = self._get(path, query, self._seconds)
        try:
            data = b"".join(_bounded(opened.response.stream(_CHUNK, decode_content=False), until, path))
        except _failures() as error:
            raise Unavailable(f"the API server broke off: {type(error).__name__}") from None
        finally:
            self._end(opened)
        return _json(data, f"the API server's answer for {path}")

    def _some(self, lines: Iterator[bytes | None], of: Collection) -> tuple[Change, ...] | None:
        """The next change, and those that came with it; None when the watch has ended."""
        changes: list[Change] = []
        try:
            for line in lines:
                if line is None:
                    if changes:
                        return tuple(changes)
                elif line.strip():
                    changes.append(_change(_json(line, f"a line of the watch of {of}"), of))
        except _failures() as error:
            if not changes:
                raise Unavailable(f"the watch of {of} broke off: {type(error).__name__}") from None
        return tuple(changes) or None

    def _get(self, path: str, query: dict[str, str], seconds: float) -> Any:
        """An answer of status 200 whose body has not been read."""
        if self._closed:
            raise Unavailable("the cluster is stopping")
        headers: dict[str, str] = {"Accept": "application/json"}
        client = self._client
        try:
            client.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
            url = f"{client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
            opened = client.call_api("GET", url, headers, _request_timeout=(self._seconds, seconds))
        except _failures() as error:
            raise Unavailable(f"the API server is not reached: {_why(error)}") from None
        with self._lock:
            self._open.add(opened)
        if self._closed:
            _cut(opened)
        if opened.status == 200:
            return opened
        said = b""
        with contextlib.suppress(*_failures()):
            said = opened.response.read(_STATUS_BYTES, decode_content=False)
        self._end(opened)
        raise _refused(opened.status, path, said)

    def _end(self, opened: Any) -> None:
        with self._lock:
            self._open.discard(opened)
            _cut(opened)  # a thread may be reading from it
        with contextlib.suppress(*_failures()):
            opened.response.close()


class _NotFound(Exception):
    """404."""


def _client_of(config: KubernetesConfig) -> Any:
    try:
        from kubernetes import client  # noqa: PLC0415 - only who configures it needs it
        from kubernetes import config as loading  # noqa: PLC0415
    except ImportError:
        raise Invalid(
            "mesh.kubernetes needs the official client, which is not installed", hint="pip install trustfed[kubernetes]"
        ) from None
    settings = client.Configuration()
    settings.retries = False  # tried again with back-off by who asks; redirects are followed nowhere
    settings.connection_pool_maxsize = THREADS
    try:
        load: Any = loading  # its functions have no types
        if config.kubeconfig is not None:
            load.load_kube_config(
                str(config.kubeconfig), config.context or None, client_configuration=settings, persist_config=False
            )
        else:
            load.load_incluster_config(client_configuration=settings)
    except Exception as error:  # the client raises what YAML, base64 and files raise; its words may quote secrets
        where = f"the kubeconfig {config.kubeconfig}" if config.kubeconfig else "the pod's service account"
        raise Invalid(
            f"{where} cannot be used: {type(error).__name__}",
            hint="kubectl --kubeconfig FILE get services -A must work; without a file this must run in a pod",
        ) from None
    if not str(settings.host).startswith("https://") or not settings.verify_ssl:
        raise Invalid(
            "the API server is not verified: its address is not https, or insecure-skip-tls-verify is set",
            hint="what it says decides which services are exported: name its CA in the kubeconfig",
        )
    return client.ApiClient(settings)


def _failures() -> tuple[type[BaseException], ...]:
    """What the client and the connection below it raise."""
    import urllib3  # noqa: PLC0415 - as the client
    from kubernetes.client.exceptions import OpenApiException  # noqa: PLC0415
    from kubernetes.config import ConfigException  # noqa: PLC0415

    return (urllib3.exceptions.HTTPError, OpenApiException, ConfigException, OSError, ValueError, AttributeError)


def _why(error: BaseException) -> str:
    """What failed, without repeating what the other side or a configuration says."""
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, BaseException) else error).__name__


def _refused(status: int, path: str, said: bytes) -> Exception:
    try:
        document = json.loads(said)
        reason = document.get("reason") if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        reason = None
    shown = f" {reason}" if isinstance(reason, str) and reason.isalnum() and len(reason) < 40 else ""
    if status == 404:
        return _NotFound()
    if status == 410:
        return Gone(f"the API server has forgotten that version of {path}")
    return Unavailable(
        f"the API server answered {status}{shown} for {path}", hint=_RIGHTS if status in (401, 403) else ""
    )


def _bounded(chunks: Iterator[bytes], until: float, path: str) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_PAGE_BYTES:
            raise Unavailable(f"the API server's answer for {path} is longer than {MAX_PAGE_BYTES} bytes")
        if time.monotonic() > until:
            raise Unavailable(f"the API server's answer for {path} does not come to an end")
        yield chunk


def _lines(chunks: Iterator[bytes], of: Collection) -> Iterator[bytes | None]:
    """The lines of a watch; None where nothing more has come yet."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        *whole, rest = held.split(b"\n")
        yield from map(bytes, whole)
        held = bytearray(rest)
        if len(held) > MAX_LINE_BYTES:
            raise Unavailable(f"a line of the watch of {of} is longer than {MAX_LINE_BYTES} bytes")
        yield None


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise Unavailable(f"{what} is no JSON") from None
    if not isinstance(document, dict):
        raise Unavailable(f"{what} is no object")
    return document


def _change(event: dict[str, Any], of: Collection) -> Change:
    said, item = event.get("type"), event.get("object")
    if not isinstance(item, dict) or said not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"):
        raise Unavailable(f"a line of the watch of {of} is no event")
    if said == "ERROR":
        if item.get("code") == 410:
            raise Gone(f"the API server has forgotten that version of {of}")
        raise Unavailable(f"the watch of {of} ended with an error of the API server")
    metadata = item.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not version:
        raise Unavailable(f"an object in the watch of {of} has no version")
    return Change(version, None if said == "BOOKMARK" else item, said == "DELETED")


def _cut(opened: Any) -> None:
    """Wake a thread that reads from it."""
    connection = getattr(opened.response, "connection", None)
    sock = getattr(connection, "sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
