"""The figures of a life apart: an agent that restarts with nobody there, calls while all else is away, a herd that comes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.sync import LONGEST_WAIT
from bench.figures import REPEATS, Run
from bench.load import Sample
from bench.procs import BenchError
from bench.product import Product
from bench.trustfed import Trustfed

ALONE_LIMIT = 45.0
"""An agent that has not served by then never does: SPIRE's ends by itself after 39 s."""
CALLERS = 10
LOADS = {"x509": f"connected workloads, {CALLERS} callers", "conn": f"new workloads, {CALLERS} callers"}
HERD = 200
HERD_ROUNDS = 3


def restart(run: Run) -> None:
    """Start of an agent with everything else stopped → first SVID."""
    name = "agent start with everything else away → first SVID"
    for product in run.products:
        try:
            with product.alone():
                for _ in range(REPEATS):
                    seconds = product.restart_agent(ALONE_LIMIT)
                    run.report.add(product.name, "apart", name, "s", seconds)
                    run.progress(f"{name}: {product.name} {seconds:.3f} s")
        except BenchError as error:
            run.failed(product, name, str(error))


def partition(run: Run) -> None:
    """Workload API calls while every server is away, as a share of those before and after; and how many failed."""
    for product in run.products:
        for mode, title in LOADS.items():
            for _ in range(run.rounds):
                try:
                    _part(run, product, mode, f"partition: {title}")
                except BenchError as error:
                    run.failed(product, f"partition: {title}", str(error))
                    break


def _part(run: Run, product: Product, mode: str, name: str) -> None:
    def load() -> Sample:
        return run.client.workload(product.socket, mode, CALLERS, run.seconds)

    before = load()
    with product.alone():
        during = load()
    after = load()
    share = 200 * during.per_second / max(before.per_second + after.per_second, 1.0)
    run.report.add(product.name, "apart", name, "%", share, more=True)
    run.report.add(product.name, "apart", name, "failed calls", during.errors)
    run.progress(f"{name}: {product.name} {share:.1f} %, {during.errors} of {during.per_second:,.0f}/s failed")
    if during.errors:
        run.failed(product, name, f"{during.errors} calls failed, the last with: {during.last_error}")


def herd(run: Run) -> None:
    """200 agents that lost their cluster → the last one is current; what somebody else's requests take meanwhile."""
    for product in run.products:
        if not isinstance(product, Trustfed):
            continue  # the client speaks trustfed's protocol
        run.progress(f"enrolling {HERD} nodes")
        try:
            folders = product.enrol_herd(HERD)
            for spread, how in ((LONGEST_WAIT, f"each within {LONGEST_WAIT:.0f} s as agents do"), (0.0, "all at once")):
                _herd(run, product, folders, spread, f"{HERD} agents back, {how} → all current, 10 SVIDs each")
        except BenchError as error:
            run.failed(product, f"{HERD} agents back", str(error))


def _herd(run: Run, product: Trustfed, folders: Sequence[Path], spread: float, name: str) -> None:
    for _ in range(HERD_ROUNDS):
        taken = product.herd(folders, spread)
        run.report.add(product.name, "apart", name, "s", taken.slowest)
        run.report.add(product.name, "apart", name, "others' p99 ms", taken.others_p99_ms)
        run.progress(
            f"{name}: {taken.slowest:.2f} s (half of them {taken.median:.2f} s), {taken.snapshots} snapshots,"
            f" {taken.others} requests of others, p99 {taken.others_p99_ms:.0f} ms"
        )
