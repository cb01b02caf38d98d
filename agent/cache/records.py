"""What is kept, as named records: one per entry, SVID, token and bundle, four for the rest. Pure; JSON inside.

    entry/ID  svid/ID  reserve/ID  token/ID/HASH  bundle/DOMAIN  standing  progress  confirmed  used

A record is written anew only when its part differs from the one written last. Times are whole microseconds since 1970, so
that what is read is what was kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.cache.port import Kept, KeptToken
from agent.cache.refusal import Refused
from agent.jwt import Token
from agent.matching import Entry
from agent.store import HeldBundle, Svid
from trustfed.errors import TrustfedError
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.spiffe.ids import SpiffeId, TrustDomain

Parts = dict[str, object]
"""The parts of a Kept by the names of their records."""
_SOFT = frozenset({"progress", "confirmed", "used", "token"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def parts_of(kept: Kept) -> Parts:
    """Every part by its record's name; nothing is copied."""
    parts: Parts = {f"entry/{entry.id}": entry for entry in kept.entries}
    parts.update((f"svid/{id_}", svid) for id_, svid in kept.svids.items())
    parts.update((f"reserve/{id_}", svid) for id_, svid in kept.reserves.items())
    parts.update((_token_name(token), token) for token in kept.tokens)
    parts.update((f"bundle/{held.bundle.trust_domain}", held) for held in kept.bundles)
    parts["standing"] = (kept.banned, kept.retired, kept.stale_limits)
    parts["progress"] = (kept.position, kept.instance, kept.floor, kept.authenticated)
    parts["confirmed"] = kept.confirmed
    parts["used"] = kept.used
    return parts


def soft(name: str) -> bool:
    """Whether a record may be older on the disk by some seconds: nobody is denied anything by it.

    A token is given by it, and can be had again; a workload makes a record with each new audience, and must not make a
    write with each. What takes tokens away (an entry that goes, an authority) is in a record that does not wait.
    """
    return name.partition("/")[0] in _SOFT


def encode(name: str, part: Any) -> bytes:
    """The record of one part. It holds private keys: seal it, never log it."""
    return json.dumps(_ENCODERS[name.partition("/")[0]](part), separators=(",", ":")).encode()


def kept_of(records: Iterable[tuple[str, bytes]]) -> Kept:
    """What `parts_of` and `encode` were given. Raises Refused for a record that they did not make."""
    found: dict[str, list[Any]] = {kind: [] for kind in _ENCODERS}
    for name, data in records:
        kind, _, rest = name.partition("/")
        try:
            found[kind].append(_DECODERS[kind](rest, json.loads(data)))
        except (KeyError, ValueError, TypeError, IndexError, OverflowError, TrustfedError) as error:
            # The content is authentic, so another version of us wrote it. Its words could be a secret: only the kind.
            raise Refused("unknown_version", f"the record {name} cannot be read: {type(error).__name__}") from None
    if not all(found[kind] for kind in ("standing", "progress", "confirmed", "used")):
        raise Refused("damaged", "a record of the node's state is missing")
    banned, retired, limits = found["standing"][0]
    position, instance, floor, authenticated = found["progress"][0]
    return Kept(
        entries=tuple(found["entry"]),
        svids=dict(found["svid"]),
        reserves=dict(found["reserve"]),
        tokens=tuple(found["token"]),
        bundles=tuple(found["bundle"]),
        confirmed=found["confirmed"][0],
        stale_limits=limits,
        used=found["used"][0],
        banned=banned,
        position=position,
        instance=instance,
        floor=floor,
        authenticated=authenticated,
        retired=retired,
    )


def _token_name(kept: KeptToken) -> str:
    audience = json.dumps(kept.audience).encode()
    return f"token/{kept.entry_id}/{hashlib.sha256(audience).hexdigest()[:32]}"


def _entry(entry: Entry) -> object:
    return [
        entry.id,
        str(entry.spiffe_id),
        sorted(entry.selectors),
        entry.x509_ttl,
        entry.jwt_ttl,
        entry.dns_names,
        [domain.name for domain in entry.federates_with],
        entry.federates_with_all,
        entry.hint,
        entry.admin,
        None if entry.expires_at is None else _us(entry.expires_at),
        entry.created_at_ms,
    ]


def _read_entry(_: str, data: Any) -> Entry:
    id_, spiffe_id, selectors, x509, jwt, dns, domains, every, hint, admin, expires, created = data
    return Entry(
        id_,
        SpiffeId.parse(spiffe_id),
        frozenset(selectors),
        x509,
        jwt,
        tuple(dns),
        tuple(map(TrustDomain, domains)),
        every,
        hint,
        admin,
        None if expires is None else _moment(expires),
        created,
    )


def _svid(svid: Svid) -> object:
    chain = [_text(der) for der in svid.chain]
    return [chain, _text(svid.key), svid.serial, svid.authority, _us(svid.issued_at), _us(svid.not_after)]


def _read_svid(id_: str, data: Any) -> tuple[str, Svid]:
    chain, key, serial, authority, issued, end = data
    der = tuple(_bytes(item) for item in chain)
    return id_, Svid(der, _bytes(key), serial, authority, _moment(issued), _moment(end))


def _token(kept: KeptToken) -> object:
    token = kept.token
    times = _us(token.renew_at), _us(token.expires_at)
    return [kept.entry_id, kept.audience, token.text, str(token.spiffe_id), token.authority, *times]


def _read_token(_: str, data: Any) -> KeptToken:
    entry_id, audience, text, spiffe_id, authority, renew, end = data
    token = Token(text, SpiffeId.parse(spiffe_id), authority, _moment(renew), _moment(end))
    return KeptToken(entry_id, tuple(audience), token)


def _bundle(held: HeldBundle) -> object:
    return [_text(held.envelope.data), _text(held.key.spki), _us(held.received_at)]


def _read_bundle(name: str, data: Any) -> HeldBundle:
    envelope, spki, received = data
    key = PublicationKey(_bytes(spki))
    return HeldBundle(open_envelope(_bytes(envelope), TrustDomain(name), key), key, _moment(received))


def _standing(part: Any) -> object:
    banned, retired, limits = part
    return [banned, retired, {domain.name: limit // _MICROSECOND for domain, limit in limits.items()}]


def _read_standing(_: str, data: Any) -> object:
    banned, retired, limits = data
    return banned, tuple(retired), {TrustDomain(name): limit * _MICROSECOND for name, limit in limits.items()}


def _progress(part: Any) -> object:
    position, instance, floor, authenticated = part
    return [position, instance, _us(floor), authenticated and [_us(authenticated[0]), *authenticated[1:]]]


def _read_progress(_: str, data: Any) -> object:
    position, instance, floor, told = data
    return position, instance, _moment(floor), told and (_moment(told[0]), float(told[1]), str(told[2]))


def _confirmed(part: Mapping[TrustDomain, datetime]) -> object:
    return {domain.name: _us(at) for domain, at in part.items()}


def _read_confirmed(_: str, data: Any) -> object:
    return {TrustDomain(name): _moment(at) for name, at in data.items()}


def _used(part: Mapping[str, datetime]) -> object:
    return {id_: _us(at) for id_, at in part.items()}


def _read_used(_: str, data: Any) -> object:
    return {id_: _moment(at) for id_, at in data.items()}


_ENCODERS: dict[str, Callable[[Any], object]] = {
    "entry": _entry,
    "svid": _svid,
    "reserve": _svid,
    "token": _token,
    "bundle": _bundle,
    "standing": _standing,
    "progress": _progress,
    "confirmed": _confirmed,
    "used": _used,
}
_DECODERS: dict[str, Callable[[str, Any], object]] = {
    "entry": _read_entry,
    "svid": _read_svid,
    "reserve": _read_svid,
    "token": _read_token,
    "bundle": _read_bundle,
    "standing": _read_standing,
    "progress": _read_progress,
    "confirmed": _read_confirmed,
    "used": _read_used,
}


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
