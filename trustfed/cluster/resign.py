"""The hub's side door for a cluster that has no certificate left to open its stream with.

After a long absence every intermediate may have ended, and the stream wants one. The publication key, which the hub has
known since the enrolment, signs a fresh nonce instead; the hub is verified by the root set and its exact ID first.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from datetime import datetime

from ca.keys.port import KeyStore
from trustfed.cluster.state import ClusterState
from trustfed.errors import Invalid, Unavailable
from trustfed.federation import enrolment, roots
from trustfed.journal.fold import Fold
from trustfed.runtime import https_client
from trustfed.runtime.clock import Clock
from trustfed.runtime.https_client import Server, exactly
from trustfed.runtime.sockets import parse_url
from trustfed.runtime.tls import client_context
from trustfed.spiffe.ids import SpiffeId


class HubCertifier:
    """Has the root sign: over the stream while there is one, by the side door otherwise."""

    def __init__(
        self,
        connected: Callable[[], bool],
        over_stream: Callable[[str, bytes], Awaitable[bytes]],
        fold: Fold[ClusterState],
        keys: KeyStore,
        clock: Clock,
    ) -> None:
        self._connected, self._over_stream = connected, over_stream
        self._fold, self._keys, self._clock = fold, keys, clock

    async def certify(self, authority: str, csr: bytes) -> bytes:
        """The intermediate (DER) of `authority`. Raises Unavailable while the hub is away."""
        if self._connected():
            return await self._over_stream(authority, csr)
        return await resign(self._fold.state, self._keys, authority, csr, self._clock.now())


async def push_envelope(state: ClusterState) -> None:
    """Give the hub this domain's newest envelope by its open door, so that it can verify what the envelope's keys signed.

    Needed when the authority changed while the stream was down: the hub knows the stream's certificate only by the newest
    envelope it holds. Raises Denied when the hub holds a later one, Unavailable when it is away.
    """
    server = _hub(state)
    await asyncio.to_thread(https_client.post_bytes, server, f"/v1/envelopes/{state.trust_domain}", state.envelope)


async def resign(state: ClusterState, keys: KeyStore, authority: str, csr: bytes, now: datetime) -> bytes:
    """The intermediate (DER) of `authority`, asked for with the publication key. Raises Denied, Invalid, Unavailable."""
    server = _hub(state)
    nonce = _nonce(await asyncio.to_thread(https_client.get, server, "/v1/nonce"))
    document = {
        "trust_domain": state.trust_domain,
        "authority_id": authority,
        "csr": enrolment.text(csr),
        "nonce": nonce,
    }
    assert state.domain is not None
    (proof,) = await keys.sign(state.domain.publication_key_name, [enrolment.proof_input(enrolment.RESIGN, document)])
    answer = await asyncio.to_thread(
        https_client.post, server, "/v1/resign", {**document, "proof": enrolment.text(proof)}
    )
    try:
        return base64.b64decode(str(answer["intermediate"]), validate=True)
    except (KeyError, ValueError):
        raise Invalid("the hub's answer to the renewal is malformed") from None


def _hub(state: ClusterState) -> Server:
    """The hub's HTTPS door, verified by the root set and the hub's exact ID."""
    if state.hub is None:
        raise Unavailable("this cluster is not enrolled", hint="trustfed cluster init")
    root_set = roots.reopen(state.root_documents[-1])
    host, port = parse_url(state.hub.https)
    return Server(host, port, client_context(None, root_set.roots), exactly(SpiffeId.parse(state.hub.id)))


def _nonce(body: bytes) -> str:
    try:
        return str(json.loads(body)["nonce"])
    except (ValueError, KeyError, TypeError):
        raise Invalid("the hub's nonce is malformed") from None
