"""The hub's side of the protected publication: its round at the publisher, its online keys, and how it stands.

What needs python-tuf is imported when the first root is there or is asked for: a hub without one does without it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from bundle_publisher.targets.port import Target
from bundle_publisher.tuf.delegated import Role, open_role
from ca.keys.port import KeyStore
from trustfed.federation.envelope import PublicationKey
from trustfed.hub import events as e
from trustfed.hub import protected
from trustfed.hub.manifest_files import ManifestFiles
from trustfed.hub.state import HubState
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import from_ms
from trustfed.spiffe.ids import TrustDomain

if TYPE_CHECKING:
    from bundle_publisher.tuf.edition import Part, Wanted
    from bundle_publisher.tuf.online import OnlineKeys
    from bundle_publisher.tuf.repository import Repository

ROUND = "tuf"
SOON = timedelta(days=30)
MAX_SHOWN = 100


class Protection:
    """A round (bundle_publisher.publish.Round) that does nothing until a root is installed."""

    name = ROUND

    def __init__(
        self,
        state: Callable[[], HubState],
        keys: KeyStore,
        clock: Clock,
        ttl: timedelta,
        begin: Callable[[], None] = lambda: None,
        manifest_files: ManifestFiles | None = None,
    ) -> None:
        """`ttl` is the life of a timestamp; `begin` asks the publisher for a round."""
        self._manifests = manifest_files
        self._state, self._keys, self._clock, self._ttl, self._begin = state, keys, clock, ttl, begin
        self._online: OnlineKeys | None = None
        self._repository: Repository | None = None
        self._parts: dict[str, tuple[bytes, Part]] = {}
        self._last: tuple[object, object, object, Wanted] | None = None
        self.refused: dict[str, str] = {}
        """Why a domain's newest role was not taken."""

    async def bring(self, target: Target) -> None:
        """See Round."""
        if self._state().tuf_roots:
            await (await self._opened()).bring(target)

    def due(self, now: datetime) -> datetime | None:
        """See Round."""
        return self._repository.due(now) if self._repository else None

    def on_event(self, event: msgspec.Struct) -> None:
        """Follow one event."""
        match event:
            case e.RolePublished():
                self.refused.pop(event.domain, None)
            case e.DomainRemoved():
                self.refused.pop(event.name, None)
            case e.TufRootInstalled():
                pass
            case _:
                return
        if self._state().tuf_roots:
            self._begin()

    def refuse(self, domain: str, why: str) -> None:
        """Keep why a domain's role was not taken, for the status."""
        self.refused[domain] = why

    async def online_keys(self, *, anew: bool = False) -> dict[str, PublicationKey]:
        """The hub's newest online keys, made if there are none; `anew` makes other ones, for the next root to name."""
        return await (await self._held_keys()).newest(anew=anew)

    async def check_root(self, document: bytes, now: datetime) -> tuple[int, datetime]:
        """(version, expiry) of a root that follows the newest one, and whose online keys this hub holds.

        Raises Invalid, Denied or Conflict.
        """
        keys = await self._held_keys()
        roots = await _module("bundle_publisher.tuf.root")
        chain = [held.document for held in self._state().tuf_roots]
        if chain and chain[-1] == document:
            chain.pop()
        found = (await asyncio.to_thread(roots.check_next, document, chain, now)).signed
        await keys.names(found)
        return found.version, found.expires

    def status(self) -> dict[str, Any]:
        """How it stands, and which command comes next, if one must."""
        state, now = self._state(), self._clock.now()
        root = state.tuf_roots[-1] if state.tuf_roots else None
        edition = self._repository.edition if self._repository else None
        return {
            "root_version": len(state.tuf_roots),
            "root_expires": from_ms(root.expires_ms).isoformat() if root else None,
            "timestamp_expires": edition.top.timestamp.signed.expires.isoformat() if edition else None,
            "domains": sum(1 for role in state.roles.values() if role.metadata),
            "domains_without_role": protected.without_role(state)[:MAX_SHOWN],
            "refused": dict(list(self.refused.items())[:MAX_SHOWN]),
            "next": _next(root.expires_ms if root else None, now),
        }

    def root_end(self) -> float:
        """When the newest root expires, in Unix seconds; 0 without one."""
        held = self._state().tuf_roots
        return held[-1].expires_ms / 1000 if held else 0.0

    def timestamp_end(self) -> float:
        """When the newest timestamp expires, in Unix seconds; 0 before the first."""
        edition = self._repository.edition if self._repository else None
        return edition.top.timestamp.signed.expires.timestamp() if edition else 0.0

    def _wanted(self) -> Wanted:
        """What is to be published, as the journal says now."""
        from bundle_publisher.tuf.edition import Part, Wanted  # noqa: PLC0415 - see above

        state = self._state()
        about = (state.domains, state.roles, state.tuf_roots)
        if self._last is not None and all(one is other for one, other in zip(about, self._last, strict=False)):
            return self._last[3]
        keys, parts = protected.known_keys(state), {}
        for name, role in state.roles.items():
            key = keys.get(name)
            if not role.metadata or key is None:
                continue
            known = self._parts.get(name)
            if known is None or known[0] is not role.metadata:
                opened = open_role(role.metadata, TrustDomain(name), key)
                part = Part(key, opened, role.envelope, role.cluster_document, self._reading(opened))
                known = self._parts[name] = (role.metadata, part)
            parts[name] = known[1]
        self._parts = {name: known for name, known in self._parts.items() if name in parts}
        floors = {name: role.version for name, role in state.roles.items()}
        wanted = Wanted(tuple(held.document for held in state.tuf_roots), parts, keys, floors)
        self._last = (*about, wanted)
        return wanted

    def _reading(self, role: Role) -> Callable[[], bytes | None]:
        files, listed = self._manifests, role.mesh
        return lambda: files.read(listed.sha256) if files is not None and listed is not None else None

    async def _held_keys(self) -> OnlineKeys:
        if self._online is None:
            online = await _module("bundle_publisher.tuf.online")
            self._online = self._online or online.OnlineKeys(self._keys)
        return self._online

    async def _opened(self) -> Repository:
        if self._repository is None:
            keys, module = await self._held_keys(), await _module("bundle_publisher.tuf.repository")
            if self._repository is None:
                self._repository = module.Repository(self._wanted, self._keys, keys, self._clock, self._ttl)
        assert self._repository is not None
        return self._repository


async def _module(name: str) -> Any:
    return await asyncio.to_thread(importlib.import_module, name)


def _next(expires_ms: int | None, now: datetime) -> str | None:
    if expires_ms is None:
        return "trustfed publication keys --write online.json, then trustfed publication root create"
    left = from_ms(expires_ms) - now
    if left < SOON:
        return "trustfed publication root rotate: the root " + ("has expired" if left < timedelta() else "ends soon")
    return None
