"""A cluster whose hub was away while its authority changed finds its way back by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.system.stack import Stack, until


def test_an_authority_that_changed_without_the_hub_is_certified_and_believed_when_it_is_back(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        cluster = stack.cluster("prod-west")
        until(lambda: cluster.admin.get("/status")["hub"]["connected"], "the stream to the hub")
        stack.hub.kill()
        cluster.admin.post("/authorities/prepare", {"kind": "x509", "reason": "the hub is away", "break_glass": True})

        def prepared() -> str:
            held = cluster.admin.get("/authorities")["authorities"]
            found = [a for a in held if a["kind"] == "x509" and a["status"] == "prepared"]
            return str(found[0]["id"]) if found else ""

        until(lambda: bool(prepared()), "the successor")
        successor = prepared()
        # Nobody waits for the root: the operator decides, as the last safe moment would.
        cluster.admin.post(f"/authorities/{successor}/activate", {"reason": "cannot wait", "break_glass": True})
        stack.hub.start()

        def certified_and_connected() -> bool:
            mine = next(a for a in cluster.admin.get("/authorities")["authorities"] if a["id"] == successor)
            return bool(mine["certified"] and cluster.admin.get("/status")["hub"]["connected"])

        until(certified_and_connected, "the intermediate and the stream")
        held = stack.hub_admin.get("/domains/prod-west")
        assert held["level"]["sequence"] == cluster.admin.get("/status")["level"]["sequence"]


def test_while_the_hub_is_away_a_cluster_does_all_its_work_and_hears_of_its_peers(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        west, east = (stack.cluster(name, refresh_hint="8s") for name in ("prod-west", "prod-east"))
        stack.grant("prod-west", "prod-east")

        def bundle_of_east() -> Any:
            found = [b for b in west.admin.get("/bundles")["bundles"] if b["trust_domain"] == "prod-east"]
            return found[0] if found else {}

        until(lambda: bundle_of_east().get("confirmed_at"), "a confirmation through the hub")
        stack.hub.kill()
        until(lambda: not west.admin.get("/status")["hub"]["connected"], "the end of the stream")
        east.admin.post("/authorities/prepare", {"kind": "jwt", "reason": "the hub is away", "break_glass": True})
        until(lambda: east.admin.get("/status")["level"]["sequence"] > 1, "the new bundle")
        newest, before = east.admin.get("/status")["level"], bundle_of_east()["confirmed_at"]
        until(lambda: bundle_of_east()["level"] == newest, "the bundle from the peer's own endpoint")
        until(lambda: bundle_of_east()["confirmed_at"] > before, "its confirmation")
        west.process.kill()
        west.process.start()
        assert bundle_of_east()["level"] == newest
        agent = west.agent("late")
        west.entry("/ns/web/sa/api", id="web", parent="node/late", selectors=("unix:uid:0",))
        agent.wait_for("web")
        apart = west.admin.get("/status")["without_hub"]
        assert apart["needed_by"] and apart["needed_in_seconds"] > 24 * 3600 and apart["alarm"] is None
        assert apart["closed"] == []
        stack.hub.start()
        until(lambda: west.admin.get("/status")["hub"]["connected"], "the stream to the hub")
