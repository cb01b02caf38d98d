"""The five methods of the SPIFFE Workload API (SPIFFE_Workload_API.md §6): who may call, and which status says no.

Each call: 1 the security header · 2 the caller lives · 3 it has an identity · 4 the answer, prepared where it can be.
InvalidArgument for a request that can never work, PermissionDenied without an identity, Unavailable while it is on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from google.protobuf.message import DecodeError

from agent.answers import JWT_BUNDLES, X509_BUNDLES, X509_SVIDS
from agent.identification import Identification
from agent.jwt import Audience, JwtSvids, Token, audience_of
from agent.peer import Caller
from agent.store import Store
from agent.streams import PATIENCE_SECONDS, Streams, no_identity, not_yet
from agent.trusted_time import TrustedTime
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.h2grpc.service import Call, Feed, Routes, Unary, Watch
from trustfed.proto import workload_pb2 as pb
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import BundleMap
from trustfed.spiffe.ids import SpiffeId

SERVICE = "/SpiffeWorkloadAPI/"
_HEADER = ["true"]

M = TypeVar("M", pb.JWTSVIDRequest, pb.ValidateJWTSVIDRequest)

_MAX_PREPARED = 1000
_MAX_PREPARED_REQUEST = 4096
_CLOCKS_DIFFER = timedelta(minutes=1)


class WorkloadApi:
    """`routes()` for trustfed.h2grpc; its `accept` must give Callers."""

    def __init__(
        self, store: Store, identification: Identification, streams: Streams, jwt: JwtSvids, clock: TrustedTime
    ) -> None:
        self._store, self._identification, self._streams = store, identification, streams
        self._jwt, self._clock = jwt, clock
        # (entries, request bytes) → (answer, versions of cache and entries, when one of its tokens should be renewed)
        self._prepared: dict[tuple[tuple[str, ...], bytes], tuple[bytes, tuple[int, int], datetime]] = {}

    def routes(self) -> Routes:
        """The route table."""
        return {
            SERVICE + "FetchX509SVID": Watch(partial(self._watch, X509_SVIDS)),
            SERVICE + "FetchX509Bundles": Watch(partial(self._watch, X509_BUNDLES)),
            SERVICE + "FetchJWTBundles": Watch(partial(self._watch, JWT_BUNDLES)),
            SERVICE + "FetchJWTSVID": Unary(self._fetch_jwt_svid),
            SERVICE + "ValidateJWTSVID": Unary(self._validate_jwt_svid),
        }

    def _watch(self, kind: str, call: Call, _request: bytes, feed: Feed) -> Callable[[], None]:
        return self._streams.open(_caller(call), kind, feed)  # 1; the streams do 2 to 4, now and at every change

    def _fetch_jwt_svid(self, call: Call, request: bytes) -> bytes | Awaitable[bytes]:
        caller = _caller(call)  # 1
        if self._store.serving():
            ids = self._identification.now(caller)
            if ids:
                prepared = self._prepared.get((ids, request))
                if prepared is not None:
                    message, version, until = prepared
                    if version == self._version() and self._clock.now() < until and caller.alive():
                        return message
        return self._fetch_slowly(caller, request)

    async def _fetch_slowly(self, caller: Caller, request: bytes) -> bytes:
        asked = _parse(pb.JWTSVIDRequest, request)
        audience = audience_of(asked.audience)
        wanted = SpiffeId.parse(asked.spiffe_id) if asked.spiffe_id else None
        ids = await self._identify(caller)
        entries = self._store.entries
        chosen = ids if wanted is None else tuple(id_ for id_ in ids if entries[id_].spiffe_id == wanted)
        if not chosen:
            raise Denied(f"{wanted} is not an identity of this process")
        tokens = await self._tokens(chosen, audience)
        # 2 and 3 again: tokens may have been waited for.
        if not caller.alive():
            raise Denied("the calling process has ended")
        self._store.serving()
        held = [(id_, token) for id_, token in zip(chosen, tokens, strict=True) if id_ in entries]
        if not held or self._identification.now(caller) not in (None, ids):
            raise not_yet()
        message = pb.JWTSVIDResponse()
        for id_, token in held:
            message.svids.add(spiffe_id=str(token.spiffe_id), svid=token.text, hint=entries[id_].hint)
        answer = message.SerializeToString()
        if len(request) <= _MAX_PREPARED_REQUEST:
            if len(self._prepared) >= _MAX_PREPARED:
                self._prepared.clear()
            until = min(min(token.renew_at, token.expires_at) for token in tokens)
            self._prepared[ids, request] = (answer, self._version(), until)
        return answer

    def _version(self) -> tuple[int, int]:
        return self._jwt.version, self._store.generation

    async def _tokens(self, ids: tuple[str, ...], audience: Audience) -> list[Token]:
        return self._jwt.cached(ids, audience, self._clock.now()) or await self._jwt.fetch(ids, audience)

    def _validate_jwt_svid(self, call: Call, request: bytes) -> bytes | Awaitable[bytes]:
        caller = _caller(call)  # 1
        return self._validate(caller, request)

    async def _validate(self, caller: Caller, request: bytes) -> bytes:
        asked = _parse(pb.ValidateJWTSVIDRequest, request)
        if not asked.audience or not asked.svid:
            raise Invalid("audience and svid are both needed")
        ids = await self._identify(caller)
        now, wall = self._clock.now(), self._clock.wall()
        bundles = BundleMap(self._store.answers(ids, now).bundles())
        try:
            svid = jwtsvid.verify(asked.svid, bundles, asked.audience, now)
            if now - wall > _CLOCKS_DIFFER:  # whether it has begun is for the wall clock to say
                slack = _CLOCKS_DIFFER.total_seconds()
                jwtsvid.verify(asked.svid, bundles, asked.audience, wall, leeway=slack)
        except TrustfedError as error:
            # Whatever is wrong with the token, it is the request that is (SPIFFE_Workload_API.md §6.2.3).
            raise Invalid(error.message, hint=error.hint) from None
        message = pb.ValidateJWTSVIDResponse(spiffe_id=str(svid.id))
        message.claims.update(svid.claims)
        if not caller.alive():  # 2
            raise Denied("the calling process has ended")
        return message.SerializeToString()

    async def _identify(self, caller: Caller) -> tuple[str, ...]:
        """2 and 3. What is on its way is waited for, a few seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_SECONDS
        while not self._store.serving():
            if loop.time() >= end:
                raise not_yet()
            await asyncio.sleep(0.05)
        ids = await self._identification.wait(caller)
        if not caller.alive():
            raise Denied("the calling process has ended")
        if not ids:
            raise no_identity()
        return ids


def _caller(call: Call) -> Caller:
    """Who calls, if the call bears the header that no browser or proxy adds by mistake (§5, SSRF)."""
    if call.metadata.get("workload.spiffe.io") != _HEADER:
        raise Invalid("the header workload.spiffe.io: true is missing", hint="use a SPIFFE library")
    assert isinstance(call.peer, Caller)
    return call.peer


def _parse(kind: type[M], request: bytes) -> M:
    try:
        return kind.FromString(request)
    except DecodeError:
        raise Invalid("the request is not the message of this method") from None
