"""What every service at the clusters' door does alike: who calls, the first message, the end of an SVID, errors on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.hub.peers import Peers, Unauthenticated
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.errors import answer
from trustfed.runtime.version import PROTOCOL
from trustfed.spiffe.x509svid import X509Svid

_CODES = {code.value[0]: code for code in grpc.StatusCode}
HELLO_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
LAST_WRITE_SECONDS = 2.0
SILENCE_SECONDS = 60.0
"""A cluster that says nothing for so long, not even a heartbeat, is taken for gone."""


class Calls:
    """The calls of clusters: `peers` says who they are."""

    def __init__(self, peers: Peers, clock: Clock, log: logs.Log | None = None) -> None:
        self._peers, self._clock, self._log = peers, clock, log or logs.get("hub.rpc")

    def authenticate(self, context: Any) -> X509Svid:
        """The caller's SVID. Raises Unauthenticated or Denied."""
        presented = context.auth_context().get("x509_pem_cert", [])
        return self._peers.verify(presented[0] if presented else None, self._clock.now())

    async def expire(self, svid: X509Svid) -> None:
        """Raise Unauthenticated when the SVID of a stream ends."""
        await self._clock.sleep((svid.not_after - self._clock.now()).total_seconds())
        raise Unauthenticated("the SVID of this stream has expired", hint="connect again with the new one")

    async def abort(self, context: Any, error: BaseException) -> None:
        """End the call with this error: ours with its message, all others as an opaque id."""
        told = answer(error)
        code = grpc.StatusCode.UNAUTHENTICATED if isinstance(error, Unauthenticated) else _CODES[told.grpc_code]
        if isinstance(error, TrustfedError):
            log = self._log.warning if isinstance(error, Denied | Invalid) else self._log.info
            log("call refused", peer=context.peer(), error=error.message)
        await context.abort(code, told.grpc_message())


async def read_hello(context: Any) -> Any:
    """The hello that a stream begins with, of our protocol. Invalid for anything else, or nothing within ten seconds."""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first = await context.read()
    except TimeoutError:
        raise Invalid(f"no hello within {HELLO_SECONDS:.0f} seconds") from None
    if first is grpc.aio.EOF or first.WhichOneof("message") != "hello":
        raise Invalid("the first message of a stream must be a hello")
    hello = first.hello
    if not hello.protocol_min <= PROTOCOL <= hello.protocol_max:
        raise Invalid(
            f"the cluster speaks protocol {hello.protocol_min} to {hello.protocol_max}, the hub {PROTOCOL}",
            hint="upgrade the older side",
        )
    return hello
