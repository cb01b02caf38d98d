"""Gauges that are read when somebody asks: how much is held, and how the node stands."""

from __future__ import annotations

from agent.admin import Admin


def measure(admin: Admin) -> None:
    """Register them; each reads the parts that `admin` shows."""
    registry, store = admin.registry, admin.store

    def offline() -> float:
        since = admin.sync.status.offline_since
        return 0.0 if since is None else max((admin.clock.now() - since).total_seconds(), 0.0)

    def ahead() -> float:
        return (admin.clock.now() - admin.clock.wall()).total_seconds()

    registry.gauge("agent_entries", "registration entries held").read(lambda: len(store.entries))
    registry.gauge("agent_x509_svids", "X509-SVIDs served").read(lambda: len(store.svids))
    registry.gauge("agent_jwt_svids", "JWT-SVIDs cached").read(lambda: len(admin.jwt))
    registry.gauge("agent_bundles", "bundles held").read(lambda: len(store.bundles))
    registry.gauge("agent_connections", "open Workload API connections").read(lambda: admin.server.connections)
    registry.gauge("agent_streams", "open Workload API streams").read(admin.streams.__len__)
    registry.gauge("agent_ready", "1 while every entry can be served").read(lambda: float(not admin.unready()))
    registry.gauge("agent_svid_not_after_seconds", "end of the node's own SVID, Unix seconds").read(admin.node_svid_end)
    registry.gauge("agent_offline_seconds", "since the stream from the cluster ended; 0 while it is up").read(offline)
    registry.gauge("agent_time_ahead_seconds", "how far the time that counts is ahead of the wall clock").read(ahead)
