"""`make chaos`: new seeds, as long as wanted; the seed is printed first, so that a run can be repeated."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.system.faults.chaos import Chaos
from tests.system.faults.partition import Partition
from tests.system.faults.world import World

EXAMPLES = """\
examples:
  make chaos                                   5 minutes, a new seed
  make chaos SEED=7 CHAOS_SECONDS=60           the same faults as the run that printed seed 7
  python -m tests.system.faults --seconds 300 --seed 7 --show
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 nothing was violated, 1 something was."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.faults",
        description="Faults at random between and under the processes of a real stack; checks that what must hold holds.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="how long faults strike (default 300)")
    parser.add_argument("--seed", type=int, help="which faults; by default a new number, which is printed")
    parser.add_argument("--ttl", type=int, default=20, metavar="SECONDS", help="life of SVIDs (default 20)")
    parser.add_argument(
        "--cut", type=float, default=45.0, metavar="SECONDS", help="length of the partition (default 45)"
    )
    parser.add_argument("--show", action="store_true", help="print every fault with its time")
    options = parser.parse_args(arguments)
    # Who ends this ends what it started, too: the blocks below are left as by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    seed = options.seed if options.seed is not None else secrets.randbelow(1 << 31)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        with World(Path(folder) / "partition", svid_ttl=round(options.cut * 120 / 45)) as world:
            partition = Partition(world, options.cut, options.cut).run()
        print(partition.text(), flush=True)
        with World(Path(folder) / "chaos", svid_ttl=options.ttl, disks=True, clocks=True) as world:
            for reason in world.skipped:
                print(f"left out: {reason}")
            outcome = Chaos(world, seed, options.seconds, longest=options.ttl * 1.5).run()
            if options.show or outcome.violations:
                print("\n".join(outcome.notes))
            if outcome.violations:
                print(world.stack.logs())
    print(outcome.text())
    return 1 if outcome.violations or partition.violations else 0


if __name__ == "__main__":
    sys.exit(main())
