"""Registration entries: which SPIFFE IDs exist, on which nodes, for which selectors. Pure decisions and matching."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from trustfed.cluster.events import EntryDeleted, EntryPut, PeersSet
from trustfed.cluster.state import ClusterState, Node
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation.names import check_name
from trustfed.journal.events import TypedEvent
from trustfed.spiffe.ids import SpiffeId, TrustDomain

MAX_SELECTORS = 32
MAX_SELECTOR = 1024
MAX_NAMES = 32
MAX_FEDERATES = 1000
MAX_HINT = 256
MIN_TTL = 1  # seconds

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SELECTOR = re.compile(r"[a-z][a-z0-9_]{0,31}:[^\x00-\x1f\x7f]{1,1000}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Ttls(Struct, frozen=True):
    """Lifetimes of a trust domain, in seconds: what an entry gets that names none, and the most it may name."""

    x509: int
    x509_max: int
    jwt: int
    jwt_max: int


class EntrySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person asks for. TTLs in seconds, 0 for the domain's own; `parent` is node/NAME or group/NAME."""

    spiffe_id: str
    parent: str
    selectors: tuple[str, ...]
    id: str = ""
    x509_ttl: int = 0
    jwt_ttl: int = 0
    dns_names: tuple[str, ...] = ()
    federates_with: tuple[str, ...] = ()
    hint: str = ""
    admin: bool = False
    chain: str = "leaf"
    expires_at: datetime | None = None
    owner: str = ""


def put_entry(
    state: ClusterState, spec: EntrySpec, new_id: str, ttls: Ttls, now: datetime, *, update: bool = False
) -> list[TypedEvent]:
    """Create the entry `spec` (or, with `update`, replace the one it names). Every field is checked before any is kept.

    Raises Invalid naming the field, Denied for IDs that no entry may name, Conflict for an id or an identity that exists.
    """
    id_ = spec.id or new_id
    if not _ID.fullmatch(id_):
        raise Invalid(f"entry id {id_[:80]!r} is malformed", hint="1 to 128 letters, digits, '.', '_' or '-'")
    old = state.entries.get(id_)
    if update and old is None:
        raise NotFound(f"entry {id_} does not exist", hint="trustfed entry list")
    if not update and old is not None:
        raise Conflict(f"entry {id_} exists already", hint="choose another id, or update it")
    entry = EntryPut(
        id=id_,
        spiffe_id=str(_workload_id(spec.spiffe_id, state.trust_domain)),
        parent=_parent(spec.parent),
        selectors=_selectors(spec.selectors),
        x509_ttl=_ttl("x509_ttl", spec.x509_ttl, ttls.x509, ttls.x509_max),
        jwt_ttl=_ttl("jwt_ttl", spec.jwt_ttl, ttls.jwt, ttls.jwt_max),
        dns_names=_dns_names(spec.dns_names, state.dns_suffixes),
        federates_with=_federates(spec.federates_with, state.trust_domain),
        hint=_hint(spec.hint),
        admin=spec.admin,
        chain=_chain(spec.chain),
        expires_at=_expiry(spec.expires_at, now),
        owner=_owner(spec.owner),
        created_at=old.created_at if old else now,
    )
    _check_resolved(entry, state)
    for other in state.entries.values():
        if other.spiffe_id != entry.spiffe_id or other.id == id_:
            continue
        if (other.parent, other.selectors) == (entry.parent, entry.selectors):
            raise Conflict(
                f"entry {other.id} has the same SPIFFE ID, parent and selectors",
                hint=f"update entry {other.id} instead",
            )
    return [entry]


def delete_entry(state: ClusterState, id_: str) -> list[TypedEvent]:
    """Delete an entry. Raises NotFound."""
    if id_ not in state.entries:
        raise NotFound(f"entry {id_[:128]!r} does not exist", hint="trustfed entry list")
    return [EntryDeleted(id_)]


def set_peers(state: ClusterState, name: str, members: Sequence[str]) -> list[TypedEvent]:
    """Give several trust domains a name, for entries that federate with `peers:NAME`; an empty one is removed."""
    check_name(name, "peers")
    if len(members) > MAX_FEDERATES:
        raise Invalid(f"peers:{name} would have {len(members)} members", hint=f"at most {MAX_FEDERATES}")
    domains = tuple(sorted({TrustDomain.parse(member).name for member in members}))
    if not domains and name not in state.peer_lists:
        raise NotFound(f"peers:{name} does not exist", hint="trustfed peers list")
    after = replace(state, peer_lists=state.peer_lists.put(name, domains))
    for entry in state.entries.values():
        if f"peers:{name}" in entry.federates_with:
            _check_resolved(entry, after)
    return [PeersSet(name, domains)]


def serves(entry: EntryPut, node: Node, now: datetime) -> bool:
    """Whether this node may hold the entry's identity now: the entry's parent is the node, or a group it belongs to."""
    if entry.expires_at is not None and entry.expires_at <= now:
        return False
    kind, _, name = entry.parent.partition("/")
    return name == node.name if kind == "node" else name in node.groups


def federates(state: ClusterState, entry: EntryPut) -> tuple[str, ...]:
    """The trust domains an entry federates with, `peers:NAME` resolved; "*" stands for every domain that is granted."""
    names: set[str] = set()
    for name in entry.federates_with:
        if name.startswith("peers:"):
            names.update(state.peer_lists.get(name.removeprefix("peers:")) or ())
        else:
            names.add(name)
    return ("*",) if "*" in names else tuple(sorted(names))


def _check_resolved(entry: EntryPut, state: ClusterState) -> None:
    """What an agent is told of one entry stays within one message, whatever its `peers:` hold."""
    count = len(federates(state, entry))
    if count > MAX_FEDERATES:
        raise Invalid(
            f"entry {entry.id} would federate with {count} trust domains", hint=f"at most {MAX_FEDERATES}, or '*'"
        )


def _workload_id(text: str, trust_domain: str) -> SpiffeId:
    spiffe_id = SpiffeId.parse(text)
    if spiffe_id.trust_domain.name != trust_domain:
        raise Denied(f"{spiffe_id} is not in this trust domain", hint=f"IDs here begin with spiffe://{trust_domain}/")
    if not spiffe_id.path:
        raise Invalid(f"{spiffe_id} names the trust domain itself", hint="add a path that names the workload")
    if spiffe_id.is_reserved:
        raise Denied(f"{spiffe_id} is below /trustfed/, which is reserved", hint="choose another path")
    return spiffe_id


def _parent(text: str) -> str:
    kind, slash, name = text.partition("/")
    if kind not in ("node", "group") or not slash:
        raise Invalid(f"parent {text[:80]!r} is malformed", hint="node/NAME or group/NAME")
    check_name(name, kind)
    return text


def _selectors(selectors: Sequence[str]) -> tuple[str, ...]:
    if not selectors:
        raise Invalid("an entry without selectors would match every workload", hint="give at least one, unix:uid:1000")
    if len(selectors) > MAX_SELECTORS:
        raise Invalid(f"{len(selectors)} selectors are too many", hint=f"at most {MAX_SELECTORS}")
    for number, selector in enumerate(selectors, 1):
        if len(selector) > MAX_SELECTOR or not _SELECTOR.fullmatch(selector):
            # The value may be private to the workload, so the message names its place, not its text.
            raise Invalid(f"selector {number} is malformed", hint="TYPE:VALUE such as unix:uid:1000")
    return tuple(sorted(set(selectors)))


def _ttl(field: str, wanted: int, usual: int, most: int) -> int:
    if wanted == 0:
        return usual
    if not MIN_TTL <= wanted <= most:
        raise Invalid(f"{field} of {wanted} s is out of bounds", hint=f"{MIN_TTL} to {most} s in this trust domain")
    return wanted


def _dns_names(names: Sequence[str], suffixes: Sequence[str]) -> tuple[str, ...]:
    if len(names) > MAX_NAMES:
        raise Invalid(f"{len(names)} DNS names are too many", hint=f"at most {MAX_NAMES}")
    for name in names:
        if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
            raise Invalid(f"DNS name {name[:80]!r} is malformed", hint="lower-case labels, no wildcard, no final dot")
        if not any(name == suffix or name.endswith("." + suffix) for suffix in suffixes):
            allowed = ", ".join(suffixes) or "none"
            raise Denied(f"DNS name {name} is outside this domain's suffixes", hint=f"registered suffixes: {allowed}")
    return tuple(dict.fromkeys(names))


def _federates(names: Sequence[str], own: str) -> tuple[str, ...]:
    if len(names) > MAX_FEDERATES:
        raise Invalid(f"federates_with has {len(names)} items", hint=f"at most {MAX_FEDERATES}, or '*'")
    kept: dict[str, None] = {}
    for name in names:
        if name == "*":
            kept[name] = None
        elif name.startswith("peers:"):
            check_name(name.removeprefix("peers:"), "peers")
            kept[name] = None
        else:
            domain = TrustDomain.parse(name).name
            if domain == own:
                raise Invalid(f"an entry cannot federate with its own trust domain {own}")
            kept[domain] = None
    return tuple(kept)


def _hint(hint: str) -> str:
    if len(hint) > MAX_HINT or not hint.isprintable():
        raise Invalid(f"hint {hint[:40]!r} is malformed", hint=f"printable, at most {MAX_HINT} characters")
    return hint


def _owner(owner: str) -> str:
    if len(owner) > MAX_HINT or not owner.isprintable():
        raise Invalid(f"owner {owner[:40]!r} is malformed", hint=f"printable, at most {MAX_HINT} characters")
    return owner


def _chain(chain: str) -> str:
    if chain not in ("leaf", "root"):
        raise Invalid(f"chain {chain[:40]!r} is unknown", hint="leaf (everywhere SPIFFE is spoken) or root")
    return chain


def _expiry(expires_at: datetime | None, now: datetime) -> datetime | None:
    if expires_at is None:
        return None
    if expires_at.tzinfo is None:
        raise Invalid("expires_at has no time zone", hint="for example 2027-01-31T12:00:00Z")
    if expires_at <= now:
        raise Invalid(f"expires_at {expires_at.isoformat()} is past", hint="choose a later time")
    return expires_at
