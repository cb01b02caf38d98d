"""The hub's own keys of the protected publication: one each for targets, snapshot and timestamp, in its key store.

They are made when they are first asked for, and named `tuf-ROLE`; each further generation `tuf-ROLE-2` and so on. Which
generation signs is what the newest installed root names, so a key is replaced by a ceremony and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from tuf.api.metadata import Root  # type: ignore[attr-defined]  # it does not say what it exports

from bundle_publisher.tuf.metadata import ONLINE, Signer
from bundle_publisher.tuf.root import online_keys
from trustfed.errors import Conflict, NotFound
from trustfed.federation.envelope import PublicationKey

MAX_GENERATIONS = 64


class KeyMaker(Signer, Protocol):
    """A key store that also makes keys."""

    async def create(self, name: str) -> EllipticCurvePublicKey:
        """Make a P-256 key. Raises Conflict when the name exists."""
        ...


class OnlineKeys:
    """Knows the generations of the three keys."""

    def __init__(self, keys: KeyMaker) -> None:
        self._keys = keys
        self._known: dict[str, PublicationKey] = {}

    async def newest(self, *, anew: bool = False) -> dict[str, PublicationKey]:
        """The newest key of each role, made when there is none; `anew` makes the next generation of all three."""
        found = {}
        for role in ONLINE:
            held = await self._generations(role)
            if not held or anew:
                if len(held) >= MAX_GENERATIONS:
                    raise Conflict(f"there are {len(held)} keys for {role}, and no more are made")
                name = _name(role, len(held) + 1)
                held[name] = PublicationKey.of(await self._keys.create(name))
            found[role] = list(held.values())[-1]
        return found

    async def names(self, root: Root) -> Mapping[str, str]:
        """The key store's name of each key that `root` names. Conflict when one of them is not held here."""
        named, found = online_keys(root), {}
        for role in ONLINE:
            held = await self._generations(role)
            name = next((name for name, key in held.items() if key == named[role]), None)
            if name is None:
                raise Conflict(
                    f"root version {root.version} names a key for {role} that this hub does not hold",
                    hint="make a root with the keys that `trustfed publication keys` gives here",
                )
            found[role] = name
        return found

    async def _generations(self, role: str) -> dict[str, PublicationKey]:
        found: dict[str, PublicationKey] = {}
        for number in range(1, MAX_GENERATIONS + 1):
            name = _name(role, number)
            if name not in self._known:
                try:
                    self._known[name] = PublicationKey.of(await self._keys.public_key(name))
                except NotFound:
                    break
            found[name] = self._known[name]
        return found


def _name(role: str, generation: int) -> str:
    return f"tuf-{role}" if generation == 1 else f"tuf-{role}-{generation}"
