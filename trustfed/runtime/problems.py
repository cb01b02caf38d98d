"""Every error at an HTTP door in the one form of the house: problem details (RFC 9457) with a `hint`."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.runtime import logs
from trustfed.runtime.errors import PROBLEM_CONTENT_TYPE, Answer, answer
from trustfed.runtime.paths import Paths
from trustfed.spiffe.ids import shown

_log = logs.get("http")


def map_errors(app: Starlette) -> None:
    """Give every error the one form of the house."""
    app.add_exception_handler(TrustfedError, _problem)
    app.add_exception_handler(Exception, _problem)
    app.add_exception_handler(HTTPException, _http)
    if not isinstance(app, Paths):
        from fastapi.exceptions import RequestValidationError  # noqa: PLC0415  half a second, where no FastAPI is

        app.add_exception_handler(RequestValidationError, _unfit)


async def _problem(request: Request, error: Exception) -> Response:
    if isinstance(error, Denied):
        peer = request.client.host if request.client else ""
        _log.warning("request refused", path=request.url.path, peer=peer, error=error.message)
    return _respond(answer(error))


async def _unfit(_: Request, error: Any) -> Response:
    # The first fault only, and never the input itself: it may be a token.
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"][1:]) or "the body"
    return _respond(answer(Invalid(f"{shown(where)}: {fault['msg']}", hint="the reference documents every path")))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = Answer(error.status_code, 0, 0, error.detail.lower(), error.detail)
    return _respond(told, dict(error.headers or {}))


def _respond(told: Answer, headers: dict[str, str] | None = None) -> Response:
    return Response(told.problem(), told.http_status, headers={**(headers or {}), "Content-Type": PROBLEM_CONTENT_TYPE})
