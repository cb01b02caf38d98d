"""The port of what lets an agent restart with everything unreachable, and the driver that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from agent.jwt import Token
from agent.matching import Entry
from agent.store import HeldBundle, Svid
from trustfed.spiffe.ids import TrustDomain

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class KeptToken:
    """One JWT-SVID and for which entry and audience it was asked."""

    entry_id: str
    audience: tuple[str, ...]
    token: Token


@dataclass(frozen=True, slots=True)
class Kept:
    """What an agent held at one moment. Whoever makes one never changes its mappings afterwards: a thread reads them.

    `svids`, `reserves` and `used` are by entry id. Times are UTC. The order of entries, tokens and bundles is not kept.
    """

    entries: tuple[Entry, ...] = ()
    svids: Mapping[str, Svid] = field(default_factory=dict)
    reserves: Mapping[str, Svid] = field(default_factory=dict)
    tokens: tuple[KeptToken, ...] = ()
    bundles: tuple[HeldBundle, ...] = ()
    confirmed: Mapping[TrustDomain, datetime] = field(default_factory=dict)  # the last signed confirmation
    stale_limits: Mapping[TrustDomain, timedelta] = field(default_factory=dict)
    used: Mapping[str, datetime] = field(default_factory=dict)  # the last use: what is fetched first
    banned: str = ""  # why this node may not serve
    position: int = 0  # of the cluster's journal; of the same turn of the loop as all else
    instance: str = ""  # whose position it is
    floor: datetime = LONG_AGO  # it is not earlier than this, whatever the wall clock says
    authenticated: tuple[datetime, float, str] | None = None  # time of the cluster, boot-time seconds, boot id
    retired: tuple[str, ...] = ()  # authorities whose SVIDs were ordered to be replaced


class Cache(Protocol):
    """Keeps what an agent holds (entries, SVIDs with their keys, bundles) across its restarts, sealed to this node.

    Whoever reads the kept form learns and changes nothing of use; what was altered, or is older than this node has
    seen, is not loaded.
    """

    def load(self, now: datetime) -> Kept | None:
        """What was kept, without what has expired at `now` or at the floor kept; None if there is nothing that holds.

        Blocks; called once, before the first door opens. Why something was refused is logged, and in `status`.
        """
        ...

    def changed(self, kept: Kept) -> None:
        """The agent holds this now: keep it soon. Called at most once per turn of the loop; never waits."""
        ...

    async def flush(self) -> None:
        """All that was said by now is durable, or one try to make it so has failed: then `status` says why."""
        ...

    def status(self) -> dict[str, object]:
        """`enabled`, `generation`, `written_at` (RFC 3339 or None), `behind`, `records`, `bytes`, `error`, `refused`.

        `behind`: something that was said is not durable yet. `error` says why the last try to write failed, "" after one
        that did not. `refused` says why what was found at `load` is not used, as "reason: sentence", or is "".
        """
        ...


class NoCache:
    """Keeps nothing: after a restart the agent serves again once its cluster has answered."""

    def load(self, now: datetime) -> Kept | None:
        """Nothing was kept."""
        return None

    def changed(self, kept: Kept) -> None:
        """Nothing is kept."""

    async def flush(self) -> None:
        """Nothing is to be written."""

    def status(self) -> dict[str, object]:
        """That nothing is kept."""
        return {
            "enabled": False,
            "generation": 0,
            "written_at": None,
            "behind": False,
            "records": 0,
            "bytes": 0,
            "error": "",
            "refused": "",
        }
