"""`python -m bench`: take the figures, print the table."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import apart, envoy, evidence, feed, mesh, sds, store
from bench.figures import Report, Run
from bench.load import LoadClient
from bench.procs import BenchError, Busy, machine
from bench.product import Product
from bench.spire import Spire
from bench.table import as_json, render
from bench.trustfed import Trustfed
from trustfed.errors import TrustfedError

GROUPS = (
    "issuance",
    "workload",
    "memory",
    "start",
    "entry",
    "authority",
    "restart",
    "partition",
    "edge",
    "publish",
    "herd",
    "feed",
    "mesh",
    "sds",
    "envoy",
    "evidence",
)
EXAMPLES = """\
examples:
  python -m bench                                   every figure of trustfed
  python -m bench --only workload,memory --seconds 5
  python -m bench --only evidence                   ledger, reports, packs and the dashboard
  python -m bench --json bench.json
  TRUSTFED_SPIRE_SERVER=…/spire-server TRUSTFED_SPIRE_AGENT=…/spire-agent python -m bench
                                                    the same of SPIRE, in turn with trustfed, and ratios
  … python -m bench --products spire                SPIRE alone

A whole run takes about 12 minutes for one product and 17 for two. Everything listens on loopback or Unix sockets in a
temporary directory, and is stopped at the end. Close other programs: the figures are those of a quiet machine.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all figures taken, 1 some were not, 2 nothing could be started."""
    options = _options(arguments)
    report = Report(machine(), {})
    busy = Busy()
    products: list[Product] = []
    try:
        with tempfile.TemporaryDirectory(prefix="tf-bench-") as directory:
            try:
                _take(options, Path(directory), report, products)
            finally:
                for product in products:
                    product.stop()
    except (BenchError, TrustfedError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started is stopped", file=sys.stderr)
        return 2
    report.machine["cpu_used_by_others_percent"] = round(busy.others(), 1)
    print(render(report))
    if options.json:
        options.json.write_text(json.dumps(as_json(report), indent=1) + "\n")
    return 1 if report.failures else 0


def _take(options: argparse.Namespace, directory: Path, report: Report, products: list[Product]) -> None:
    only = options.only
    print("building the load client …", file=sys.stderr)
    client = LoadClient(directory)
    if "trustfed" in options.products:
        products.append(Trustfed(directory / "trustfed", client))
    if "spire" in options.products:
        products.append(_spire(directory / "spire", client))
    report.versions.update({product.name: product.version for product in products})
    run = Run(products, client, report, options.seconds, options.rounds)
    for product in products:
        run.progress(f"starting {product.name} {product.version}")
        seconds = product.start()
        if "start" in only:
            run.started(product, seconds)
    if "memory" in only:
        run.settle()
        run.memory("idle")
    if "issuance" in only:
        run.issuance()
    if "workload" in only:
        run.workload()
    if "memory" in only and ("issuance" in only or "workload" in only):
        run.memory("after load")
    if "entry" in only:
        run.entry()
    if "authority" in only:
        run.authority()
    if "start" in only:
        run.start()
    if "partition" in only:
        apart.partition(run)
    if "restart" in only:
        apart.restart(run)
    if "edge" in only or "publish" in only:
        store.take(run, directory / "store", edge="edge" in only, publish="publish" in only)
    if "herd" in only:
        apart.herd(run)
    if "feed" in only:
        feed.take(run)
    if "mesh" in only:
        mesh.take(run, directory / "mesh")
    if "sds" in only:  # after the others: it adds a hundred identities to the workload
        sds.take(run, directory / "sds")
    if "envoy" in only:
        envoy.take(run, directory / "envoy")
    if "evidence" in only:
        evidence.take(run)


def _spire(directory: Path, client: LoadClient) -> Product:
    return Spire(Path(os.environ["TRUSTFED_SPIRE_SERVER"]), Path(os.environ["TRUSTFED_SPIRE_AGENT"]), directory, client)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Speed and memory of trustfed, beside SPIRE when its binaries are named.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    spire = bool(os.environ.get("TRUSTFED_SPIRE_SERVER")) and bool(os.environ.get("TRUSTFED_SPIRE_AGENT"))
    parser.add_argument("--seconds", type=_seconds, default=3.0, help="length of one sample of load (default 3)")
    parser.add_argument("--rounds", type=_count, default=2, help="samples per product of each load (default 2)")
    parser.add_argument("--only", type=_groups, default=GROUPS, metavar="A,B", help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--products", choices=("trustfed", "spire"), nargs="+", help="default: all that can run")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every sample there as JSON")
    options = parser.parse_args(arguments)
    options.products = options.products or ["trustfed", *(["spire"] if spire else [])]
    if "spire" in options.products and not spire:
        parser.error("SPIRE needs TRUSTFED_SPIRE_SERVER and TRUSTFED_SPIRE_AGENT, the paths of its two binaries")
    return options


def _groups(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    for part in chosen:
        if part not in GROUPS:
            raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(GROUPS)}")
    return chosen


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError("between 0.1 and 60 seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 20:
        raise argparse.ArgumentTypeError("between 1 and 20")
    return value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops everything too
    sys.exit(main())
