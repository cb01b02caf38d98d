"""A protected publication for readers under test, made with python-tuf's own API: the whole store as a dict of files.

    store = TufStore(now)
    west = store.add("west.test")           a Domain (tests.fakes.cluster) with a role, an envelope and a cluster document
    store.publish(now)                      a new targets, snapshot and timestamp over what the domains signed
    store.rotate_root()                     root version n + 1, new keys of the online roles if asked for
    store.write(folder)                     as a directory target leaves it
    store.files                             name → bytes: to be copied, put back, cut, exchanged by an attacker

Every private key is at hand, so that a test can play whoever has stolen it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from bundle_publisher.tuf import delegated
from tests.fakes.cluster import Domain, Key, new_key
from trustfed.federation import cluster_document
from trustfed.federation.cluster_document import ClusterDocument
from trustfed.federation.envelope import PublicationKey

ONLINE = ("targets", "snapshot", "timestamp")
TIMESTAMP_LIFE = timedelta(hours=1)
LIFE = timedelta(days=30)


def tuf_key(key: Key) -> SSlibKey:
    return SSlibKey.from_crypto(key.public_key())


def signed(document: object, *keys: Key) -> bytes:
    """The metadata file, signed by these keys."""
    metadata = Metadata(document)  # type: ignore[type-var]
    for key in keys:
        metadata.sign(CryptoSigner(key, tuf_key(key)), append=True)
    return bytes(metadata.to_bytes())


class TufStore:
    """One store and all of its keys."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.root_keys = [new_key(), new_key()]
        self.online = {role: new_key() for role in ONLINE}
        self.versions = dict.fromkeys(("root", *ONLINE), 0)
        self.domains: dict[str, Domain] = {}
        self.roles: dict[str, delegated.Role] = {}
        self.delegated: dict[str, PublicationKey] = {}
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.attestors: tuple[str, ...] = ("aws_iam", "join_token")
        self.files: dict[str, bytes] = {}
        self.rotate_root(by=())

    @property
    def root(self) -> bytes:
        """The first root: what readers pin."""
        return self.files["tuf/1.root.json"]

    def add(self, name: str, *, domain: Domain | None = None, addresses: tuple[str, ...] = ("127.0.0.1:9",)) -> Domain:
        """A domain joins: its key is delegated to, and it signs its role."""
        made = self.domains[name] = domain or Domain(name)
        self.delegated[name] = made.publication_key
        self.addresses[name] = addresses
        self.sign(name)
        return made

    def sign(self, name: str, *, now: datetime | None = None, data: bytes | None = None) -> delegated.Role:
        """The domain signs its role over its present envelope (or `data` in its place)."""
        domain = self.domains[name]
        envelope_data = domain.envelope().data if data is None else data
        document = cluster_document.write(
            ClusterDocument(domain.trust_domain, domain.publication_key, self.addresses[name], (), self.attestors)
        )
        version = self.roles[name].version + 1 if name in self.roles else 1
        parts = (domain.trust_domain, version, now or self.now, envelope_data, document)
        signature = domain.publication.sign(delegated.payload_to_sign(*parts), ec.ECDSA(hashes.SHA256()))
        role = self.roles[name] = delegated.assemble(*parts, signature, domain.publication_key)
        self.files[role.files[0]], self.files[role.files[1]] = envelope_data, document
        self.files[delegated.role_file(name, version)] = role.data
        return role

    def publish(self, now: datetime | None = None) -> None:
        """New targets, snapshot and timestamp."""
        at = now or self.now
        keys = {name: SSlibKey.from_crypto(key.public_key) for name, key in self.delegated.items()}
        self.publish_targets(
            Delegations(
                {key.keyid: key for key in keys.values()},
                {
                    name: DelegatedRole(name, [key.keyid], 1, True, [f"clusters/{name}", f"envelopes/{name}"])
                    for name, key in keys.items()
                },
            ),
            at,
        )

    def publish_targets(self, delegations: Delegations, now: datetime) -> None:
        version = self._next("targets")
        targets = Targets(version, expires=now + LIFE, targets={}, delegations=delegations)
        self.files[f"tuf/{version}.targets.json"] = signed(targets, self.online["targets"])
        self.publish_snapshot(now)

    def publish_snapshot(self, now: datetime, **roles: int) -> None:
        """A snapshot; `roles` lists other versions than the newest (names with . as _)."""
        listed = {name: role.version for name, role in self.roles.items()}
        listed |= {name.replace("_", "."): version for name, version in roles.items()}
        versions = {"targets": self.versions["targets"], **listed}
        meta = {
            f"{name}.json": MetaFile.from_data(version, self.files[f"tuf/{version}.{name}.json"], ["sha256"])
            for name, version in versions.items()
        }
        number = self._next("snapshot")
        self.files[f"tuf/{number}.snapshot.json"] = signed(
            Snapshot(number, expires=now + LIFE, meta=meta), self.online["snapshot"]
        )
        self.publish_timestamp(now)

    def publish_timestamp(self, now: datetime, *, snapshot: int = 0) -> None:
        of = snapshot or self.versions["snapshot"]
        meta = MetaFile.from_data(of, self.files[f"tuf/{of}.snapshot.json"], ["sha256"])
        timestamp = Timestamp(self._next("timestamp"), expires=now + TIMESTAMP_LIFE, snapshot_meta=meta)
        self.files["tuf/timestamp.json"] = signed(timestamp, self.online["timestamp"])

    def rotate_root(
        self, *, by: tuple[Key, ...] | None = None, new: tuple[str, ...] = (), expires: datetime | None = None
    ) -> None:
        """The next root, signed by its own two keys and the old ones (`by`), with new keys for the roles in `new`."""
        old = self.root_keys if by is None else list(by)
        if "root" in new:
            self.root_keys = [new_key(), new_key()]
        for role in set(new) - {"root"}:
            self.online[role] = new_key()
        version = self._next("root")
        root = Root(version, expires=expires or self.now + timedelta(days=365), consistent_snapshot=True)
        for key in self.root_keys:
            root.add_key(tuf_key(key), "root")
        root.roles["root"].threshold = 2
        for role, key in self.online.items():
            root.add_key(tuf_key(key), role)
        self.files[f"tuf/{version}.root.json"] = signed(root, *{id(k): k for k in (*old, *self.root_keys)}.values())

    def write(self, folder: Path) -> Path:
        """All files, in the place of what was there."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def _next(self, role: str) -> int:
        self.versions[role] += 1
        return self.versions[role]
