"""Evidence: facts recorded with their Merkle log, a report over millions, packs, the dashboard, and what it all costs issuance.

In this process, on a real disk, with the production drivers, but for the dashboard's pages (bench.evidence_fleet) and the way
of a fact to them (the installation of bench.trustfed). Sizes are those of the plan: 10 million obligations, a pack of a
million entries, 500 clusters.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import evidence_intake, evidence_issuance, evidence_log, evidence_pages, evidence_seen
from bench.figures import Run
from bench.procs import BenchError
from bench.trustfed import Trustfed
from tests.fakes.evidence_facts import START
from tests.fakes.evidence_house import EvidenceHouse
from trustfed.errors import TrustfedError
from trustfed.evidence import tables
from trustfed.evidence.changes import Changes
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.figures import Window
from trustfed.evidence.model import BUCKET_MS, COUNTS, Class, Level, Outcome
from trustfed.evidence.pack_export import Scope, export
from trustfed.evidence.pack_verify import Outcome as Verified
from trustfed.evidence.pack_verify import verify
from trustfed.evidence.pending import Pending
from trustfed.evidence.store import EvidenceStore
from trustfed.evidence.trust import Trust
from trustfed.journal.events import Fact
from trustfed.journal.memory import MemoryLedger
from trustfed.journal.sqlite import open_store
from trustfed.runtime.clock import SystemClock

GROUP = "evidence"
FACTS, BATCH = 200_000, 500
OBLIGATIONS, FAILED = 10_000_000, 10_000
ENTRIES = 1_000_000
STEP_MS = 900
"""Between two facts: a thousand identities, each renewed at half of its hour."""
_DAY_MS = 86_400_000


def take(run: Run) -> None:
    """Every figure of evidence; one that fails does not hide the others."""
    installed = [product for product in run.products if isinstance(product, Trustfed)]
    if not installed:
        return
    for name, measure in (
        ("facts recorded", _ingest),
        ("reports of agents", evidence_intake.take),
        ("an append in a long log", lambda run, folder: evidence_log.take(run, folder, fact)),
        ("what evidence adds to issuance", lambda run, folder: evidence_issuance.take(run, folder, installed[0])),
        ("a report over 10 million obligations", _report),
        ("a pack of a million entries", _pack),
    ):
        with _noted(run, name), tempfile.TemporaryDirectory(prefix="tf-evidence-") as directory:
            asyncio.run(measure(run, Path(directory)))
    with _noted(run, "the dashboard's first page"):
        evidence_pages.take(run)
    with _noted(run, "a fact on the dashboard"):
        evidence_seen.take(run, installed[0])


@contextlib.contextmanager
def _noted(run: Run, name: str) -> Iterator[None]:
    try:
        yield
    except (BenchError, TrustfedError, AssertionError, OSError) as error:
        run.report.failures.append(f"trustfed: {name}: {error}")
        run.progress(f"FAILED {name}: {error}")


def fact(number: int, at: int) -> Fact:
    """One delivery or issue, as large as real ones are."""
    serial, node = f"{number // 2:032x}", f"node-{number // 2 % 50}"
    entry = f"entry-{number // 2 % 1_000}"
    common = {"serial": serial, "node": node, "entry": entry, "instance": f"{node}/{entry}", "slot": "x509"}
    if number % 2:
        said = {"epoch": "ab" * 16, "sequence": number, "at": at, "door": "workload_api"}
        return Fact(at, "agent.delivered", serial, {**common, **said})
    issued = {
        "spiffe_id": f"spiffe://prod-us-west/ns/default/sa/service-{number // 2 % 1_000}",
        "authority": "0f1e2d3c4b5a",
        "profile": "x509-svid",
        "chain": "leaf",
        "dns_names": [],
        "not_before": at // 1000 - 10,
        "not_after": at // 1000 + 3_600,
        "ttl": 3_600,
        "key_id": "ab" * 20,
        "key_algorithm": "ec-p256",
        "tbs_sha256": "cd" * 32,
        "predecessor": f"{number // 2 - 1_000:032x}" if number >= 2_000 else "",
        "command_id": "c" * 32,
    }
    return Fact(at, "x509.issued", serial, {**common, **issued})


async def _ingest(run: Run, folder: Path) -> None:
    store = open_store(folder / "store")
    try:
        batches = [[fact(start + n, START + start + n) for n in range(BATCH)] for start in range(0, FACTS, BATCH)]
        begun = time.perf_counter()
        # Two callers, so that one's encoding and the other's sync share the time.
        for start in range(0, len(batches), 2):
            await asyncio.gather(*(store.ledger.append(batch) for batch in batches[start : start + 2]))
        recorded = time.perf_counter() - begun
        await store.facts_log.integrated(FACTS)
        whole = time.perf_counter() - begun
    finally:
        await store.close()
    run.own(GROUP, "facts recorded, durably", "facts/s", FACTS / recorded, more=True)
    run.own(GROUP, "facts recorded, until all are in the Merkle log", "facts/s", FACTS / whole, more=True)


async def _report(run: Run, folder: Path) -> None:
    ledger = MemoryLedger()
    now = int(time.time() * 1000)
    begin = (now // _DAY_MS - 30) * _DAY_MS  # old buckets are joined to days
    await (await EvidenceStore.open(folder, ledger, "prod-us-west", SystemClock())).close()
    with contextlib.closing(sqlite3.connect(folder / "evidence.db")) as connection, connection:
        _fill(connection, begin)
    store = await EvidenceStore.open(folder, ledger, "prod-us-west", SystemClock())
    try:
        await store.follow()
        begun = time.perf_counter()
        found = await store.figures(Window(begin, begin + 30 * _DAY_MS))
        seconds = time.perf_counter() - begun
        assert found.classes["leaf"].counts["due"] == OBLIGATIONS, found.classes["leaf"].counts
    finally:
        await store.close()
    run.own(GROUP, "figures of 30 days, 10,000,000 obligations", "s", seconds)


def _fill(connection: sqlite3.Connection, begin: int) -> None:
    """What folding ten million rotations leaves: counters by bucket, and the failures one by one."""
    buckets = 30 * 24 * 12
    place = {name: at for at, name in enumerate(COUNTS)}
    counters: dict[tuple[Class, int], list[int]] = {}
    for number in range(buckets):
        row = [0] * len(COUNTS)
        due = OBLIGATIONS // buckets + (1 if number < OBLIGATIONS % buckets else 0)
        late = 1 if number % (buckets // FAILED + 1) == 0 else 0
        for name, count in (("due", due), ("on_time", due - late), ("late", late), ("issued", due), ("tries", due)):
            row[place[name]] = count
        counters[Class.LEAF, begin + number * BUCKET_MS] = row
    failed = [_failed(number, begin + number * (30 * _DAY_MS // FAILED)) for number in range(FAILED)]
    tables.apply(connection, Changes(obligations=failed, counters=counters), [], set())


def _failed(number: int, at: int) -> Pending:
    return Pending(
        id=f"{number:032x}",
        class_=Class.LEAF,
        spiffe_id="spiffe://prod-us-west/web",
        instance=f"node-1/entry-{number}",
        slot="x509",
        node="node-1",
        entry=f"entry-{number}",
        predecessor=f"{number:032x}",
        opened_ms=at,
        due_ms=at,
        on_time_ms=at,
        hard_ms=at + 900_000,
        level=Level.DELIVERED,
        outcome=Outcome.LATE,
        settled=True,
    )


async def _pack(run: Run, folder: Path) -> None:
    house = await EvidenceHouse.open(folder / "store")
    try:
        facts = (fact(number, START + number * STEP_MS) for number in range(ENTRIES))
        while batch := [one for _, one in zip(range(50_000), facts, strict=False)]:
            await house.live(batch, every=1_000)
        end = START + ENTRIES * STEP_MS
        scope = Scope(START // BUCKET_MS * BUCKET_MS, end // BUCKET_MS * BUCKET_MS, _DAY_MS)
        begun = time.perf_counter()
        await export(house, scope, DEFINITION, folder / "bench.pack", now_ms=end)
        exported = time.perf_counter() - begun
        trust = Trust(log_keys=(house.vkey,))
    finally:
        await house.close()
    begun = time.perf_counter()
    verdict = await asyncio.to_thread(verify, folder / "bench.pack", trust)
    seconds = time.perf_counter() - begun
    assert verdict.outcome is Verified.VERIFIED, verdict.faults
    size = (folder / "bench.pack").stat().st_size
    run.own(GROUP, "a pack of 1,000,000 entries: made", "s", exported)
    run.own(GROUP, "a pack of 1,000,000 entries: verified, figures computed anew", "s", seconds)
    run.own(GROUP, "a pack of 1,000,000 entries: size", "MB", size / 1e6)
