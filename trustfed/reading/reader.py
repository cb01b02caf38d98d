"""A store read and believed only as far as TUF and the domains' own signatures carry.

 1. state: a private folder of ours, one reader at a time: what was seen before is what "back" means, across restarts
 2. root: from the pinned one version by version, each signed by the one before and by itself (TUF §5.3)
 3. timestamp, snapshot, targets (§5.4 to §5.6): signed, none older than one seen, none expired, each the one that the
    last one names. An expired timestamp is accepted only when asked for, and only for so long
 4. the role of a domain is delegated to exactly one key, for exactly its own files; the pinned key, when there is one
 5. the role itself: signed by that key, not expired, the version that the snapshot names; and not signed in the future
 6. its files: of the length and hash that the role lists
 7. the envelope is opened with that key as from any hand; the cluster document is this domain's and names this key

The TUF client is python-tuf's. It reads the wall clock, and shows neither its trusted metadata nor a delegated role by name:
that is taken from its inside here (`_Updater`) and nowhere else, and pinned to the version that the tests ran with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from tuf.api import exceptions
from tuf.api.metadata import DelegatedRole, Root, TargetFile, Targets, Timestamp  # type: ignore[attr-defined]  # its __all__ is no list of strings to mypy
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.federation import cluster_document, envelope
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.reading.fetcher import BASE, SourceFetcher
from trustfed.reading.order import MAX_DOMAINS, MAX_MANIFESTS, MAX_ROOT, Answer, Found, Order, Wanted
from trustfed.reading.sources.port import Source
from trustfed.runtime.files import DirectoryLock, private_directory
from trustfed.spiffe.ids import TrustDomain

ROLE_LIFE = timedelta(days=30)
"""From a role's signing to its expiry, always: so the time of signing can be read off the expiry."""
_AHEAD = timedelta(hours=1)
"""How far another's clock may be ahead of ours."""
_MAX_TARGETS = 8_000_000
_CONFIG = UpdaterConfig(
    max_root_rotations=256,
    root_max_length=MAX_ROOT,
    timestamp_max_length=16_384,
    snapshot_max_length=4_000_000,
    targets_max_length=_MAX_TARGETS,
)


class _Updater(Updater):
    """python-tuf's client with the time as an argument, and a delegated role by its name."""

    def __init__(self, folder: Path, fetcher: FetcherInterface, root: bytes, now: datetime) -> None:
        super().__init__(
            str(folder / "metadata"),
            f"{BASE}tuf/",
            str(folder / "targets"),
            f"{BASE}",
            fetcher,
            _CONFIG,
            bootstrap=root,
        )
        self._trusted_set.reference_time = now

    @property
    def root(self) -> Root:
        return self._trusted_set.root

    @property
    def timestamp(self) -> Timestamp | None:
        return cast("Timestamp | None", self._trusted_set.get(Timestamp.type))

    @property
    def targets(self) -> Targets:
        return self._trusted_set.targets

    def role(self, name: str) -> Targets:
        return self._load_targets(name, Targets.type)


def read(order: Order, source: Source) -> Answer:
    """What the store at `source` holds of the domains that `order` names. Raises one error that says which check failed."""
    folder = private_directory(order.state)  # 1
    with closing(source), DirectoryLock(folder), _explained(order):
        for name in ("metadata", "targets"):
            private_directory(folder / name)
        fetcher = SourceFetcher(source, order.max_bytes)
        updater = _refreshed(order, folder, fetcher)
        timestamp = updater.timestamp
        assert timestamp is not None
        expires = timestamp.expires.replace(tzinfo=timestamp.expires.tzinfo or UTC)
        found, refused = list[Found](), dict[str, TrustfedError]()
        for wanted in order.domains or _all(updater):
            try:
                with _explained(order):
                    found.append(_domain(updater, wanted, folder, order.now))
            except TrustfedError as error:
                refused[wanted.trust_domain] = error
        away = [error for error in refused.values() if isinstance(error, Unavailable)]
        if (
            away and not found
        ):  # one file that cannot be had is that domain's matter: it must not keep the others waiting
            raise away[0]
        _settle(folder / "metadata")
        stale = max(order.now - expires, timedelta(0))
        return Answer(updater.root.version, expires, stale, tuple(found), refused)


def _refreshed(order: Order, folder: Path, fetcher: FetcherInterface) -> _Updater:
    """A client whose top-level metadata is current (2, 3)."""
    updater = _Updater(folder, fetcher, order.root, order.now)
    try:
        updater.refresh()
        return updater
    except exceptions.ExpiredMetadataError:
        timestamp = updater.timestamp
        if timestamp is None or order.now < timestamp.expires:
            raise
    age = order.now - timestamp.expires
    if age > order.accept_stale:
        raise Denied(
            f"freeze refused: the store's timestamp expired {_shown(age)} ago, at {timestamp.expires.isoformat()}",
            hint="is its hub away, or is an old copy shown to us? --accept-stale AGE takes what is not older",
        )
    # As it was in the last second before: what else had expired by then is refused all the same.
    updater = _Updater(folder, fetcher, order.root, timestamp.expires - timedelta(seconds=1))
    updater.refresh()
    newest = updater.timestamp
    if newest is None or order.now - newest.expires > order.accept_stale:
        raise Denied("the store changed to an older state while it was read", hint="try again")
    return updater


def _all(updater: _Updater) -> list[Wanted]:
    """Every domain that has a role."""
    delegations = updater.targets.delegations
    names = list(delegations.roles or ()) if delegations else []
    if len(names) > MAX_DOMAINS:
        raise Invalid(f"the store delegates to {len(names)} roles; at most {MAX_DOMAINS} are read")
    return [Wanted(name) for name in names]


def _domain(updater: _Updater, wanted: Wanted, folder: Path, now: datetime) -> Found:
    domain = TrustDomain.parse(wanted.trust_domain)
    key = _delegated_key(updater.targets, domain)  # 4
    if wanted.publication_key:
        pinned = PublicationKey(wanted.publication_key)
        if pinned != key:
            raise Denied(
                f"stolen delegation refused: the store delegates {domain} to the key {key.fingerprint}, "
                f"but {pinned.fingerprint} is pinned",
                hint="if its owner confirms the new fingerprint, an operator here must pin it",
            )
    role = updater.role(domain.name)  # 5
    signed_at = role.expires.replace(tzinfo=role.expires.tzinfo or UTC) - ROLE_LIFE
    if signed_at > now + _AHEAD:
        # It would count as signed just now, at each visit, for as long as it lies in the future.
        raise Denied(
            f"the role of {domain} is signed for {_shown(signed_at - now)} beyond the {ROLE_LIFE.days} days that a role lives",
            hint="the clock of its cluster, or of this machine, is or was wrong",
        )
    signed_at = min(signed_at, now)
    data = _file(updater, role, f"envelopes/{domain.name}", envelope.MAX_BYTES)  # 6
    document = _file(updater, role, f"clusters/{domain.name}", cluster_document.MAX_BYTES)
    open_envelope(data, domain, key)  # 7
    if cluster_document.read(document, domain).publication_key != key:
        raise Denied(f"the cluster document of {domain} names another publication key than the one that signed it")
    same = hashlib.sha256(data).hexdigest() == wanted.held
    mesh = _file(updater, role, f"mesh/{domain.name}", MAX_MANIFESTS) if wanted.mesh else b""
    return Found(domain.name, key.spki, b"" if same else data, document, role.version, signed_at, mesh)


def _delegated_key(targets: Targets, domain: TrustDomain) -> PublicationKey:
    """The one key that the store delegates the domain's files to. Raises NotFound, Denied."""
    delegations = targets.delegations
    role: DelegatedRole | None = (delegations.roles or {}).get(domain.name) if delegations else None
    if role is None or delegations is None:
        raise NotFound(
            f"the store has nothing of trust domain {domain}", hint="is the name right, and has it published?"
        )
    paths = [f"clusters/{domain.name}", f"envelopes/{domain.name}", f"mesh/{domain.name}"]
    if sorted(role.paths or []) not in (paths, paths[:2]) or role.threshold != 1 or len(role.keyids) != 1:
        raise Denied(
            f"the store delegates {domain} in another way than to one key for its own files",
            hint="who publishes there is no trustfed hub, or not to be believed",
        )
    key = delegations.keys.get(role.keyids[0])
    try:
        assert key is not None and key.keytype == "ecdsa"
        public = load_pem_public_key(key.keyval["public"].encode())
        return PublicationKey(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (AssertionError, ValueError, KeyError, AttributeError, TypeError):
        raise Denied(f"the key that the store delegates {domain} to is not ECDSA on P-256") from None


def _file(updater: _Updater, role: Targets, path: str, limit: int) -> bytes:
    listed: TargetFile | None = role.targets.get(path)
    if listed is None:
        raise NotFound(f"the role does not list {path}")
    if listed.length > limit:
        raise Invalid(
            f"endless data refused: the role lists {path} with {listed.length} bytes; at most {limit} are read"
        )
    cached = updater.find_cached_target(listed) or updater.download_target(listed)
    return Path(cached).read_bytes()


def _settle(folder: Path) -> None:
    """What was seen is on the disk before it is acted on: a crash must not make this reader forget it."""
    for path in (*folder.iterdir(), *(folder / "root_history").iterdir(), folder / "root_history", folder):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def _explained(order: Order) -> Iterator[None]:
    """python-tuf's words for a refusal, with what it means and for which store."""
    try:
        yield
    except exceptions.DownloadHTTPError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, TrustfedError) else Unavailable(str(error)) from None
    except exceptions.DownloadError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, TrustfedError) else Unavailable(f"{order.location.url}: {error}") from None
    except exceptions.BadVersionNumberError as error:
        raise _denied("rollback", order, error) from None
    except exceptions.ExpiredMetadataError as error:
        raise _denied("freeze", order, error) from None
    except exceptions.LengthOrHashMismatchError as error:
        raise _denied("tampering or mix-and-match", order, error) from None
    except exceptions.UnsignedMetadataError as error:
        raise _denied("forgery", order, error) from None
    except (exceptions.RepositoryError, ValueError) as error:
        raise _denied("malformed or incomplete metadata", order, error) from None
    except OSError as error:
        raise Unavailable(
            f"{order.state} cannot be used: {(error.strerror or str(error)).lower()}", hint="make room, or name another"
        ) from None


def _denied(what: str, order: Order, error: Exception) -> Denied:
    words = " ".join(str(error).split())[:300]
    return Denied(
        f"{what} refused: {order.location.url}: {words}", hint="the last good state is kept; ask who runs the store"
    )


def _shown(age: timedelta) -> str:
    return str(timedelta(seconds=int(age.total_seconds())))
