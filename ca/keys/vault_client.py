"""Requests to HashiCorp Vault or OpenBao: hvac with bounds on time and size, and refusals in our words. Blocking.

No redirect is followed (the token would travel along), no proxy, netrc or VAULT_* variable is read, and plain HTTP is
spoken to this machine only.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import hvac
import requests
import urllib3.exceptions
from hvac.adapters import JSONAdapter, RawAdapter

from trustfed.errors import Denied, Invalid, Unavailable

MAX_ANSWER = 2 * 1024 * 1024  # 1,000 signatures are 150 kB
_TRIES = 4
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class VaultServer:
    """Where a Vault is, and how long we wait: `timeout` seconds for one request, `deadline` for all its tries."""

    url: str
    ca_file: Path | None = None
    namespace: str | None = None
    timeout: float = 3.0
    deadline: float = 10.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.path.strip("/"):
            raise Invalid(f"Vault URL {self.url[:200]!r} is malformed", hint="https://HOST:PORT, without a path")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise Invalid(f"Vault URL {self.url[:200]!r} would send the token in clear", hint="use https://")
        if self.ca_file is not None and not self.ca_file.is_file():
            raise Invalid(
                f"the CA file for Vault, {self.ca_file}, does not exist", hint="a PEM file of CA certificates"
            )
        if self.namespace is not None and not re.fullmatch(r"[A-Za-z0-9_./-]{1,200}", self.namespace):
            raise Invalid(f"Vault namespace {self.namespace[:200]!r} is malformed", hint="letters, digits and . _ - /")

    def client(self) -> hvac.Client:
        """Return a client without a token; for one thread at a time."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca_file) if self.ca_file else True
        return hvac.Client(
            url=self.url.rstrip("/"),
            token="",
            cert=(),
            verify=session.verify,
            session=session,
            adapter=_BoundedAdapter,
            allow_redirects=False,
            namespace=self.namespace,
        )

    def ask(
        self,
        client: hvac.Client,
        request: Callable[[hvac.Client], _Answer],
        *,
        repeatable: bool = True,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> _Answer:
        """Return what `request` returns, trying again with jitter while Vault cannot be reached, until the deadline.

        Raises Refusal for what Vault refused, Denied, and Unavailable. A request that is not `repeatable` is made once.
        """
        end = clock() + self.deadline
        tries = _TRIES if repeatable else 1
        for attempt in range(1, tries + 1):
            client.adapter.end = min(end, clock() + self.timeout)
            client.adapter.clock = clock
            try:
                return request(client)
            except _Transient as failure:
                wait = random.uniform(0, 0.1 * 2**attempt)  # noqa: S311 - spreads tries, keeps no secret
                if attempt == tries or clock() + wait >= end:
                    raise Unavailable(f"Vault at {self.url} {failure}", hint=failure.hint) from None
                pause(wait)
        raise AssertionError("unreachable")


class Refusal(Exception):
    """Vault answered with a 4xx status: what it means depends on the request."""

    def __init__(self, status: int, reasons: list[str]) -> None:
        super().__init__(f"status {status}: {'; '.join(reasons)[:300] or 'no reason given'}")
        self.status = status
        self.reasons = reasons


class _Transient(Exception):
    """What may be over in a moment."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class _BoundedAdapter(JSONAdapter):  # type: ignore[misc]  # hvac is not typed
    """hvac's adapter with an end in time for the whole answer, and a bound on its size."""

    end = 0.0
    clock: Callable[[], float] = staticmethod(time.monotonic)

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        left = max(self.end - self.clock(), 0.001)
        headers = {"Accept-Encoding": "identity"}
        kwargs.pop("raise_exception", None)
        kwargs.update(headers={**headers, **kwargs.get("headers", {})}, timeout=left, stream=True)
        try:
            response = RawAdapter.request(self, method, url, *args, raise_exception=False, **kwargs)
            try:
                content = self._content(response.raw)
            finally:
                response.close()
        except requests.exceptions.SSLError as error:
            raise Denied(
                f"Vault's TLS certificate was refused: {_reason(error)}", hint="set ca_file in [keys.vault]"
            ) from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _Transient(f"cannot be reached ({_reason(error)})", "is it running, and is the URL right?") from None
        return self._judged(response.status_code, content)

    def _content(self, raw: urllib3.BaseHTTPResponse) -> bytes:
        content = bytearray()
        while chunk := raw.read1(64 * 1024, decode_content=False):
            content += chunk
            if len(content) > MAX_ANSWER:
                raise Unavailable(f"Vault answered with more than {MAX_ANSWER} bytes", hint="is this a Vault?")
            if self.clock() > self.end:
                raise _Transient("answered too slowly", "look at its load and at the network")
        return bytes(content)

    def _judged(self, status: int, content: bytes) -> Mapping[str, Any]:
        try:
            answer = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            answer = None
        if 200 <= status < 300 and isinstance(answer, dict):
            if all(isinstance(answer.get(member), dict | None) for member in ("data", "auth")):
                return answer
            answer = None
        reasons = answer.get("errors") if isinstance(answer, dict) else None
        reasons = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
        if status == 503 and any("sealed" in reason for reason in reasons):
            raise Unavailable("Vault is sealed", hint="unseal it: bao operator unseal, or vault operator unseal")
        if 300 <= status < 400:
            raise Unavailable(
                "Vault redirects to another address, which we do not follow",
                hint="set url in [keys.vault] to the active node",
            )
        if 400 <= status < 500 and status not in (408, 429, 472, 473) and isinstance(answer, dict):
            raise Refusal(status, reasons)
        raise _Transient(f"answered with status {status}", "look at Vault's own log")


def _reason(error: BaseException) -> str:
    """Return the kind of a network failure: the text of requests' exceptions may repeat what we sent."""
    inner: Any = error
    while getattr(inner, "reason", None) is not None or (inner.args and isinstance(inner.args[0], BaseException)):
        following = getattr(inner, "reason", None) or inner.args[0]
        if not isinstance(following, BaseException) or following is inner:
            break
        inner = following
    return type(inner).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
