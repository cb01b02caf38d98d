"""The errors of the house, mapped once: to HTTP problem details (RFC 9457), gRPC status codes and exit codes.

Invalid     400   3 INVALID_ARGUMENT      exit 2
Denied      403   7 PERMISSION_DENIED     exit 3
NotFound    404   5 NOT_FOUND             exit 4
Conflict    409   9 FAILED_PRECONDITION   exit 5
Unavailable 503  14 UNAVAILABLE           exit 6
any other   500  13 INTERNAL              exit 1   an opaque "internal error" with an id that the log has
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.runtime import logs

PROBLEM_CONTENT_TYPE = "application/problem+json"
MAX_MESSAGE = 4_000
_MAPPED: dict[type[TrustfedError], tuple[int, int, int, str]] = {
    Invalid: (400, 3, 2, "invalid"),
    Denied: (403, 7, 3, "denied"),
    NotFound: (404, 5, 4, "not found"),
    Conflict: (409, 9, 5, "conflict"),
    Unavailable: (503, 14, 6, "unavailable"),
}
# What libraries between us and a peer say in their own words: OUT_OF_RANGE, ALREADY_EXISTS, ABORTED, UNAUTHENTICATED.
_GRPC: dict[int, type[TrustfedError]] = {
    **{code: kind for kind, (_, code, _, _) in _MAPPED.items()},
    6: Conflict,
    10: Conflict,
    11: Invalid,
    16: Denied,
}
_HTTP: dict[int, type[TrustfedError]] = {
    **{status: kind for kind, (status, _, _, _) in _MAPPED.items()},
    401: Denied,
    405: Invalid,
    410: NotFound,
    412: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}
_log = logs.get("errors")


@dataclass(frozen=True)
class Answer:
    """One error for one caller, in every form; `grpc_code` is the number of the status."""

    http_status: int
    grpc_code: int
    exit_code: int
    title: str
    message: str
    hint: str = ""
    error_id: str = ""

    def problem(self) -> bytes:
        """The body of an HTTP answer (PROBLEM_CONTENT_TYPE): title, status, detail, and hint or error_id if any."""
        document: dict[str, object] = {"title": self.title, "status": self.http_status, "detail": self.message}
        if self.hint:
            document["hint"] = self.hint
        if self.error_id:
            document["error_id"] = self.error_id
        return json.dumps(document).encode()

    def grpc_message(self) -> str:
        """The gRPC status message: the message and, on a last line, the hint."""
        return f"{self.message}\n{_HINT_LINE}{self.hint}" if self.hint else self.message

    def line(self) -> str:
        """What a command prints: the message, and the hint in brackets."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


_HINT_LINE = "hint: "


def answer(error: BaseException, **where: object) -> Answer:
    """What the caller may know of `error`. An error that is not ours is logged here, once, with a fresh id and `where`."""
    for kind, (status, code, exit_code, title) in _MAPPED.items():
        if isinstance(error, kind):
            return Answer(status, code, exit_code, title, error.message[:MAX_MESSAGE], error.hint[:MAX_MESSAGE])
    error_id = secrets.token_hex(8)
    _log.exception("internal error", error, error_id=error_id, **where)
    return Answer(500, 13, 1, "internal", "internal error", f"the log has it under {error_id}", error_id)


def from_grpc(code: int, message: str) -> TrustfedError:
    """The error of ours that a peer's gRPC status stands for; any other code becomes Unavailable."""
    text, _, hint = message[:MAX_MESSAGE].rpartition("\n" + _HINT_LINE)
    text, hint = (text, hint) if text else (hint, "")
    kind = _GRPC.get(code, Unavailable)
    return kind(text or f"the peer answered with gRPC status {code}", hint=hint)


def from_http(status: int, body: bytes) -> TrustfedError:
    """The error of ours that a peer's HTTP answer (problem details or not) stands for."""
    try:
        document = json.loads(body[:65_536])
    except (ValueError, RecursionError):
        document = None
    said = document if isinstance(document, dict) else {}
    detail, hint = said.get("detail"), said.get("hint")
    return _HTTP.get(status, Unavailable)(
        detail[:MAX_MESSAGE] if isinstance(detail, str) and detail else f"the peer answered with HTTP status {status}",
        hint=hint[:MAX_MESSAGE] if isinstance(hint, str) else "",
    )
