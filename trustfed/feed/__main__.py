"""`python -m trustfed.feed serve --config FILE [--check]`: the feed, without the command line's weight."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from trustfed.errors import TrustfedError
from trustfed.feed.compose import serve
from trustfed.feed.config import FeedConfig
from trustfed.runtime import process
from trustfed.runtime.config import load
from trustfed.runtime.errors import answer


def main(argv: list[str]) -> int:
    """Run one command; the exit code says how it went (trustfed.runtime.errors)."""
    options = _parser().parse_args(argv)
    try:
        config = load(options.config, FeedConfig)
    except TrustfedError as error:
        sys.stderr.write(answer(error).line() + "\n")
        return answer(error).exit_code
    if options.check:
        to = " and ".join(str(one) for one in (config.output.directory, config.output.mcp) if one)
        sys.stdout.write(f"{options.config} is good: routes of {config.trust_domain} to {to}\n")
        return 0

    async def command(stop: asyncio.Event) -> None:
        await serve(config, stop)

    return process.run(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trustfed.feed", description="The trustfed feed beside an istiod.")
    serving = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="run the feed")
    serving.add_argument("--config", type=Path, required=True, metavar="FILE", help="its configuration (TOML)")
    serving.add_argument("--check", action="store_true", help="check the configuration and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
