"""Every error has its code, and messages survive the way to the client."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.grpc import status
from agent.grpc.status import Code, Refused
from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable


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
    assert status.of(error, "/a/b", lambda: "cafe") == (Code.INTERNAL, "internal error cafe")
    assert "cafe" in caplog.text


@given(st.text())
def test_messages_are_percent_encoded(message: str) -> None:
    encoded = status.percent_encode(message)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert encoded == encoded.strip()
    expected = message.encode("utf-8", "replace")[: status.MESSAGE_LIMIT].decode("utf-8", "ignore")
    assert unquote_to_bytes(encoded) == expected.encode()
