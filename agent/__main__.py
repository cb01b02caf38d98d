"""`python -m agent serve --config FILE [--join @FILE | --join -] [--check]`: the agent, without the command line's weight.

The enrolment token is read from a file or from standard input, never from an argument: arguments are for all to see.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from agent import reader_ahead
from agent.config import AgentConfig
from trustfed.errors import Invalid, TrustfedError
from trustfed.federation.token import MAX_TEXT
from trustfed.runtime import process
from trustfed.runtime.config import load
from trustfed.runtime.errors import answer
from trustfed.runtime.files import read_private


def main(argv: list[str]) -> int:
    """Run one command; the exit code says how it went (trustfed.runtime.errors)."""
    options = _parser().parse_args(argv)
    try:
        config = load(options.config, AgentConfig)
        if options.check:
            sys.stdout.write(f"{options.config} is good: workloads at {config.socket}, admin at {config.admin_path}\n")
            return 0
        process.harden()  # before the token is read, and before a process is started that finds credentials
        join_text = _token(options.join) if options.join else None
    except TrustfedError as error:
        sys.stderr.write(answer(error).line() + "\n")
        return answer(error).exit_code
    reader_ahead.start(config)
    from agent.compose import serve  # noqa: PLC0415 - the larger part of the agent, loaded beside the reader

    async def command(stop: asyncio.Event) -> None:
        await serve(config, join_text, stop)

    return process.run(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent", description="The trustfed node agent.")
    serving = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="run the agent")
    serving.add_argument("--config", type=Path, required=True, metavar="FILE", help="its configuration (TOML)")
    serving.add_argument(
        "--join", metavar="@FILE|-", help="read an enrolment token from FILE or standard input; ignored once enrolled"
    )
    serving.add_argument("--check", action="store_true", help="check the configuration and exit")
    return parser


def _token(source: str) -> str:
    """The token's text; its file must be private. Raises Invalid, NotFound; nothing of what was given is repeated."""
    if source == "-":
        data = sys.stdin.buffer.read(MAX_TEXT + 1)
    elif source.startswith("@") and len(source) > 1:
        data = read_private(Path(source[1:]), MAX_TEXT)
    else:
        raise Invalid("--join takes @FILE or -, not the token itself", hint="arguments are visible to every user")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise Invalid("the enrolment token is not plain text") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
