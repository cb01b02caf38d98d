"""What surrounds Istio's CA protocol in tests: a token issuer, callers' requests, and a Kubernetes API server that faults."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.certificates import Authority
from trustfed.cluster.istio_ca.kubernetes import Server
from trustfed.spiffe import keys

ISSUER, AUDIENCE = "https://kubernetes.default.svc.cluster.local", "istio-ca"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key for all tests: making one takes a tenth of a second."""
    return rsa.generate_private_key(65537, bits)


class Issuer:
    """A Kubernetes cluster's service-account issuer."""

    def __init__(self, kid: str = "k1", key: PrivateKey | None = None) -> None:
        self.kid, self.key = kid, key or rsa_key()

    @property
    def algorithm(self) -> str:
        return "RS256" if isinstance(self.key, rsa.RSAPrivateKey) else "ES256"

    def claims(self, namespace: str = "shop", account: str = "web", **changes: Any) -> dict[str, Any]:
        """A bound token's claims; a change to None leaves a claim out."""
        now = int(changes.pop("now", datetime.now(UTC)).timestamp())
        made: dict[str, Any] = {
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "exp": now + 3600,
            "nbf": now,
            "iat": now,
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": account, "uid": "1d2c"},
                "pod": {"name": f"{account}-0", "uid": f"uid-{account}"},
                "node": {"name": "node-1", "uid": "9f"},
            },
            **changes,
        }
        return {name: value for name, value in made.items() if value is not None}

    def token(self, *, headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """A signed token."""
        return jwt.encode(
            self.claims(**changes), self.key, algorithm=self.algorithm, headers={"kid": self.kid, **(headers or {})}
        )

    def jwks(self, *more: Mapping[str, Any]) -> bytes:
        """The JWKS document."""
        own = {**keys.to_jwk(self.key.public_key()), "kid": self.kid, "use": "sig", "alg": self.algorithm}
        return json.dumps({"keys": [own, *more]}).encode()


def request_for(*uris: str, key: PrivateKey | None = None, dns: tuple[str, ...] = ()) -> str:
    """A certificate request as istio-agent makes it (PEM)."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(name) for name in dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


Answer = tuple[int, bytes]


@dataclass
class ApiServer:
    """A Kubernetes API server: tokens it knows, pods that run, and one fault at a time."""

    server: Server
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)  # token → status of its review
    pods: list[dict[str, Any]] = field(default_factory=list)
    fault: Callable[[], Answer | None] = lambda: None
    asked: list[str] = field(default_factory=list)

    def know(self, token: str, namespace: str, account: str, **changes: Any) -> None:
        """A token that this cluster gave out."""
        extra = {
            "authentication.kubernetes.io/pod-name": [f"{account}-0"],
            "authentication.kubernetes.io/pod-uid": [f"uid-{account}"],
        }
        user = {"username": f"system:serviceaccount:{namespace}:{account}", "uid": "1d2c", "extra": extra}
        self.tokens[token] = {"authenticated": True, "user": user, "audiences": [AUDIENCE], **changes}

    def run(self, namespace: str, account: str, node: str, phase: str = "Running", uid: str = "") -> None:
        """A pod."""
        name = f"{account}-{sum(1 for p in self.pods if p['spec']['serviceAccountName'] == account)}"
        self.pods.append(
            {
                "metadata": {"name": name, "namespace": namespace, "uid": uid or f"uid-{account}"},
                "spec": {"nodeName": node, "serviceAccountName": account, "containers": []},
                "status": {"phase": phase},
            }
        )

    def answer(self, method: str, target: str, body: bytes, authorization: str) -> Answer:
        """What one request gets."""
        self.asked.append(f"{method} {target}")
        if authorization != "Bearer own-token":
            return 401, b"{}"
        if (faulty := self.fault()) is not None:
            return faulty
        parts = urlsplit(target)
        if method == "POST" and parts.path == "/apis/authentication.k8s.io/v1/tokenreviews":
            token = json.loads(body)["spec"]["token"]
            known = self.tokens.get(token, {"authenticated": False, "error": "invalid bearer token"})
            return 201, json.dumps({"kind": "TokenReview", "status": known}).encode()
        *_, namespace, kind = parts.path.split("/")[:6]
        if kind == "pods" and method == "GET":
            return self._pods(namespace, parts.path.split("/")[6:], parse_qs(parts.query))
        return 404, b"{}"

    def _pods(self, namespace: str, name: list[str], query: dict[str, list[str]]) -> Answer:
        found = [pod for pod in self.pods if pod["metadata"]["namespace"] == namespace]
        if name:
            one = next((pod for pod in found if pod["metadata"]["name"] == name[0]), None)
            return (200, json.dumps(one).encode()) if one else (404, b"{}")
        for rule in query.get("fieldSelector", [""])[0].split(","):
            path, _, value = rule.partition("=")
            found = [pod for pod in found if pod["spec"].get(path.removeprefix("spec.")) == value]
        return 200, json.dumps({"items": found}).encode()


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """An API server on loopback over HTTPS; it ends with the block."""
    authority = Authority(folder, "kube")
    certificate, key = authority.issue("api")
    token_file = folder / "token"
    token_file.write_text("own-token\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = api.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status in (301, 302):
                self.send_header("Location", content.decode())
                content = b""
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    api = ApiServer(Server(f"https://127.0.0.1:{httpd.server_port}", authority.file, token_file))
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield api
    finally:
        httpd.shutdown()
        httpd.server_close()


def slowly(seconds: float) -> Callable[[], Answer | None]:
    """A fault: the answer comes late."""

    def fault() -> Answer | None:
        time.sleep(seconds)
        return None

    return fault
