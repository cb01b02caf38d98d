"""The figures, each taken from every product in turn within one run."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.load import Answer, LoadClient, Sample
from bench.procs import BenchError, anonymous, descendants, proportional, resident
from bench.product import HOME, PEER, Product

BATCHES = (1, 50, 500)
ISSUERS = 4
CALLERS = (1, 10, 50)
MODES = {"x509": "FetchX509SVID", "jwt": "FetchJWTSVID", "conn": "new connection + FetchX509SVID"}
REPEATS = 10  # of the figures that take one sample each
REPEAT_SECONDS = 30.0  # no further sample of a product after that long
LATEST = 120.0  # seconds: what has not arrived by then is a failure
SETTLE_SECONDS = 8.0  # before "idle": longer than one synchronisation of SPIRE's agent (5 s)


@dataclass
class Figure:
    """One row. `samples` per product in the order they were taken; the row shows their median."""

    group: str
    name: str
    unit: str
    more_is_better: bool
    samples: dict[str, list[float]] = field(default_factory=dict)

    def value(self, product: str) -> float | None:
        """The median of this product's samples; None without any."""
        return statistics.median(self.samples[product]) if self.samples.get(product) else None

    def ratio(self, ours: str, theirs: str) -> float | None:
        """How many times better `ours` is: above 1 is better, whichever way the unit points."""
        one, two = self.value(ours), self.value(theirs)
        if not one or not two:
            return None
        return one / two if self.more_is_better else two / one


@dataclass
class Report:
    """Figures in the order they were first taken, and what could not be taken."""

    machine: dict[str, object]
    versions: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, product: str, group: str, name: str, unit: str, value: float, *, more: bool = False) -> None:
        for figure in self.figures:
            if (figure.group, figure.name, figure.unit) == (group, name, unit):
                break
        else:
            figure = Figure(group, name, unit, more)
            self.figures.append(figure)
        figure.samples.setdefault(product, []).append(value)


class Run:
    """Takes figures from running products, alternating between them, and says on standard error what it does."""

    def __init__(
        self, products: Sequence[Product], client: LoadClient, report: Report, seconds: float, rounds: int
    ) -> None:
        self.products, self.client, self.report = list(products), client, report
        self.seconds, self.rounds = seconds, rounds
        self._begun = time.monotonic()

    def own(self, group: str, name: str, unit: str, value: float, *, more: bool = False) -> None:
        """A figure that is taken of trustfed alone."""
        self.report.add("trustfed", group, name, unit, value, more=more)
        self.progress(f"{name}: {value:,.2f} {unit}")

    def progress(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begun:5.0f} s] {text}", file=sys.stderr, flush=True)

    def issuance(self) -> None:
        """X509-SVIDs per second, asked for over 4 connections at once, by 1, 50 and 500."""
        for size in BATCHES:
            name = f"X509-SVIDs by {size}, {ISSUERS} callers"
            for product in self._turns(self.rounds):
                taken = self._sample(product, name, partial(product.issue, size, ISSUERS, self.seconds))
                if taken:
                    self.report.add(product.name, "issuance", name, "SVIDs/s", taken.per_second, more=True)

    def workload(self) -> None:
        """Workload API calls per second with p50 and p99."""
        for mode, title in MODES.items():
            for callers in CALLERS:
                name = f"{title}, {callers} caller{'s' if callers > 1 else ''}"
                for product in self._turns(self.rounds):
                    call = partial(self.client.workload, product.socket, mode, callers, self.seconds)
                    taken = self._sample(product, name, call)
                    if taken:
                        self.report.add(product.name, "workload", name, "calls/s", taken.per_second, more=True)
                        self.report.add(product.name, "workload", name, "p50 ms", taken.p50_ms)
                        self.report.add(product.name, "workload", name, "p99 ms", taken.p99_ms)

    def memory(self, when: str) -> None:
        """Resident memory of each process; of one with children the whole tree, shared pages counted once."""
        for product in self.products:
            for role, pid in product.processes().items():
                tree = [pid, *descendants(pid)]
                megabytes = resident(pid) if len(tree) == 1 else proportional(tree)
                self.report.add(product.name, "memory", f"{role}, {when}", "MB", megabytes)
                self.report.add(product.name, "memory", f"{role}, {when}", "anonymous MB", anonymous(tree))

    def settle(self) -> None:
        self.progress(f"idle for {SETTLE_SECONDS:.0f} s")
        time.sleep(SETTLE_SECONDS)

    def started(self, product: Product, seconds: float) -> None:
        self.report.add(product.name, "start", "agent start, with a join token → first SVID", "s", seconds)

    def start(self) -> None:
        """Start of an agent that has joined before → first SVID."""
        self._repeat("start", "agent start, joined before → first SVID", lambda product: product.restart_agent())

    def entry(self) -> None:
        """A new entry → a workload's open stream has its SVID."""

        def take(product: Product) -> float:
            with self.client.watch(product.socket) as watch:
                watch.until(lambda answer: bool(answer.ids), "the first SVID", LATEST)
                begun = time.time_ns()
                spiffe_id = product.create_entry(f"/bench/new-{begun}")
                answer = watch.until(lambda answer: spiffe_id in answer.ids, "a new entry", LATEST)
                return (answer.unix_ns - begun) / 1e9

        self._repeat("propagation", "new entry → SVID at the workload", take)

    def authority(self) -> None:
        """A new authority in the peer domain → the home domain's workload has that bundle."""

        def bundle(answer: Answer) -> str | None:
            return {name.removeprefix("spiffe://"): value for name, value in answer.bundles.items()}.get(PEER)

        def take(product: Product) -> float:
            with self.client.watch(product.socket) as watch:
                before = bundle(watch.until(lambda answer: bundle(answer) is not None, f"the bundle of {PEER}", LATEST))
                begun = product.prepare_authority()
                answer = watch.until(lambda answer: bundle(answer) != before, f"a new authority at {HOME}", LATEST)
                return (answer.unix_ns - begun) / 1e9

        self._repeat("propagation", "new authority → peer domain's workload has the bundle", take)

    def _repeat(self, group: str, name: str, take: Callable[[Product], float]) -> None:
        used = {product.name: 0.0 for product in self.products}
        for product in self._turns(REPEATS):
            if used[product.name] >= REPEAT_SECONDS:
                continue
            begun = time.monotonic()
            try:
                seconds = take(product)
                self.report.add(product.name, group, name, "s", seconds)
                self.progress(f"{name}: {product.name} {seconds:.3f} s")
            except BenchError as error:
                used[product.name] = REPEAT_SECONDS
                self.failed(product, name, str(error))
            used[product.name] += time.monotonic() - begun

    def _turns(self, rounds: int) -> Iterable[Product]:
        """Each product once a round, the other one first every second round."""
        for number in range(rounds):
            yield from self.products if number % 2 == 0 else reversed(self.products)

    def _sample(self, product: Product, name: str, take: Callable[[], Sample]) -> Sample | None:
        try:
            taken = take()
        except BenchError as error:
            self.failed(product, name, str(error))
            return None
        self.progress(f"{name}: {product.name} {taken.per_second:,.0f}/s")
        if taken.errors:
            self.failed(product, name, f"{taken.errors} calls failed, the last with: {taken.last_error}")
        return taken

    def failed(self, product: Product, name: str, why: str) -> None:
        self.report.failures.append(f"{product.name}: {name}: {why}")
        self.progress(f"FAILED {product.name}: {name}: {why}")
