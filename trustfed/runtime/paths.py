"""An HTTP application of plain functions, one for each path: FastAPI's manner for doors that need none of its schemas.

FastAPI takes 0.4 s of a core to load, before a single path is known: too much for every cluster, whose handlers read
their bodies themselves. What is kept of it is how a handler is written:

    @app.get("/things/{name}")
    async def thing(name: str, request: Request, limit: int = 100) -> Response: ...

A parameter that the path names comes from the path, one with a default from the query; `request` is the request. They are
`str`, `int` or `bool`. A handler answers with a Response, or with what becomes JSON.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trustfed.errors import Invalid

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[object]])

_NAME = re.compile(r"\{(\w+)\}")
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)  # within 64 bits, which a store can hold
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_HINT = "the reference documents every path"


class Paths(Starlette):
    """An application whose paths are added one by one; errors are mapped by trustfed.runtime.problems.

    A path is as it is written: one with a "/" too many leads nowhere, least of all to the host that a request names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.router.redirect_slashes = False

    def get(self, path: str) -> Callable[[Handler], Handler]:
        """Let the function below answer GET at this path."""
        return self._answering("GET", path)

    def post(self, path: str) -> Callable[[Handler], Handler]:
        """POST."""
        return self._answering("POST", path)

    def put(self, path: str) -> Callable[[Handler], Handler]:
        """PUT."""
        return self._answering("PUT", path)

    def delete(self, path: str) -> Callable[[Handler], Handler]:
        """DELETE."""
        return self._answering("DELETE", path)

    def _answering(self, method: str, path: str) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            wanted = _wanted(handler, frozenset(_NAME.findall(path)))

            async def endpoint(request: Request) -> Response:
                given = {name: reading(request) for name, reading in wanted.items()}
                answer = await handler(**given)
                return answer if isinstance(answer, Response) else JSONResponse(answer)

            route = Route(path, endpoint, methods=[method])
            route.methods = {method}  # GET alone: no handler of ours was written for HEAD
            self.router.routes.append(route)
            return handler

        return add


_Reading = Callable[[Request], object]


def _wanted(handler: Callable[..., object], in_path: frozenset[str]) -> Mapping[str, _Reading]:
    """How each parameter of a handler is had from a request. Raises TypeError for one that cannot be."""
    found: dict[str, _Reading] = {}
    for name, parameter in inspect.signature(handler).parameters.items():
        kind = parameter.annotation if isinstance(parameter.annotation, str) else parameter.annotation.__name__
        if kind == "Request":
            found[name] = _itself
        elif kind not in _READ or (name not in in_path and parameter.default is parameter.empty):
            raise TypeError(f"parameter {name} of {handler.__qualname__} is neither in the path nor has it a default")
        else:
            found[name] = _member(name, _READ[kind], name in in_path, parameter.default)
    if missing := in_path - found.keys():
        raise TypeError(f"{handler.__qualname__} does not take {', '.join(sorted(missing))}, which its path names")
    return found


def _itself(request: Request) -> Request:
    return request


def _member(name: str, read: Callable[[str, str], object], in_path: bool, default: object) -> _Reading:
    def reading(request: Request) -> object:
        values: Mapping[str, Any] = request.path_params if in_path else request.query_params
        return read(name, values[name]) if name in values else default

    return reading


def _text(_: str, value: str) -> str:
    return value


def _number(name: str, value: str) -> int:
    if not _WHOLE.fullmatch(value):
        raise Invalid(f"{name} is not a whole number", hint=_HINT)
    return int(value)


def _switch(name: str, value: str) -> bool:
    if (found := _SWITCH.get(value.lower())) is None:
        raise Invalid(f"{name} is neither true nor false", hint=_HINT)
    return found


_READ: Mapping[str, Callable[[str, str], object]] = {"str": _text, "int": _number, "bool": _switch}
