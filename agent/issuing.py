"""One batch of X509-SVIDs: new keys, one call, and what of the cluster's answer holds. No CSR: the ID comes from the entry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity import private_bytes, public_bytes
from agent.matching import Entry
from agent.rotation import TRY_SECONDS
from agent.store import Svid
from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.clock import Clock
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.x509svid import read_leaf

NORMAL = "x509"
RESERVE = "reserve"
_SLICE = 20
"""Keys made, or SVIDs read, between two looks at the event loop: about a millisecond."""


class Cluster(Protocol):
    """Where SVIDs are asked for: agent.link.Link."""

    @property
    def connected(self) -> bool:
        """Whether it can be asked now."""
        ...

    async def call(
        self, method: str, request: pb.IssueX509Request, answer: type[pb.IssueX509Response]
    ) -> pb.IssueX509Response:
        """One call, bounded. Raises what the cluster says, Unavailable."""
        ...


async def issue(
    cluster: Cluster,
    ids: Sequence[str],
    entries: Mapping[str, Entry],
    held: Mapping[str, Svid],
    slot: str,
    clock: Clock,
) -> dict[str, Svid | TrustfedError]:
    """What the cluster issued for each of these entries, or why not; what was removed meanwhile is left out.

    `held` are the SVIDs that are replaced, `slot` is NORMAL or RESERVE. Raises what the whole batch failed of.
    """
    if not cluster.connected:
        raise Unavailable("the cluster is not connected", hint="trustfed agent status")
    try:
        async with asyncio.timeout(TRY_SECONDS):
            keys = await _keys(len(ids))
            request = pb.IssueX509Request(command_id=uuid4().hex)
            for id_, key in zip(ids, keys, strict=True):
                before = held.get(id_)
                serial = before.serial if before else ""
                request.slots.add(entry_id=id_, slot=slot, public_key=public_bytes(key), predecessor_serial=serial)
            answer = await cluster.call("IssueX509", request, pb.IssueX509Response)
            if len(answer.results) != len(ids):
                raise Invalid(f"the cluster answered {len(answer.results)} of {len(ids)} slots")
            return await _read(ids, keys, answer, entries, clock)
    except TimeoutError:
        raise Unavailable("the cluster did not issue in time") from None


async def _keys(count: int) -> list[ec.EllipticCurvePrivateKey]:
    keys = []
    for index in range(count):
        if index % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        keys.append(ec.generate_private_key(ec.SECP256R1()))
    return keys


async def _read(
    ids: Sequence[str],
    keys: Sequence[ec.EllipticCurvePrivateKey],
    answer: pb.IssueX509Response,
    entries: Mapping[str, Entry],
    clock: Clock,
) -> dict[str, Svid | TrustfedError]:
    found: dict[str, Svid | TrustfedError] = {}
    for index, (id_, key, result) in enumerate(zip(ids, keys, answer.results, strict=True)):
        if index % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        entry = entries.get(id_)
        if entry is None:
            continue
        try:
            if result.error or result.entry_id != id_:
                raise Invalid(result.error[:200] or "the cluster's answer is for another entry")
            found[id_] = _svid(entry, key, result, clock)
        except TrustfedError as error:
            found[id_] = error
    return found


def _svid(entry: Entry, key: ec.EllipticCurvePrivateKey, result: pb.X509Result, clock: Clock) -> Svid:
    """What the cluster issued, if it is this entry's, for this key, and alive. Raises Invalid."""
    chain, now = tuple(result.chain), clock.now()
    if not 1 <= len(chain) <= 5:
        raise Invalid(f"the cluster sent a chain of {len(chain)} certificates")
    leaf, svid = read_leaf(chain[0])
    if svid.id != entry.spiffe_id:
        raise Invalid(f"the cluster sent an SVID of {svid.id} for entry {entry.id}")
    if leaf.public_key != key.public_key():
        raise Invalid("the cluster sent an SVID of another key")
    if svid.not_after <= now:
        raise Invalid("the cluster sent an SVID that has expired", hint="check both clocks")
    return Svid(chain, private_bytes(key), serial_text(svid.serial), result.authority_id[:64], now, svid.not_after)
