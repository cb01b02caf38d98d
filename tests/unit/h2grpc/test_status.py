"""Every error has its code, and messages survive the way to the client."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.h2grpc import status
from trustfed.h2grpc.status import Code, Refused
from trustfed.runtime.errors import from_grpc


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("x"), Code.INVALID_ARGUMENT),
        (Denied("x"), Code.PERMISSION_DENIED),
        (NotFound("x"), Code.NOT_FOUND),
        (Conflict("x"), Code.FAILED_PRECONDITION),
        (Unavailable("x"), Code.UNAVAILABLE),
        (Refused(Code.RESOURCE_EXHAUSTED, "x"), Code.RESOURCE_EXHAUSTED),
    ],
)
def test_known_errors(error: Exception, code: Code) -> None:
    assert status.of(error, "/a/b") == (code, "x")


@pytest.mark.parametrize("error", [KeyError("secret"), TrustfedError("secret")])
def test_unknown_errors_are_opaque(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    code, message = status.of(error, "/a/b")
    assert code is Code.INTERNAL and "secret" not in message
    fields = caplog.records[0].fields  # type: ignore[attr-defined]
    assert fields["path"] == "/a/b" and fields["error_id"] in message


def test_a_hint_reaches_the_client() -> None:
    code, message = status.of(Denied("no entry fits this process", hint="trustfed entry create"), "/a/b")
    told = from_grpc(code, unquote_to_bytes(status.percent_encode(message)).decode())
    assert (type(told), told.message, told.hint) == (Denied, "no entry fits this process", "trustfed entry create")


@given(st.text())
def test_messages_are_percent_encoded(message: str) -> None:
    encoded = status.percent_encode(message)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert encoded == encoded.strip()
    expected = message.encode("utf-8", "replace")[: status.MESSAGE_LIMIT].decode("utf-8", "ignore")
    assert unquote_to_bytes(encoded) == expected.encode()
