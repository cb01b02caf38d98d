"""An API server of our own: real HTTPS, lists and watches as Kubernetes spells them, and faults on demand.

    with KubernetesApi(folder) as api:
        api.put("services", service("payments", "shop", ...))   # now, and to every open watch
        api.kubeconfig                                          # a file for the official client
        api.fault("list", status(500), path="/api/v1/services") # the next such request fails
        api.cut_watches(); api.forget_history()                 # mid-watch; then 410 Gone for older versions
        api.routes["POST", "/apis/authentication.k8s.io/v1/tokenreviews"] = review   # (request) → (status, object)

The token that it wants is `api.token`, sent as `Authorization: Bearer`; what came is in `api.requests`.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.certificates import Authority

Object = dict[str, Any]
COLLECTIONS = {
    "services": ("/api/v1", "Service", "v1"),
    "pods": ("/api/v1", "Pod", "v1"),
    "destinationrules": ("/apis/networking.istio.io/v1", "DestinationRule", "networking.istio.io/v1"),
    "peerauthentications": ("/apis/security.istio.io/v1", "PeerAuthentication", "security.istio.io/v1"),
}
HISTORY = 1_000


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def verb(self) -> str:
        """ "list", "watch" or the method in lower case."""
        if self.method != "GET":
            return self.method.lower()
        return "watch" if self.query.get("watch") in ("1", "true", "True") else "list"


Answer = Callable[["_Handler", Request], None]
Route = Callable[[Request], tuple[int, Object]]


class KubernetesApi:
    """One server on loopback; it ends with the `with` block."""

    def __init__(self, folder: Path, token: str = "service-account-token") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.token = folder, token
        self.routes: dict[tuple[str, str], Route] = {("GET", "/apis"): self._groups, ("GET", "/version"): _version}
        self.requests: list[Request] = []
        self.groups = ["networking.istio.io", "security.istio.io"]
        self._authority = Authority(folder, "api-ca")
        self._certificate = self._authority.issue("api")
        self._faults: list[tuple[str, str, Answer]] = []
        self._changed = threading.Condition()
        self._objects: dict[str, dict[tuple[str, str], Object]] = {name: {} for name in COLLECTIONS}
        self._history: deque[tuple[int, str, str, Object]] = deque(maxlen=HISTORY)
        self._version = 100
        self._oldest = 100
        self._watches: set[_Handler] = set()
        self._port = 0
        self._server: _Server | None = None

    # Its life.

    def __enter__(self) -> KubernetesApi:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, where it listened before."""
        api = self

        class Bound(_Handler):
            pass

        Bound.api = api
        server = _Server(("127.0.0.1", self._port), Bound)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._certificate)
        server.context = context
        self._server, self._port = server, server.server_port
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Nobody answers any more."""
        if self._server is not None:
            server, self._server = self._server, None
            server.shutdown()
            server.server_close()
            self.cut_watches()
            server.cut_all()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def ca_file(self) -> Path:
        return self._authority.file

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig with this server, its CA and the token (JSON, which is YAML)."""
        path = self.folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": "u", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        }
        path.touch(0o600)
        path.write_text(json.dumps(document))
        return path

    # What a test does.

    def put(self, collection: str, body: Object) -> Object:
        """Create or change an object; open watches hear of it."""
        with self._changed:
            self._version += 1
            _, kind, version = COLLECTIONS[collection]
            metadata = {"namespace": "default", **body["metadata"], "resourceVersion": str(self._version)}
            made = {"apiVersion": version, "kind": kind, **body, "metadata": metadata}
            name = (metadata["namespace"], metadata["name"])
            said = "MODIFIED" if name in self._objects[collection] else "ADDED"
            self._objects[collection][name] = made
            self._history.append((self._version, collection, said, made))
            self._changed.notify_all()
            return made

    def delete(self, collection: str, namespace: str, name: str) -> None:
        """Take an object away."""
        with self._changed:
            self._version += 1
            gone = self._objects[collection].pop((namespace, name))
            gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self._version)}}
            self._history.append((self._version, collection, "DELETED", gone))
            self._changed.notify_all()

    def fault(self, verb: str, answer: Answer, *, path: str = "", times: int = 1) -> None:
        """Let the next requests of this verb ("list", "watch", "post", ... or "*"; on this path) be answered so."""
        self._faults += [(verb, path, answer)] * times

    def clear_faults(self) -> None:
        self._faults.clear()

    def forget_history(self) -> None:
        """Watches from now on get 410 Gone for versions before this one."""
        with self._changed:
            self._version += 1
            self._oldest = self._version
            self._history.clear()

    def cut_watches(self) -> None:
        """Every open watch breaks in the middle."""
        with self._changed:
            for handler in list(self._watches):
                with contextlib.suppress(OSError):
                    handler.connection.shutdown(socket.SHUT_RDWR)

    def send_to_watches(self, data: bytes) -> None:
        """Bytes in the middle of every open watch."""
        with self._changed:
            for handler in list(self._watches):
                with contextlib.suppress(OSError):
                    handler.chunk(data)

    @property
    def watching(self) -> int:
        """How many watches are open."""
        with self._changed:
            return len(self._watches)

    def count(self, verb: str, path: str = "") -> int:
        """How many such requests came."""
        return sum(request.verb == verb and request.path.startswith(path) for request in list(self.requests))

    # What it answers.

    def answer(self, handler: _Handler, request: Request) -> None:
        self.requests.append(request)
        for fault in list(self._faults):
            verb, path, answer = fault
            if verb in ("*", request.verb) and path in ("", request.path):
                self._faults.remove(fault)
                answer(handler, request)
                return
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or sent != self.token:
            handler.say(401, status_object(401, "Unauthorized", "Unauthorized"))
            return
        route = self.routes.get((request.method, request.path))
        if route is not None:
            handler.say(*route(request))
            return
        for name, (prefix, kind, version) in COLLECTIONS.items():
            found = re.fullmatch(rf"{prefix}/(?:namespaces/([a-z0-9-]+)/)?{name}", request.path)
            if found and request.method == "GET" and (version == "v1" or version.split("/")[0] in self.groups):
                if request.verb == "watch":
                    self._watch(handler, request, name, found[1])
                else:
                    handler.say(*self._list(request, name, found[1], kind, version))
                return
        handler.say(404, status_object(404, "NotFound", "the server could not find the requested resource"))

    def _list(
        self, request: Request, collection: str, namespace: str | None, kind: str, version: str
    ) -> tuple[int, Object]:
        with self._changed:
            held = sorted(self._objects[collection].items())
            found = [body for (ns, _), body in held if namespace in (None, ns)]
            start, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 0)) or len(found)
            metadata: Object = {"resourceVersion": str(self._version)}
            if start + limit < len(found):
                metadata["continue"] = str(start + limit)
            items = [
                {k: v for k, v in body.items() if k not in ("kind", "apiVersion")}
                for body in found[start : start + limit]
            ]
            return 200, {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items}

    def _watch(self, handler: _Handler, request: Request, collection: str, namespace: str | None) -> None:
        after, until = int(request.query["resourceVersion"]), time.monotonic() + int(request.query["timeoutSeconds"])
        handler.begin_chunks()
        with self._changed:
            if after < self._oldest:
                handler.event("ERROR", status_object(410, "Expired", "too old resource version"))
                handler.end_chunks()
                return
            self._watches.add(handler)
        try:
            while time.monotonic() < until and self._server is not None and not handler.left():
                with self._changed:
                    for version, name, said, body in list(self._history):
                        if (
                            version > after
                            and name == collection
                            and namespace in (None, body["metadata"]["namespace"])
                        ):
                            handler.event(said, body)
                    after = max(after, self._version)
                    self._changed.wait(min(max(until - time.monotonic(), 0), 0.05))
            handler.end_chunks()
        except OSError:
            pass
        finally:
            handler.close_connection = True
            with self._changed:
                self._watches.discard(handler)

    def _groups(self, _: Request) -> tuple[int, Object]:
        groups = [{"name": name, "versions": [{"groupVersion": f"{name}/v1", "version": "v1"}]} for name in self.groups]
        return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _version(_: Request) -> tuple[int, Object]:
    return 200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):
            request.settimeout(30)
            with self.context.wrap_socket(request, server_side=True) as connection:
                self._open.add(connection)
                try:
                    super().finish_request(connection, client_address)
                finally:
                    self._open.discard(connection)

    def cut_all(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubernetesApi

    def do_GET(self) -> None:
        self._any()

    def do_POST(self) -> None:
        self._any()

    def _any(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("content-length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.api.answer(self, Request(self.command, parts.path, query, headers, self.rfile.read(length)))

    def say(self, status: int, body: Object) -> None:
        """A whole answer."""
        self.say_bytes(status, json.dumps(body).encode())

    def say_bytes(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, said: str, body: Object) -> None:
        self.chunk(json.dumps({"type": said, "object": body}).encode() + b"\n")

    def left(self) -> bool:
        """Whether the client has closed: while it reads an answer it sends nothing."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def end_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


# Faults.


def status(code: int, message: str = "it is broken", **headers: str) -> Answer:
    """An error as the API server words it."""

    def answer(handler: _Handler, request: Request) -> None:
        data = json.dumps(status_object(code, "Broken", message)).encode()
        handler.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def bytes_instead(data: bytes) -> Answer:
    """200 with these bytes: garbage, the wrong document, half of one."""
    return lambda handler, request: handler.say_bytes(200, data)


def huge(count: int) -> Answer:
    """A list that begins well and does not end for so many bytes."""

    def answer(handler: _Handler, request: Request) -> None:
        handler.begin_chunks()
        with contextlib.suppress(OSError):
            handler.chunk(b'{"kind": "ServiceList", "items": [')
            for _ in range(count >> 16):
                handler.chunk(b" " * (1 << 16))
            handler.chunk(b"]}")
            handler.end_chunks()

    return answer


def cut(handler: _Handler, request: Request) -> None:
    """The connection ends in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b'{"kind": "ServiceList", "metadata": {"resourceVersion": "1"}, "items": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def drip(seconds: float) -> Answer:
    """A byte now and then, for so long."""

    def answer(handler: _Handler, request: Request) -> None:
        handler.begin_chunks()
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                handler.chunk(b" ")
                time.sleep(0.02)
        handler.close_connection = True

    return answer


def status_object(code: int, reason: str, message: str) -> Object:
    """The Kubernetes object Status."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


# Objects.


def service(name: str, namespace: str, annotations: dict[str, str] | None = None, **spec: Any) -> Object:
    """A Service with one HTTP port and the selector app=NAME, unless `spec` says otherwise."""
    ports = [{"name": "http", "port": 8080, "protocol": "TCP", "targetPort": 8080}]
    return {
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}},
        "spec": {"type": "ClusterIP", "selector": {"app": name}, "ports": ports, **spec},
    }


def pod(
    name: str,
    namespace: str,
    app: str,
    *,
    account: str = "default",
    sidecar: bool | str = True,
    phase: str = "Running",
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    ports: dict[str, int] | None = None,
) -> Object:
    """A pod with the label app; `sidecar` "init": a native one."""
    named = [{"name": port, "containerPort": number} for port, number in (ports or {}).items()]
    spec: Object = {"serviceAccountName": account, "containers": [{"name": "app", "image": "app:1", "ports": named}]}
    if sidecar == "init":
        spec["initContainers"] = [{"name": "istio-proxy", "image": "proxyv2", "restartPolicy": "Always"}]
    elif sidecar:
        spec["containers"].append({"name": "istio-proxy", "image": "proxyv2"})
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app": app, **(labels or {})},
            "annotations": annotations or {},
        },
        "spec": spec,
        "status": {"phase": phase},
    }


def rule(name: str, namespace: str, host: str, **spec: Any) -> Object:
    """A DestinationRule that an owner wrote."""
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": "2025-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": {"host": host, **spec}}


def policy(name: str, namespace: str, mode: str | None = None, *, created: str = "2025-01-01", **spec: Any) -> Object:
    """A PeerAuthentication; `selector` as labels, `ports` as mode by number."""
    made: Object = {} if mode is None else {"mtls": {"mode": mode}}
    if selector := spec.pop("selector", None):
        made["selector"] = {"matchLabels": selector}
    if ports := spec.pop("ports", None):
        made["portLevelMtls"] = {str(number): {"mode": mode} for number, mode in ports.items()}
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": f"{created}T00:00:00Z"}
    return {"metadata": metadata, "spec": {**made, **spec}}
