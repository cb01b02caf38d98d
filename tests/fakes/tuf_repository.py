"""A protected publication with real keys over a target in memory, and python-tuf's own client to read it.

made = await TufRepository.make()            # root 1 of 3 offline keys, 2 must sign; the hub's keys in memory
a = await made.domain("td-a")                # a trust domain with its first role
await made.bring()                           # one round of the real publisher's code
await made.publish(a)                        # its next envelope and role
made.reader(folder).envelope("td-a")         # as a reader that pinned root 1 gets it
await made.rotate(...)                       # root n + 1

What attackers forge they sign by `made.sign(role, signed)` or `a.sign_role(...)`, and put by `made.put(name, data)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Signed  # type: ignore[attr-defined]
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from bundle_publisher.targets.port import Document, Stored, Target
from bundle_publisher.tuf import root as roots
from bundle_publisher.tuf.delegated import Listed, Role, assemble, payload_to_sign
from bundle_publisher.tuf.edition import Part, Wanted
from bundle_publisher.tuf.metadata import assemble as assemble_metadata
from bundle_publisher.tuf.metadata import payload_to_sign as metadata_payload
from bundle_publisher.tuf.metadata import tuf_key
from bundle_publisher.tuf.online import OnlineKeys
from bundle_publisher.tuf.repository import Repository
from ca.keys.memory import MemoryKeys
from tests.fakes.clocks import ManualClock
from tests.fakes.targets import MemoryTarget
from tests.unit.hub.newcomer import Newcomer
from trustfed.federation import cluster_document
from trustfed.federation.cluster_document import ClusterDocument
from trustfed.federation.envelope import PublicationKey

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BASE = "http://store.example/"


class Domain:
    """One trust domain: its publication key, and the part it publishes."""

    def __init__(self, newcomer: Newcomer) -> None:
        self.newcomer, self.name, self.key = newcomer, newcomer.trust_domain.name, newcomer.key
        self.version = 0
        self.envelope = b""
        self.https, self.grpc = (f"{self.name}.example:9443",), (f"{self.name}.example:8443",)
        self.attestors: tuple[str, ...] = ("join_token",)
        self.part: Part
        self.mesh: bytes | None = None

    def document(self) -> bytes:
        """Its clusters/NAME."""
        return cluster_document.write(
            ClusterDocument(self.newcomer.trust_domain, self.key, self.https, self.grpc, self.attestors)
        )

    async def sign_role(self, now: datetime, *, version: int | None = None, envelope: bytes | None = None) -> Role:
        """A role over its envelope and document of now; by default the next version."""
        self.version = version if version is not None else max(self.version + 1, int(now.timestamp()))
        given = (self.newcomer.trust_domain, self.version, now, envelope or self.envelope, self.document())
        listed = Listed.of(self.mesh) if self.mesh is not None else None
        (signature,) = await self.newcomer.keys.sign("publication", [payload_to_sign(*given, listed)])
        return assemble(*given, signature, self.key, listed)

    async def publish(self, now: datetime, *, envelope: bool = True) -> Part:
        """The next role, over the next envelope or the same one."""
        if envelope or not self.envelope:
            self.envelope = await self.newcomer.envelope()
        self.part = Part(self.key, await self.sign_role(now), self.envelope, self.document())
        return self.part


class TufRepository:
    """`await TufRepository.make()`."""

    def __init__(self, clock: ManualClock, ttl: timedelta) -> None:
        self.clock, self.ttl = clock, ttl
        self.keys = MemoryKeys()
        self.online = OnlineKeys(self.keys)
        self.offline: list[ec.EllipticCurvePrivateKey] = []
        self.target = MemoryTarget()
        self.wanted = Wanted(())
        self.repository = self.another()

    @classmethod
    async def make(
        cls, *, keys: int = 3, threshold: int = 2, ttl: timedelta = HOUR, now: datetime | None = None
    ) -> TufRepository:
        """Readers judge by the real time, so the clock stands there by default."""
        made = cls(ManualClock((now or datetime.now(UTC)).replace(microsecond=0)), ttl)
        made.offline = [ec.generate_private_key(ec.SECP256R1()) for _ in range(keys)]
        public = [PublicationKey.of(key.public_key()) for key in made.offline]
        root = roots.create(await made.online.newest(), public, threshold, made.clock.now() + 365 * DAY)
        for key in made.offline[:threshold]:
            root = roots.sign(root, key)
        made.install(root)
        return made

    def another(self) -> Repository:
        """Another process with the same keys and the same wishes, which knows nothing of what the first one did."""
        return Repository(lambda: self.wanted, self.keys, OnlineKeys(self.keys), self.clock, self.ttl)

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Every root, version n at index n - 1."""
        return self.wanted.roots

    def install(self, root: bytes) -> None:
        """What the hub does with a root that a ceremony made."""
        roots.check_next(root, self.wanted.roots, self.clock.now())
        self.wanted = replace(self.wanted, roots=(*self.wanted.roots, root))

    async def rotate(
        self, offline: list[ec.EllipticCurvePrivateKey] | None = None, *, online: bool = False, threshold: int = 2
    ) -> bytes:
        """The next root: other offline keys, or other online keys, or only a later end; signed by old and new ones."""
        new = offline or self.offline
        root = roots.renew(
            self.roots[-1],
            self.clock.now() + 365 * DAY,
            online=await self.online.newest(anew=True) if online else None,
            offline=[PublicationKey.of(key.public_key()) for key in new],
            threshold=threshold,
        )
        for key in [*self.offline[:2], *new[:threshold]]:
            root = roots.sign(root, key, previous=self.roots[-1])
        self.install(root)
        self.offline = new
        return root

    async def domain(self, name: str) -> Domain:
        """A trust domain that publishes from now on."""
        made = Domain(await Newcomer.make(name))
        await self.publish(made)
        return made

    async def publish(self, domain: Domain, *, envelope: bool = True) -> None:
        """The domain's next role, as the hub accepts it."""
        part = await domain.publish(self.clock.now(), envelope=envelope)
        self.want({**self.wanted.parts, domain.name: part})

    def want(self, parts: Mapping[str, Part]) -> None:
        """These are the parts of the domains that take part."""
        keys = {**self.wanted.keys, **{name: part.key for name, part in parts.items()}}
        floors = {**self.wanted.floors, **{name: part.role.version for name, part in parts.items()}}
        self.wanted = replace(self.wanted, parts=parts, keys=keys, floors=floors)

    def remove(self, domain: Domain) -> None:
        """The domain was removed from the federation."""
        parts = {name: part for name, part in self.wanted.parts.items() if name != domain.name}
        self.wanted = replace(self.wanted, parts=parts, keys={**self.wanted.keys, domain.name: None})

    async def bring(self, target: Target | None = None) -> None:
        """One round."""
        await self.repository.bring(target or self.target)

    async def sign(self, role: str, signed: Signed) -> bytes:
        """Any metadata, signed by the hub's key of that role ("targets", "snapshot", "timestamp")."""
        key = PublicationKey.of(await self.keys.public_key(f"tuf-{role}"))
        (signature,) = await self.keys.sign(f"tuf-{role}", [metadata_payload(signed)])
        return assemble_metadata(signed, {tuf_key(key).keyid: signature})

    def put(self, name: str, data: bytes) -> None:
        """Whoever can write to the store does."""
        self.target._put(Document(name, data))

    def reader(self, folder: Path, *, root: int = 1, store: Mapping[str, Stored] | None = None) -> Reader:
        """A reader that keeps what it trusts in `folder`, and pinned this version of the root."""
        return Reader(folder, self.roots[root - 1], self.target.held if store is None else store)


class Reader:
    """python-tuf's client; each call is another run of it, which knows what the runs before wrote down."""

    def __init__(self, folder: Path, root: bytes, store: Mapping[str, Stored]) -> None:
        self.folder, self.root = folder, root
        self.fetcher: FetcherInterface = _Store(store)
        for name in ("metadata", "targets"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def read(self, path: str) -> bytes | None:
        """The target at `path`; None when there is none. Raises python-tuf's errors."""
        updater = Updater(
            str(self.folder / "metadata"),
            BASE + "tuf/",
            str(self.folder / "targets"),
            BASE,
            fetcher=self.fetcher,
            bootstrap=self.root,
        )
        found = updater.get_targetinfo(path)
        return Path(updater.download_target(found)).read_bytes() if found else None

    def envelope(self, domain: str) -> bytes | None:
        """envelopes/NAME."""
        return self.read(f"envelopes/{domain}")

    def document(self, domain: str) -> bytes | None:
        """clusters/NAME."""
        return self.read(f"clusters/{domain}")


class _Store(FetcherInterface):
    def __init__(self, held: Mapping[str, Stored]) -> None:
        self._held = held

    def _fetch(self, url: str) -> Iterator[bytes]:
        found = self._held.get(url.removeprefix(BASE))
        if found is None:
            raise DownloadHTTPError(f"{url} is not there", 404)
        return iter([found.data])
