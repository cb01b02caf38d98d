"""gRPC status codes, and how an exception becomes one.

Source: the gRPC core concepts (status codes) and "gRPC over HTTP/2" (percent-encoded `grpc-message`).
"""

from __future__ import annotations

from enum import IntEnum

from trustfed.runtime import logs
from trustfed.runtime.errors import answer

LOG = logs.get("trustfed.h2grpc")
MESSAGE_LIMIT = 1024
"""Bytes of `grpc-message` before encoding: the header list of most clients is bounded at 8 KiB."""


class Code(IntEnum):
    """The sixteen refusals of gRPC, and OK."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Refused(Exception):
    """A call ends with this status; for what the five `trustfed.errors` do not say."""

    def __init__(self, code: Code, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def of(error: BaseException, path: str) -> tuple[Code, str]:
    """Say `error` as a status, as every door of ours does (trustfed.runtime.errors); the hint is its last line.

    What nobody foresaw is INTERNAL with an opaque id that only the log explains.
    """
    if isinstance(error, Refused):
        return error.code, error.message
    told = answer(error, path=path)
    return Code(told.grpc_code), told.grpc_message()


def percent_encode(message: str) -> bytes:
    """Encode `message` as the value of `grpc-message`: printable ASCII but `%` stays, all else is %XX of its UTF-8."""
    raw = message.encode("utf-8", "replace")[:MESSAGE_LIMIT]
    raw = raw.decode("utf-8", "ignore").encode()  # never half a character
    spaces = len(raw) - len(raw.strip(b" "))
    if not spaces and all(0x20 <= byte <= 0x7E and byte != 0x25 for byte in raw):
        return raw
    # A field value may not begin or end with a space (RFC 9113 §8.2.1), so spaces at the rims are encoded too.
    first, last = len(raw) - len(raw.lstrip(b" ")), len(raw.rstrip(b" "))
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 and first <= at < last else b"%%%02X" % byte
        for at, byte in enumerate(raw)
    )
