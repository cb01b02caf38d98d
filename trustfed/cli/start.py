"""Where the `trustfed` command begins: an agent starts without loading the command line that it does not need."""

from __future__ import annotations

import os
import sys

_DIRECT = ("--config", "--join")  # anything else wants the command line's help, checks and defaults


def main() -> int:
    """`trustfed agent serve --config F …` becomes `python -m agent serve …` at once; all else is trustfed.cli.main."""
    rest = sys.argv[3:]
    if sys.argv[1:3] == ["agent", "serve"] and "--config" in rest and all(option in _DIRECT for option in rest[::2]):
        os.execv(sys.executable, [sys.executable, "-P", "-m", "agent", "serve", *rest])  # noqa: S606
    try:
        from trustfed.cli.main import main as command  # noqa: PLC0415 - only now: typer and rich are slow to load
    except KeyboardInterrupt:  # Ctrl-C so early that no command has begun
        return 130
    return command()
