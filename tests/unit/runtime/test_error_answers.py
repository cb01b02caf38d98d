"""Errors, mapped once: the same five kinds at every door, and nothing of the unexpected."""

from __future__ import annotations

import json

import pytest
from grpclib.const import Status

from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.runtime.errors import answer, from_grpc, from_http

TABLE = [
    (Invalid, 400, Status.INVALID_ARGUMENT, 2),
    (Denied, 403, Status.PERMISSION_DENIED, 3),
    (NotFound, 404, Status.NOT_FOUND, 4),
    (Conflict, 409, Status.FAILED_PRECONDITION, 5),
    (Unavailable, 503, Status.UNAVAILABLE, 6),
]


@pytest.mark.parametrize(("kind", "http", "grpc", "code"), TABLE)
def test_there_and_back(kind: type[TrustfedError], http: int, grpc: Status, code: int) -> None:
    said = answer(kind("what\nhappened", hint="do this"))
    assert (said.http_status, said.grpc_code, said.exit_code) == (http, grpc.value, code)
    assert json.loads(said.problem()) == {
        "title": said.title,
        "status": http,
        "detail": "what\nhappened",
        "hint": "do this",
    }
    for heard in (from_grpc(said.grpc_code, said.grpc_message()), from_http(http, said.problem())):
        assert type(heard) is kind and (heard.message, heard.hint) == ("what\nhappened", "do this")
    assert said.line() == "what\nhappened (do this)"


def test_without_a_hint() -> None:
    said = answer(Denied("no"))
    assert said.line() == said.grpc_message() == "no" and "hint" not in json.loads(said.problem())
    assert from_grpc(7, "no").hint == ""


def test_the_unexpected_is_opaque(caplog: pytest.LogCaptureFixture) -> None:
    said = answer(RuntimeError("secret detail"))
    assert (said.http_status, said.grpc_code, said.exit_code) == (500, Status.INTERNAL.value, 1)
    assert "secret" not in said.problem().decode() + said.grpc_message() + said.line()
    assert said.error_id in said.hint
    assert caplog.records[0].fields == {"error_id": said.error_id}  # type: ignore[attr-defined]
    assert caplog.records[0].exc_info is not None
    assert answer(RuntimeError()).error_id != said.error_id


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": 5, "hint": []}', b"\xff", b"[" * 100_000])
def test_answers_of_strangers(body: bytes) -> None:
    assert "HTTP status 502" in from_http(502, body).message
    assert isinstance(from_http(502, body), Unavailable) and isinstance(from_http(422, body), Invalid)


def test_other_grpc_codes() -> None:
    assert isinstance(from_grpc(16, "who?"), Denied) and isinstance(from_grpc(4, ""), Unavailable)
    assert "status 99" in from_grpc(99, "").message and len(from_grpc(3, "x" * 10**6).message) <= 4000
