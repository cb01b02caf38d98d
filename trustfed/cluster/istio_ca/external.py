"""The sub-authority that istiod plugs in (`cacerts`): when it may be handed over, and what has to happen before. Pure.

Its key is made where the export goes and never comes here; its twin is an anchor of this domain like every authority's. The
order of a rollover, each step an event (facts of Istio: a root is changed by appending or trimming, and hot):

 1. published   the new twin is in the bundle (ExternalPrepared); wait until every live reader of it has acknowledged
 2. anchored    root-cert.pem has old and new (ExternalAnchored); wait until the mesh's proxies have it: the longest life of
                their certificates, because a proxy learns new roots with its next one, or until an operator says so
 3. exported    ca-cert.pem and ca-key.pem are to be the new ones (ExternalExported), and are (ExternalSwapped); wait until all
                is issued anew: one such life, and LOADED for the last istiod to read them
 4. dropped     the old twin leaves the bundle (AuthorityRemoved), and then root-cert.pem

The first one has no old one beside it: it is exported once 1 is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import authority_subject
from ca.cacert import CaFields, ca_tbs
from ca.lifecycle import AuthorityState, Kind, Status
from ca.malformed import MALFORMED
from ca.profiles import NOT_BEFORE_BACKDATE, TWIN
from ca.publickeys import key_id
from trustfed.cluster.istio_ca import events as e
from trustfed.cluster.istio_ca.state import External
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.journal.events import TypedEvent
from trustfed.spiffe.certificate import read
from trustfed.spiffe.ids import TrustDomain

LEAST_LEAF, LONGEST_LEAF = timedelta(minutes=1), timedelta(days=30)
LOADED = timedelta(minutes=10)
CLOCKS = timedelta(minutes=5)
"""How far the clock of the machine that made a twin may be away from ours."""
_HINT = "make it with trustfed cacerts begin"


@dataclass(frozen=True)
class Course:
    """Where the plugged-in CA is: what signs, what follows it, and what the next step waits for."""

    step: str  # "none" | "publishing" | "anchoring" | "swapping" | "reissuing" | "settled"
    signing: str = ""  # id of the authority whose key istiod uses
    following: str = ""  # id of the one that is to follow
    leaving: tuple[str, ...] = ()  # ids of those that signed before and are still anchors
    waits_for: tuple[str, ...] = ()
    until: datetime | None = None  # when time alone ends the wait
    next: str = ""  # what can be done now, "" for nothing


def course(state: ClusterState, missing: Sequence[str], now: datetime) -> Course:
    """Where it stands; `missing` are the readers that have not got the one that follows."""
    signing, following, leaving = _one(state, Status.ACTIVE), _one(state, Status.PREPARED), _leaving(state)
    ids = (signing.id if signing else "", following.id if following else "", tuple(a.id for a in leaving))
    if signing is not None and state.istio.external[signing.id].swapped_at is None:
        return Course("swapping", *ids, ("the folder to get the new files",), next="swap")
    if following is None:
        if not leaving:
            return Course("settled" if signing else "none", *ids)
        until = max(a.last_leaf_not_after or a.not_after for a in leaving)
        return Course("reissuing", *ids, ("certificates of the old key to be replaced",), until)
    if missing:
        return Course("publishing", *ids, tuple(missing))
    if following.first_level is None:
        return Course("publishing", *ids, ("the next envelope of this domain",))
    if leaving:
        until = max(a.last_leaf_not_after or a.not_after for a in leaving)
        return Course("publishing", *ids, (f"the rollover before this one: {leaving[0].id}",), until)
    if signing is None:
        return Course("swapping", *ids, next="export")
    known = state.istio.external[following.id]
    if known.anchored_at is None:
        return Course("anchoring", *ids, next="anchor")
    until = known.anchored_at + _leaf(state, signing.id)
    if not known.confirmed and now < until:
        return Course("swapping", *ids, ("proxies to hold both anchors (or --confirmed)",), until)
    return Course("swapping", *ids, next="export")


def prepare(state: ClusterState, id_: str, twin: bytes, leaf_seconds: int, why: str, now: datetime) -> list[TypedEvent]:
    """Take the twin of a key that was made elsewhere. The same one again is no error.

    1. one rollover at a time  2. lives and reason within bounds  3. the twin is exactly what this domain makes for this
    id and key (as ca.intermediate judges the root's), and it was signed with that key.  Raises Conflict, Invalid.
    """
    held = state.authorities.get(id_)
    if held is not None:
        if held.kind is Kind.EXTERNAL and held.twin == twin:
            return []
        raise Conflict(f"authority {id_[:40]} exists already", hint="begin again: a new one gets a new id")
    waiting = _one(state, Status.PREPARED)  # 1
    if waiting is not None:
        raise Conflict(
            f"authority {waiting.id} is being rolled in already", hint="trustfed cacerts advance, or cacerts abandon"
        )
    if not LEAST_LEAF <= timedelta(seconds=leaf_seconds) <= LONGEST_LEAF:  # 2
        raise Invalid(f"a longest certificate life of {leaf_seconds} s is out of range", hint="1m to 30d")
    if not why.strip() or len(why) > 1024:
        raise Invalid("a plugged-in CA needs a reason of at most 1024 characters", hint='--reason "istiod signs here"')
    not_before, not_after = _check_twin(TrustDomain.parse(state.trust_domain), id_, twin, now)  # 3
    if not_after - now < 2 * timedelta(seconds=leaf_seconds):
        raise Invalid(f"authority {id_} would end at {not_after}", hint="let it live twice as long as what it signs")
    return [e.ExternalPrepared(id_, twin, not_before, not_after, leaf_seconds, why.strip(), now)]


def anchored(state: ClusterState, id_: str, missing: Sequence[str], confirmed: bool, now: datetime) -> list[TypedEvent]:
    """The mesh has root-cert.pem with both; `confirmed`: its proxies too. Raises Conflict before its turn, NotFound."""
    known = _known(state, id_)
    if known.exported_at is not None:
        return []
    stands = course(state, missing, now)
    if stands.following != id_ or stands.step == "publishing":
        raise Conflict(_waiting(id_, stands), hint="trustfed cacerts status")
    if known.anchored_at is None:
        return [e.ExternalAnchored(id_, confirmed, now)]
    return [e.ExternalAnchored(id_, True, now)] if confirmed and not known.confirmed else []


def exported(state: ClusterState, id_: str, missing: Sequence[str], now: datetime) -> list[TypedEvent]:
    """From now on it signs in the place of the one before it. Raises Conflict while something is waited for, NotFound."""
    known = _known(state, id_)
    if known.exported_at is not None:
        return []
    stands = course(state, missing, now)
    if stands.following != id_ or stands.next != "export":
        raise Conflict(_waiting(id_, stands), hint="trustfed cacerts status")
    return [e.ExternalExported(id_, stands.signing, now)]


def swapped(state: ClusterState, id_: str, now: datetime) -> list[TypedEvent]:
    """The folder has its files: only from now on what the one before it signed is running out. Raises Conflict, NotFound."""
    known = _known(state, id_)
    if known.exported_at is None:
        raise Conflict(f"authority {id_} was not exported yet", hint="trustfed cacerts advance")
    if known.swapped_at is not None:
        return []
    old = state.authorities.get(known.replaces)
    leaving = old is not None and old.status is Status.RETIRING
    until = now + _leaf(state, known.replaces) + LOADED if leaving else None
    return [e.ExternalSwapped(id_, known.replaces if leaving else "", until, now)]


def abandon(state: ClusterState, id_: str, reason: str, now: datetime) -> list[TypedEvent]:
    """Give up one that was never exported: its twin leaves the bundle. Raises NotFound, Conflict."""
    _known(state, id_)
    if state.authorities[id_].status is Status.REMOVED:
        return []
    if state.authorities[id_].status is not Status.PREPARED:
        raise Conflict(f"authority {id_} signs already", hint="roll another one in: trustfed cacerts begin")
    return [e.ExternalAbandoned(id_, reason, now)]


def twins_of(state: ClusterState) -> frozenset[bytes]:
    """The twins of all external authorities, also of those that have left."""
    return frozenset(state.authorities[id_].twin for id_ in state.istio.external)


def _waiting(id_: str, stands: Course) -> str:
    what = ", ".join(stands.waits_for[:5]) or f"step {stands.step}"
    until = f", until {stands.until.isoformat()}" if stands.until else ""
    return f"authority {id_} cannot take this step yet; it waits for: {what}{until}"


def _one(state: ClusterState, status: Status) -> AuthorityState | None:
    found = [a for a in state.authorities.values() if a.kind is Kind.EXTERNAL and a.status is status]
    return max(found, key=lambda a: (a.activated_at or a.not_before, a.id), default=None)


def _leaving(state: ClusterState) -> list[AuthorityState]:
    found = [a for a in state.authorities.values() if a.kind is Kind.EXTERNAL and a.status is Status.RETIRING]
    return sorted(found, key=lambda a: a.id)


def _leaf(state: ClusterState, id_: str) -> timedelta:
    return timedelta(seconds=state.istio.external[id_].leaf_seconds)


def _known(state: ClusterState, id_: str) -> External:
    found = state.istio.external.get(id_)
    if found is None:
        raise NotFound(f"there is no external authority {id_[:40]!r}", hint="trustfed cacerts status")
    return found


def _check_twin(domain: TrustDomain, id_: str, twin: bytes, now: datetime) -> tuple[datetime, datetime]:
    """When it begins and ends. Raises Invalid."""
    what = f"the certificate of authority {id_[:40]}"
    found = read(twin, what)
    key = found.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid(f"{what} has no P-256 key", hint=_HINT)
    subject = authority_subject(domain, id_, external=True)
    fields = CaFields(subject, key, subject, key_id(key), found.not_after, trust_domain=domain)
    made_at = found.not_before + NOT_BEFORE_BACKDATE
    if abs(made_at - now) > CLOCKS:
        raise Invalid(f"{what} was made at {made_at}, and it is {now} here", hint="check both clocks, then begin anew")
    try:
        tbs = ca_tbs(TWIN, fields, found.parsed.serial_number, made_at)
        found.parsed.verify_directly_issued_by(found.parsed)
    except (*MALFORMED, InvalidSignature, TypeError):
        raise Invalid(f"{what} is not signed with its own key, or malformed", hint=_HINT) from None
    if tbs != x509.load_der_x509_certificate(twin).tbs_certificate_bytes:
        raise Invalid(f"{what} is not what this domain makes for an external authority", hint=_HINT)
    return found.not_before, found.not_after
