"""What a command on a CA says when it takes a second person: it was proposed, and how that person approves it."""

from __future__ import annotations

from typing import Any

from trustfed.cli import output
from trustfed.cli.client import Admin
from trustfed.cli.options import Output


def told(admin: Admin, found: Any, done: str, output_as: Output = Output.TABLE) -> None:
    """Print what became of it: the exact JSON, what was done, or the proposal and who is needed."""
    if output_as is Output.JSON:
        output.document(found)
    elif waits(found):
        output.line(proposed(admin, found))
    else:
        output.line(done)


def waits(found: Any) -> bool:
    """Whether an answer is a proposal that waits for another person."""
    return isinstance(found, dict) and "proposal" in found and "needs" in found


def proposed(admin: Admin, found: dict[str, Any]) -> str:
    """The proposal in one line, with the command that approves it."""
    at = " --hub" if admin.kind == "hub" else ""
    return (
        f"proposed {found['proposal']}: {found['what']}; until {found['expires_at']} another person approves it with: "
        f"trustfed approval approve {found['proposal']}{at}"
    )
