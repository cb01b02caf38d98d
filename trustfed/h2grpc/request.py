"""The head of a gRPC request: header list in, path, metadata and deadline out, or the reason why not.

Source: "gRPC over HTTP/2", Requests. Pure. h2 has validated the list against RFC 9113 before.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from trustfed.h2grpc.status import Code, Refused

TIMEOUT = re.compile(rb"[0-9]{1,8}[HMSmun]")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PATH = re.compile(rb"/[A-Za-z0-9_.]{1,200}/[A-Za-z0-9_]{1,100}")
_RESERVED = frozenset({b"te", b"content-type", b"user-agent", b"host", b"content-length"})
METADATA_ENTRIES = 64
NOTHING: Mapping[str, list[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Head:
    """What the header list says. `http` is the status of a plain HTTP refusal, `refusal` that of a gRPC one."""

    path: str = ""
    metadata: Mapping[str, list[str]] = field(default_factory=lambda: NOTHING)
    http: int = 200
    refusal: tuple[Code, str] | None = None


def timeout(value: bytes) -> float:
    """Read a `grpc-timeout` into seconds; raises Refused (INTERNAL, as the standard's implementations do)."""
    if not TIMEOUT.fullmatch(value):
        raise Refused(Code.INTERNAL, "malformed grpc-timeout: up to 8 digits and one of H M S m u n are wanted")
    return int(value[:-1]) * _UNITS[value[-1:]]


def read(headers: Sequence[tuple[bytes, bytes]]) -> Head:
    """Read a request's header list.

    1. The method is POST, the content type is gRPC's, with protobuf messages.
    2. `te: trailers` is there: it tells that no proxy in between drops trailers.
    3. No message encoding but identity.
    4. The path is `/service/method`; one without the leading slash is nobody's (gRPC-Go CVE-2026-33186).
    5. Metadata: bounded in number, `-bin` values decoded.
    """
    once: dict[bytes, bytes] = {}
    metadata: dict[str, list[str]] = {}
    entries = 0
    for name, value in headers:
        if name[:1] == b":" or name in _RESERVED or name.startswith(b"grpc-"):
            once.setdefault(name, value)
            continue
        entries += 1  # 5
        if entries > METADATA_ENTRIES:
            return Head(refusal=(Code.RESOURCE_EXHAUSTED, f"more than {METADATA_ENTRIES} metadata entries"))
        text = name.decode("ascii", "replace")
        try:
            values = _binary(value) if text.endswith("-bin") else [value.decode("latin-1")]
        except binascii.Error:
            return Head(refusal=(Code.INTERNAL, f"metadata {text} is not base64"))
        metadata.setdefault(text, []).extend(values)
    return _judge(once) or Head(once[b":path"].decode("ascii"), metadata)


def _judge(once: Mapping[bytes, bytes]) -> Head | None:
    """Steps 1 to 4: a refusal, or None."""
    if once.get(b":method") != b"POST":  # 1
        return Head(http=405, refusal=(Code.UNIMPLEMENTED, "gRPC calls are made with POST"))
    kind = once.get(b"content-type", b"").split(b";")[0].strip()
    if kind not in (b"application/grpc", b"application/grpc+proto"):
        return Head(http=415, refusal=(Code.UNKNOWN, "the content type must be application/grpc"))
    if once.get(b"te") != b"trailers":  # 2
        return Head(refusal=(Code.INTERNAL, "the header te: trailers is missing"))
    if once.get(b"grpc-encoding", b"identity") != b"identity":  # 3
        return Head(refusal=(Code.UNIMPLEMENTED, "compressed messages are not taken: send grpc-encoding: identity"))
    if not _PATH.fullmatch(once.get(b":path", b"")):  # 4
        return Head(refusal=(Code.UNIMPLEMENTED, "malformed method name: /service/method is wanted"))
    return None


def _binary(value: bytes) -> list[str]:
    """Decode the comma-separated base64 of a `-bin` value, padded or not, to one latin-1 character per byte."""
    parts = [part.strip() for part in value.split(b",")]
    return [base64.b64decode(part + b"=" * (-len(part) % 4), validate=True).decode("latin-1") for part in parts]
