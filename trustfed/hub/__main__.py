"""`python -m trustfed.hub init|serve --config FILE`: the hub without the command line's dependencies."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from trustfed.errors import TrustfedError
from trustfed.hub.compose import init, serve
from trustfed.hub.config import HubConfig
from trustfed.runtime import logs, process
from trustfed.runtime.config import load
from trustfed.runtime.errors import answer

USAGE = "usage: python -m trustfed.hub init|serve --config FILE"


def main(argv: list[str]) -> int:
    """Run one command; the exit code says how it went (trustfed.runtime.errors)."""
    if len(argv) != 3 or argv[0] not in ("init", "serve") or argv[1] != "--config":
        sys.stderr.write(USAGE + "\n")
        return 2
    try:
        config = load(Path(argv[2]), HubConfig)
    except TrustfedError as error:
        sys.stderr.write(answer(error).line() + "\n")
        return answer(error).exit_code
    logs.configure(config.log.level)

    async def command(stop: asyncio.Event) -> None:
        if argv[0] == "serve":
            await serve(config, stop)
        else:
            root_set = await init(config)
            sys.stdout.write(f"root set {root_set.version} {root_set.hash}\n")

    return process.run(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
