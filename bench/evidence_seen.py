"""From a workload's SVID to the number on an open dashboard: real hub, cluster and agent processes, a page that is told.

A new entry's SVID is delivered to a workload on its open stream; the agent says so to its cluster, the cluster to the hub, the
hub to the page (a server-sent event), and the page is fetched again, until it counts one identity more.
"""

from __future__ import annotations

import time

from bench.figures import Run
from bench.trustfed import Trustfed
from bench.web_page import Page

GROUP = "evidence"
TIMES, LIMIT = 10, 30.0
SETTLE_SECONDS = 3.0


def take(run: Run, product: Trustfed) -> None:
    """Add how long each of some deliveries took to the page."""
    link = product.hub("POST", "/logins", {"name": GROUP, "role": "viewer", "ttl": "10m"})["url"]
    with Page(link) as page, run.client.watch(product.socket) as workload:
        page.follow()
        workload.until(lambda answer: bool(answer.ids), "the first SVID", LIMIT)
        time.sleep(SETTLE_SECONDS)
        for _ in range(TIMES):
            before = page.count
            spiffe_id = product.create_entry(f"/bench/seen-{time.time_ns()}")
            answer = workload.until(lambda answer, new=spiffe_id: new in answer.ids, "a new entry", LIMIT)  # type: ignore[misc]
            seen = page.until(before + 1, LIMIT)
            run.own(
                GROUP,
                "an SVID at the workload → the number on the hub's open dashboard",
                "s",
                (seen - answer.unix_ns) / 1e9,
            )
            time.sleep(0.7)  # not in step with anything's pace
