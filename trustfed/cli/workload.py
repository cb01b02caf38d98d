"""A client of the SPIFFE Workload API (SPIFFE_Workload_API.md) over its Unix socket, as `trustfed svid` needs one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, StreamTerminatedError

from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime.errors import from_grpc

SERVICE = "/SpiffeWorkloadAPI/"
VARIABLE = "SPIFFE_ENDPOINT_SOCKET"
# The standard wants this header on every call (§4.2), so that no web page can be made to ask.
HEADERS = {"workload.spiffe.io": "true"}
TIMEOUT = 10.0
Answer = TypeVar("Answer")


def endpoint(socket: str | None) -> Path:
    """The socket's path: as given, or as SPIFFE_ENDPOINT_SOCKET says; "unix:" before it is fine. Raises Invalid."""
    text = socket or os.environ.get(VARIABLE, "")
    if not text:
        raise Invalid("no Workload API socket is named", hint=f"--socket PATH, or {VARIABLE}=unix:PATH")
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = path.removeprefix("//")
    if ":" in path.partition("/")[0]:
        raise Invalid(f"{text[:200]} is not a Unix socket", hint="a path, or unix:/path")
    return Path(path)


class WorkloadApi:
    """One connection."""

    def __init__(self, channel: Channel, path: Path) -> None:
        self._channel, self._path = channel, path

    async def x509_svid(self) -> pb.X509SVIDResponse:
        """What this process is given now."""
        async for answer in self.x509_svids():
            return answer
        raise Unavailable(f"{self._path} ended the stream without an answer")

    async def x509_svids(self, timeout: float | None = TIMEOUT) -> AsyncIterator[pb.X509SVIDResponse]:
        """What it is given, now and after each change; the deadline (seconds, None for none) is the whole stream's."""
        method: UnaryStreamMethod[Any, Any] = UnaryStreamMethod(
            self._channel, SERVICE + "FetchX509SVID", pb.X509SVIDRequest, pb.X509SVIDResponse
        )
        async with self._our_errors(), method.open(timeout=timeout, metadata=HEADERS) as stream:
            await stream.send_message(pb.X509SVIDRequest(), end=True)
            async for answer in stream:
                yield answer

    async def jwt_svids(self, audience: list[str], spiffe_id: str) -> pb.JWTSVIDResponse:
        """Tokens for these audiences."""
        request = pb.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id)
        return await self._unary("FetchJWTSVID", request, pb.JWTSVIDResponse)

    async def validate(self, token: str, audience: str) -> pb.ValidateJWTSVIDResponse:
        """What a token proves to `audience`, in the agent's judgement."""
        request = pb.ValidateJWTSVIDRequest(audience=audience, svid=token)
        return await self._unary("ValidateJWTSVID", request, pb.ValidateJWTSVIDResponse)

    async def _unary(self, name: str, request: Any, answer: type[Answer]) -> Answer:
        method: UnaryUnaryMethod[Any, Answer] = UnaryUnaryMethod(self._channel, SERVICE + name, type(request), answer)
        async with self._our_errors():
            return await method(request, timeout=TIMEOUT, metadata=HEADERS)

    @asynccontextmanager
    async def _our_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except GRPCError as error:
            ours = from_grpc(error.status.value, error.message or "")
            if isinstance(ours, Denied) and not ours.hint:
                ours.hint = "is there an entry whose selectors this process matches? trustfed entry list"
            raise ours from None
        except TimeoutError:
            raise Unavailable(f"the Workload API at {self._path} did not answer within {TIMEOUT:.0f} s") from None
        except (OSError, StreamTerminatedError) as error:
            raise Unavailable(
                f"the Workload API at {self._path} cannot be reached: {_reason(error)}",
                hint="does trustfed agent serve run on this node?",
            ) from None


@asynccontextmanager
async def workload_api(socket: str | None) -> AsyncIterator[WorkloadApi]:
    """A connection to the Workload API, closed with the block."""
    path = endpoint(socket)
    channel = Channel(path=str(path))
    try:
        yield WorkloadApi(channel, path)
    finally:
        channel.close()


def _reason(error: Exception) -> str:
    return ((error.strerror or "") if isinstance(error, OSError) else "").lower() or str(error) or type(error).__name__
