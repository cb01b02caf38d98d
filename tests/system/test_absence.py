"""A cluster whose hub was away while its authority changed finds its way back by itself."""

from __future__ import annotations

from pathlib import Path

from tests.system.stack import Stack, until


def test_an_authority_that_changed_without_the_hub_is_certified_and_believed_when_it_is_back(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        cluster = stack.cluster("prod-west")
        until(lambda: cluster.admin.get("/status")["hub"]["connected"], "the stream to the hub")
        stack.hub.kill()
        cluster.admin.post("/authorities/prepare", {"kind": "x509", "reason": "the hub is away"})

        def prepared() -> str:
            held = cluster.admin.get("/authorities")["authorities"]
            found = [a for a in held if a["kind"] == "x509" and a["status"] == "prepared"]
            return str(found[0]["id"]) if found else ""

        until(lambda: bool(prepared()), "the successor")
        successor = prepared()
        # Nobody waits for the root: the operator decides, as the last safe moment would.
        cluster.admin.post(f"/authorities/{successor}/activate", {"reason": "cannot wait"})
        stack.hub.start()

        def certified_and_connected() -> bool:
            mine = next(a for a in cluster.admin.get("/authorities")["authorities"] if a["id"] == successor)
            return bool(mine["certified"] and cluster.admin.get("/status")["hub"]["connected"])

        until(certified_and_connected, "the intermediate and the stream")
        held = stack.hub_admin.get("/domains/prod-west")
        assert held["level"]["sequence"] == cluster.admin.get("/status")["level"]["sequence"]
