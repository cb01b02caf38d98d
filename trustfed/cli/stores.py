"""Reading bundles back from a store (S3, HTTPS, a folder) for trustfed bundle fetch: by TUF, from a pinned root on."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trustfed.cli import output
from trustfed.cli.keyfiles import public_key
from trustfed.cli.options import Output
from trustfed.errors import Invalid, NotFound
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.reading import launch
from trustfed.reading.location import Location
from trustfed.reading.order import MAX_ROOT, Answer, Found, Order, Wanted
from trustfed.runtime.bounded_http import Limits
from trustfed.runtime.config import duration
from trustfed.runtime.files import read_bounded, write_atomic
from trustfed.spiffe.ids import TrustDomain

_COLUMNS = {
    "TRUST DOMAIN": "trust_domain",
    "LEVEL": "level",
    "SIGNED AT": "signed_at",
    "PUBLICATION KEY": "publication_key",
}


@dataclass(frozen=True)
class Visit:
    """What the command was told."""

    location: Location
    root: Path
    domains: Sequence[str]
    state: Path | None
    accept_stale: str
    timeout: str
    pinned: Path | None
    manifests: bool = False


def fetch(visit: Visit, write: Path | None, output_as: Output) -> None:
    """Fetch, verify, show, and leave in a folder if one is named. Raises what is refused, after what was not is left."""
    answer = launch.read(_order(visit))
    rows = [_left(found, write) for found in answer.found]
    shown = {"root_version": answer.root_version, "stale_seconds": int(answer.stale.total_seconds()), "domains": rows}
    if output_as is Output.JSON:
        output.document(shown)
    elif rows or not answer.refused:
        output.listing(rows, _COLUMNS, output_as, "the store holds no trust domain")
    _tell(answer, write)
    for name in visit.domains:
        answer.one(name)
    for error in answer.refused.values():
        raise error


def _order(visit: Visit) -> Order:
    if visit.manifests and not visit.domains:
        raise Invalid("--manifests needs the trust domains whose manifests are meant", hint="name each with --domain")
    seconds = duration(visit.timeout).total_seconds()
    root = read_bounded(visit.root, MAX_ROOT)
    key = b""
    if visit.pinned is not None:
        if len(visit.domains) != 1:
            raise Invalid("--publication-key is the key of one trust domain", hint="name it with --domain")
        key = public_key(read_bounded(visit.pinned, 65_536), str(visit.pinned))
        PublicationKey(key)
    return Order(
        visit.location,
        root,
        visit.state or _default_state(root),
        datetime.now(UTC),
        tuple(Wanted(TrustDomain.parse(name).name, key, mesh=visit.manifests) for name in visit.domains),
        accept_stale=duration(visit.accept_stale) if visit.accept_stale else timedelta(0),
        limits=Limits(seconds=seconds, pause=min(10.0, seconds / 2)),
    )


def _default_state(root: bytes) -> Path:
    """Where this user's readers of the repository with this root remember what they saw: mirrors of one share it."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    folder = Path(base) / "trustfed" / "stores" / hashlib.sha256(root).hexdigest()[:16]
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _left(found: Found, write: Path | None) -> dict[str, object]:
    """A row for one domain; its envelope, bundle, key, cluster document and manifests in the folder `write`."""
    domain, key = TrustDomain.parse(found.trust_domain), PublicationKey(found.publication_key)
    envelope = open_envelope(found.envelope, domain, key)
    if write is not None:
        if not write.is_dir():
            raise NotFound(f"{write} is not a folder", hint="make it first")
        for suffix, data in (
            ("envelope", found.envelope),
            ("json", envelope.body),
            ("pub", _pem(key)),
            ("cluster.json", found.cluster),
            *([("routes.yaml", found.mesh)] if found.mesh else []),
        ):
            write_atomic(write / f"{domain.name}.{suffix}", data, 0o644)
    level = envelope.level
    return {
        "trust_domain": domain.name,
        "level": {"epoch": level.epoch, "sequence": level.sequence},
        "signed_at": found.signed_at.isoformat().replace("+00:00", "Z"),
        "publication_key": key.fingerprint,
        "role_version": found.role_version,
        **({"manifests": hashlib.sha256(found.mesh).hexdigest()} if found.mesh else {}),
    }


def _pem(key: PublicationKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _tell(answer: Answer, write: Path | None) -> None:
    if answer.stale:
        sys.stderr.write(
            f"stale: the store's timestamp expired {timedelta(seconds=int(answer.stale.total_seconds()))} ago\n"
        )
    if write is not None:
        sys.stderr.write(f"{len(answer.found)} trust domain(s) verified and left in {write}\n")
