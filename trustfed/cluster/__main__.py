"""`python -m trustfed.cluster init|serve --config FILE [@TOKENFILE]`: the cluster without the command line's dependencies."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from trustfed.cluster.compose import init, serve
from trustfed.cluster.config import ClusterConfig
from trustfed.errors import TrustfedError
from trustfed.runtime import process
from trustfed.runtime.config import load
from trustfed.runtime.errors import answer
from trustfed.runtime.files import read_private

USAGE = "usage: python -m trustfed.cluster init|serve --config FILE [@TOKENFILE]"


def main(argv: list[str]) -> int:
    """Run one command; the exit code says how it went (trustfed.runtime.errors)."""
    command, config_file, token_file = argv[0] if argv else "", argv[2] if len(argv) > 2 else "", argv[3:]
    if command not in ("init", "serve") or argv[1:2] != ["--config"] or (token_file and command == "serve"):
        sys.stderr.write(USAGE + "\n")
        return 2
    try:
        config = load(Path(config_file), ClusterConfig)
        token = read_private(Path(token_file[0].removeprefix("@")), 8192).decode() if token_file else None
    except TrustfedError as error:
        sys.stderr.write(answer(error).line() + "\n")
        return answer(error).exit_code

    async def run(stop: asyncio.Event) -> None:
        if command == "serve":
            await serve(config, stop)
        else:
            sys.stdout.write(json.dumps(await init(config, token)) + "\n")

    return process.run(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
