"""What the reader's process is asked and answers: one JSON object each way, bounded, over its standard streams.

An order names where the store is and what is wanted of it; no secret is in it. An answer holds what was verified, or one error.
With `sign`, the answer also holds a signed request by which a cluster can ask STS who this machine is: it is a credential
for five minutes, bound to one key and one cluster, and goes nowhere but over these streams.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.reading.location import AwsSettings, Location
from trustfed.runtime.bounded_http import Limits
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.spiffe import strict_json

MAX_ORDER = 4 * 1024 * 1024
MAX_ROOT = 512_000
MAX_DOMAINS = 10_000
MAX_MANIFESTS = 16 * 1024 * 1024
_ERRORS: dict[str, type[TrustfedError]] = {
    kind.__name__: kind for kind in (Conflict, Denied, Invalid, NotFound, Unavailable)
}


@dataclass(frozen=True)
class Wanted:
    """A domain to be read. `publication_key` (SPKI) pins who must have signed it; "" relies on TUF's delegation alone.

    `held` is the SHA-256 (hex) of the envelope that the asker has: the same one is not sent again. With `mesh` the
    manifests of its istiods are read as well.
    """

    trust_domain: str
    publication_key: bytes = b""
    held: str = ""
    mesh: bool = False


@dataclass(frozen=True)
class SignIdentity:
    """Sign who we are in AWS, for this cluster and this node key (SPKI)."""

    server_id: str
    public_key: bytes


@dataclass(frozen=True)
class Order:
    """One visit to a store. `root` are the bytes of the pinned root metadata; no `domains` means every one there is.

    `max_bytes` bounds all that is downloaded, `accept_stale` says how long ago the timestamp may have expired.
    """

    location: Location
    root: bytes
    state: Path
    now: datetime
    domains: tuple[Wanted, ...] = ()
    accept_stale: timedelta = timedelta(0)
    limits: Limits = field(default_factory=Limits)
    max_bytes: int = 64 * 1024 * 1024
    sign: SignIdentity | None = None


@dataclass(frozen=True)
class Found:
    """One domain as the store has it, verified. `envelope` is empty when it is the one that is held.

    `signed_at` is when the domain itself last said that this is its newest; `cluster` its cluster document; `mesh` its
    manifests, if they were asked for.
    """

    trust_domain: str
    publication_key: bytes
    envelope: bytes
    cluster: bytes
    role_version: int
    signed_at: datetime
    mesh: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What one visit gave. `stale` is how long ago the timestamp had expired: zero unless that was accepted."""

    root_version: int
    timestamp_expires: datetime
    stale: timedelta
    found: tuple[Found, ...]
    refused: Mapping[str, TrustfedError] = field(default_factory=dict)
    identity: str = field(default="", repr=False)

    def one(self, trust_domain: str) -> Found:
        """The domain that was asked for. Raises what refused it."""
        error = self.refused.get(trust_domain)
        if error is not None:
            raise error
        return next(found for found in self.found if found.trust_domain == trust_domain)


def write_order(order: Order) -> bytes:
    """The order as JSON."""
    return strict_json.write(
        {
            "location": dataclasses.asdict(order.location),
            "root": _text(order.root),
            "state": str(order.state),
            "now_ms": to_ms(order.now),
            "domains": [[one.trust_domain, _text(one.publication_key), one.held, one.mesh] for one in order.domains],
            "accept_stale_ms": order.accept_stale // timedelta(milliseconds=1),
            "limits": dataclasses.asdict(order.limits),
            "max_bytes": order.max_bytes,
            "sign": [order.sign.server_id, _text(order.sign.public_key)] if order.sign else None,
        }
    )


def read_order(data: bytes) -> Order:
    """The order in `data`. Raises Invalid."""
    try:
        said: dict[str, Any] = strict_json.parse_object(data, what="the order", limit=MAX_ORDER)
        location = dict(said["location"])
        aws = AwsSettings(**location.pop("aws"))
        return Order(
            Location(**location, aws=aws),
            _binary(said["root"]),
            Path(said["state"]),
            from_ms(said["now_ms"]),
            tuple(
                Wanted(name, _binary(key), held, mesh) for name, key, held, mesh in said["domains"][: MAX_DOMAINS + 1]
            ),
            timedelta(milliseconds=said["accept_stale_ms"]),
            Limits(**said["limits"]),
            int(said["max_bytes"]),
            SignIdentity(said["sign"][0], _binary(said["sign"][1])) if said["sign"] else None,
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        raise Invalid("the order to the reader is malformed") from None


def write_answer(answer: Answer) -> bytes:
    """The answer as JSON."""
    return strict_json.write(
        {
            "root_version": answer.root_version,
            "timestamp_expires_ms": to_ms(answer.timestamp_expires),
            "stale_ms": answer.stale // timedelta(milliseconds=1),
            "found": [
                {
                    "trust_domain": one.trust_domain,
                    "publication_key": _text(one.publication_key),
                    "envelope": _text(one.envelope),
                    "cluster": _text(one.cluster),
                    "role_version": one.role_version,
                    "signed_at_ms": to_ms(one.signed_at),
                    "mesh": _text(one.mesh),
                }
                for one in answer.found
            ],
            "refused": {name: _error(error) for name, error in answer.refused.items()},
            "identity": answer.identity,
        }
    )


def write_error(error: TrustfedError) -> bytes:
    """An error in the place of an answer."""
    return strict_json.write({"error": _error(error)})


def read_answer(data: bytes, limit: int) -> Answer:
    """The answer in `data`. Raises the error that it is, Unavailable when it is no answer."""
    try:
        said: dict[str, Any] = strict_json.parse_object(data, what="the reader's answer", limit=limit)
        if "error" in said:
            raise _raised(said["error"])
        return Answer(
            said["root_version"],
            from_ms(said["timestamp_expires_ms"]),
            timedelta(milliseconds=said["stale_ms"]),
            tuple(
                Found(
                    one["trust_domain"],
                    _binary(one["publication_key"]),
                    _binary(one["envelope"]),
                    _binary(one["cluster"]),
                    one["role_version"],
                    from_ms(one["signed_at_ms"]),
                    _binary(one["mesh"]),
                )
                for one in said["found"]
            ),
            {name: _raised(error) for name, error in said["refused"].items()},
            said["identity"],
        )
    except (KeyError, TypeError, ValueError):
        raise Unavailable("the reader gave no answer", hint="is trustfed[edge] installed?") from None


def _error(error: TrustfedError) -> dict[str, str]:
    kind = next((name for name, known in _ERRORS.items() if isinstance(error, known)), "Unavailable")
    return {"kind": kind, "message": error.message[:4000], "hint": error.hint[:1000]}


def _raised(said: Mapping[str, str]) -> TrustfedError:
    return _ERRORS.get(said["kind"], Unavailable)(said["message"], hint=said["hint"])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
