"""The Kubernetes API, as far as the CA asks it: whose token is this (TokenReview), and which pods run on a node.

Through the official client, in a few threads, each call within SECONDS whatever the server does: no retries, no redirects
followed, no proxy, at most MAX_ANSWER bytes. What comes back is judged here and never believed for its form alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustfed.cluster.foreign.workers import Workers
from trustfed.cluster.istio_ca import service_tokens
from trustfed.cluster.istio_ca.accounts import Account, account_of
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.runtime import logs
from trustfed.runtime.files import read_bounded
from trustfed.spiffe import strict_json

log = logs.get("cluster.istio_ca")

SECONDS = 5.0
MAX_ANSWER = 2 << 20
MAX_TOKEN_FILE = 16 * 1024
THREADS = 8
_LISTED = 100
_EXTRA = "authentication.kubernetes.io/"
_HINT = "is the API server up, and may this cluster's own service account do this?"


@dataclass(frozen=True)
class Server:
    """Where the API server is, how it is known, and who we are there. The token is read anew for each call: it rotates."""

    url: str
    ca_file: Path
    token_file: Path


class KubernetesApi:
    """Makes calls; `Pods` and `Reviewer` speak through it."""

    def __init__(self, server: Server, seconds: float = SECONDS) -> None:
        self._server, self._seconds = server, seconds
        self._workers = Workers(THREADS, "kubernetes")
        self._client: Any = None
        self._loaded = False

    async def ask(self, call: Callable[[Any], Any], what: str) -> Mapping[str, object]:
        """The JSON object that answers one call of the client. Raises NotFound, Denied, Unavailable."""
        if not self._loaded:
            # The client takes seconds to load on a busy machine, and only who configures it needs it: apart from the call.
            await self._workers.run(_load)
            self._loaded = True
        try:
            async with asyncio.timeout(2 * self._seconds):
                return await self._workers.run(lambda: self._ask(call, what))
        except TimeoutError:
            raise Unavailable(f"{what}: the Kubernetes API did not answer in time", hint=_HINT) from None

    def _ask(self, call: Callable[[Any], Any], what: str) -> Mapping[str, object]:
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        end = time.monotonic() + self._seconds
        try:
            answer = call(self._connected())
            try:
                body = bytearray()
                while part := answer.read(64 * 1024):
                    body += part
                    if len(body) > MAX_ANSWER or time.monotonic() > end:
                        raise Unavailable(f"{what}: the Kubernetes API answered too much, or too slowly", hint=_HINT)
                status = int(answer.status)
            finally:
                answer.close()
        except ApiException as error:
            raise _refused(what, int(error.status or 0)) from None
        except (HTTPError, OSError, ValueError) as error:
            raise Unavailable(f"{what}: the Kubernetes API failed ({type(error).__name__})", hint=_HINT) from None
        if not 200 <= status < 300:
            raise _refused(what, status)
        try:
            return strict_json.parse_object(bytes(body), what=what, limit=MAX_ANSWER)
        except Invalid as error:
            raise Unavailable(f"the Kubernetes API answered nonsense: {error.message}", hint=_HINT) from None

    def _connected(self) -> Any:
        """An ApiClient of the newest token."""
        from kubernetes import client  # noqa: PLC0415

        if self._client is None:
            settings = client.Configuration()
            settings.host, settings.ssl_ca_cert = self._server.url, str(self._server.ca_file)
            settings.retries, settings.proxy, settings.verify_ssl = False, None, True
            self._client = client.ApiClient(settings)
        token = read_bounded(self._server.token_file, MAX_TOKEN_FILE).decode("ascii", "replace").strip()
        self._client.set_default_header("Authorization", f"Bearer {token}")
        return self._client

    @property
    def timeouts(self) -> tuple[float, float]:
        """To connect, and for each wait for bytes."""
        return (self._seconds, self._seconds)


class TokenReviewer:
    """Has the API server say whose token it is (authentication.k8s.io/v1 TokenReview)."""

    def __init__(self, api: KubernetesApi, audiences: tuple[str, ...]) -> None:
        self._api, self._audiences = api, audiences

    async def review(self, token: str) -> Account:
        """See service_tokens.Reviewer."""
        service_tokens.parse(token)  # what can be no service account's token is not passed on

        def call(connected: Any) -> Any:
            from kubernetes.client import AuthenticationV1Api, V1TokenReview, V1TokenReviewSpec  # noqa: PLC0415

            spec = V1TokenReviewSpec(token=token, audiences=list(self._audiences))
            body = V1TokenReview(api_version="authentication.k8s.io/v1", kind="TokenReview", spec=spec)
            return AuthenticationV1Api(connected).create_token_review(
                body, _preload_content=False, _request_timeout=self._api.timeouts
            )

        answer = await self._api.ask(call, "a token review")
        return self._judged(answer.get("status"))

    def _judged(self, status: object) -> Account:
        if not isinstance(status, dict) or not isinstance(user := status.get("user", {}), dict):
            raise Unavailable("the Kubernetes API answered a token review without a status", hint=_HINT)
        if status.get("authenticated") is not True or status.get("error"):
            raise Denied("the Kubernetes API does not know this service-account token", hint="has it expired?")
        # A server that knows no audiences leaves them out: then the token was for the API itself.
        service_tokens.check_audience(status.get("audiences"), self._audiences)
        account = account_of(user.get("username"))
        extra = user.get("extra")
        said = extra if isinstance(extra, dict) else {}
        return service_tokens.bound_to(
            account,
            pod=_first(said, "pod-name"),
            pod_uid=_first(said, "pod-uid"),
            node=_first(said, "node-name"),
        )


class KubernetesPods:
    """Which pods run where: what decides whom a shared ztunnel may speak for."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def node_of(self, caller: Account) -> str:
        """The node on which the caller's own pod runs. Raises Denied when that pod is not the token's."""

        def call(connected: Any) -> Any:
            from kubernetes.client import CoreV1Api  # noqa: PLC0415

            return CoreV1Api(connected).read_namespaced_pod(
                caller.pod, caller.namespace, _preload_content=False, _request_timeout=self._api.timeouts
            )

        wrong = Denied(f"the pod of {caller.key} that this token names does not run", hint="was it deleted?")
        if not caller.pod or not caller.pod_uid:
            raise Denied(f"the token of {caller.key} is bound to no pod", hint="use a projected service-account token")
        try:
            pod = await self._api.ask(call, "the caller's pod")
        except NotFound:
            raise wrong from None
        metadata, spec = _object(pod, "metadata"), _object(pod, "spec")
        node = spec.get("nodeName")
        same = (metadata.get("uid"), spec.get("serviceAccountName")) == (caller.pod_uid, caller.name)
        if not same or not isinstance(node, str) or not node or _over(pod):
            raise wrong
        return node

    async def runs_on(self, node: str, namespace: str, name: str) -> bool:
        """Whether a pod of this service account is on the node."""

        def call(connected: Any) -> Any:
            from kubernetes.client import CoreV1Api  # noqa: PLC0415

            return CoreV1Api(connected).list_namespaced_pod(
                namespace,
                field_selector=f"spec.nodeName={node},spec.serviceAccountName={name}",
                limit=_LISTED,
                _preload_content=False,
                _request_timeout=self._api.timeouts,
            )

        items = (await self._api.ask(call, "the pods of a node")).get("items")
        for pod in items if isinstance(items, list) else ():
            if not isinstance(pod, dict):
                continue
            spec = _object(pod, "spec")
            placed = (_object(pod, "metadata").get("namespace"), spec.get("nodeName"), spec.get("serviceAccountName"))
            if placed == (namespace, node, name) and not _over(pod):
                return True
        return False


def _load() -> None:
    try:
        from kubernetes.client import AuthenticationV1Api, CoreV1Api  # noqa: F401, PLC0415
    except ImportError:
        raise Unavailable("the Kubernetes client is not installed", hint="pip install 'trustfed[kubernetes]'") from None


def _refused(what: str, status: int) -> TrustfedError:
    if status == 404:
        return NotFound(f"{what}: the Kubernetes API has none")
    if not status:
        return Unavailable(f"{what}: the Kubernetes API cannot be reached, or is another one", hint=_HINT)
    # 401 and 403 are about this cluster's own account, not about the caller's token.
    return Unavailable(f"{what}: the Kubernetes API answered with status {status}", hint=_HINT)


def _first(extra: Mapping[str, object], name: str) -> object:
    value = extra.get(_EXTRA + name)
    return value[0] if isinstance(value, list) and len(value) == 1 else ""


def _object(about: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = about.get(name)
    return value if isinstance(value, dict) else {}


def _over(pod: Mapping[str, object]) -> bool:
    return _object(pod, "status").get("phase") in ("Succeeded", "Failed")
