"""What the agent holds, into the cache and out of it again after a restart (agent.cache.port).

Out of it, before the first door opens: what has not expired is served at once, each caller attested anew against the
entries last held; the stream from the cluster resumes where it was. Into it: a moment after each change; at once, and
durably, where something was taken away. The time floor goes along at least once a minute.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agent.cache.port import LONG_AGO, Cache, Kept, KeptToken
from agent.identity import Node
from agent.jwt import JwtSvids
from agent.store import Store
from agent.sync import Sync
from agent.trusted_time import Authenticated, TrustedTime
from trustfed.runtime import logs

log = logs.get("agent.keeping")

FLOOR_SECONDS = 60.0
_SOON_SECONDS = 0.05


class Keeping:
    """Between the parts that hold something and the cache. `run` ends only when cancelled."""

    def __init__(self, cache: Cache, store: Store, jwt: JwtSvids, sync: Sync, node: Node, time: TrustedTime) -> None:
        self._cache, self._store, self._jwt, self._sync, self._node, self._time = cache, store, jwt, sync, node, time
        self.loaded = False
        """Whether something was found that holds."""
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._flushing: set[asyncio.Task[None]] = set()

    def load(self) -> None:
        """Put what was kept into the empty store; then follow the store. Blocks."""
        # By the floor alone: what has ended by this machine's clock is left out here, and known to be left out.
        kept = self._cache.load(LONG_AGO)
        if kept is not None:
            self._take(kept)
        self._store.on_change(self._soon)
        self._jwt.on_change(self._soon)

    def urgent(self) -> None:
        """Something was taken away: it must not come back, however soon this process ends."""
        task = asyncio.get_running_loop().create_task(self._flush())
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def run(self) -> None:
        """Seal the floor every minute."""
        while True:
            await self._time.sleep(FLOOR_SECONDS)
            self._tell()

    async def close(self) -> None:
        """What is held now is durable when this returns, unless it cannot be written."""
        await self._flush()

    def status(self) -> dict[str, object]:
        """The cache, for `agent status`."""
        return {**self._cache.status(), "loaded": self.loaded}

    def kept(self) -> Kept:
        """All that is worth keeping, of one moment."""
        store, now = self._store, self._time.now()
        return Kept(
            entries=tuple(store.entries.values()),
            svids=dict(store.svids),
            reserves=dict(store.reserves),
            tokens=tuple(KeptToken(*one) for one in self._jwt.live(now)),
            bundles=tuple(store.bundles.values()),
            confirmed=dict(store.fresh.confirmed),
            stale_limits=dict(store.fresh.limits),
            used=dict(store.used),
            banned=store.banned,
            # Before the first sync nothing can be resumed, and what is held may be half a snapshot.
            position=self._sync.status.position if store.synced else 0,
            instance=self._sync.resumable,
            floor=self._time.floor(),
            authenticated=self._time.heard,
            retired=store.retired,
        )

    def _take(self, kept: Kept) -> None:
        node, store = self._node, self._store
        heard = kept.authenticated
        self._time.restore(kept.floor, None if heard is None else Authenticated(*heard))
        now = self._time.now()
        home = next((held for held in kept.bundles if held.bundle.trust_domain == store.trust_domain), None)
        if home is not None and home.key != node.identity.publication_key:
            log.warning("the cache is of the time before this node enrolled anew; nothing of it is used")
            return
        self.loaded = True
        if kept.banned:
            store.ban(kept.banned)
            log.error("this node was banned when it ended; it serves nothing", reason=kept.banned)
            return
        if home is not None:  # identity and cache are written one after the other: the newer one is continued from
            newer = max(node.identity.home, home.envelope, key=lambda envelope: envelope.level)
            node.identity = replace(node.identity, home=newer)
            store.put_bundle(replace(home, envelope=newer))
        for held in kept.bundles:
            if held is home:
                continue
            domain = held.bundle.trust_domain
            store.put_bundle(held, kept.confirmed.get(domain))
            if domain in kept.stale_limits:
                store.fresh.limit(domain, kept.stale_limits[domain])
        store.judge(now)
        store.put_entries(kept.entries)
        store.used.update((id_, at) for id_, at in kept.used.items() if id_ in store.entries)
        store.put_svids({id_: svid for id_, svid in kept.svids.items() if svid.not_after > now})
        store.put_reserves({id_: svid for id_, svid in kept.reserves.items() if svid.not_after > now})
        self._jwt.restore((one.entry_id, one.audience, one.token) for one in kept.tokens if one.token.expires_at > now)
        store.retire(kept.retired)
        store.expire(now)
        if home is not None and kept.position:
            self._sync.resume(kept.position, kept.instance)
            store.mark_synced()
        counts = {"entries": len(store.entries), "svids": len(store.svids), "bundles": len(store.bundles)}
        log.info("taken up from the cache", position=kept.position, **counts)

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._tell)

    def _tell(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        kept = self.kept()  # which may drop tokens, and so ask for another time
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Before the first sync there is nothing to keep; a cache that could not be opened may be of use to a person.
        if self._store.synced or self._store.banned:
            self._cache.changed(kept)

    async def _flush(self) -> None:
        self._tell()
        await self._cache.flush()
