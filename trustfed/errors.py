"""The five ways a request can fail, mapped once to HTTP, gRPC and exit codes (trustfed.runtime.errors)."""

from __future__ import annotations


class TrustfedError(Exception):
    """A refusal with a reason a person can act on: what happened, which input, and what to do (`hint`)."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Invalid(TrustfedError):
    """The input is malformed or breaks a rule; sending it again will not help."""


class Denied(TrustfedError):
    """The caller is not who it must be, or may not do this."""


class NotFound(TrustfedError):
    """What the request names does not exist."""


class Conflict(TrustfedError):
    """The state is not what the request assumes: it was changed, used up or exists already."""


class Unavailable(TrustfedError):
    """It cannot be done now; the same request may succeed later."""
