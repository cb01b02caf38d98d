"""The trustfed command: one noun, one file, imported when it is used.

Exit codes: 0 done, 2 the command or its input is wrong, 3 denied, 4 not found, 5 conflict, 6 unavailable, 1 anything else
(trustfed.runtime.errors), 130 after Ctrl-C. An error is one line on standard error, and a hint below it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from trustfed.cli import values

NOUNS = {
    "demo": "Run the whole story: a hub, two clusters, an agent each, workloads.",
    "hub": "Set up and run the hub.",
    "cluster": "Enrol and run the control plane of one trust domain.",
    "agent": "Run the agent of one node.",
    "feed": "Run the feed beside an istiod, and say who may be one (cluster).",
    "domain": "Invite, show and remove trust domains (hub).",
    "grant": "Let one trust domain accept identities of another.",
    "entry": "Say which workloads get which SPIFFE ID (cluster).",
    "peers": "Name several trust domains that entries federate with (cluster).",
    "peer": "Federate with SPIFFE trust domains that are not ours (cluster).",
    "gateway": "Say where this cluster's mesh is entered from others (cluster).",
    "export": "Offer services to other clusters (cluster).",
    "import": "Want services of other clusters (cluster).",
    "route": "See which services of others are reachable from here, and why the rest are not (cluster).",
    "mesh": "Bring the mesh to what a directory says, and see how it stands (cluster).",
    "node": "Invite, show and ban nodes (cluster).",
    "authority": "Replace and taint the keys that sign SVIDs (cluster).",
    "cacerts": "Give istiod a sub-authority to plug in, and roll it over (cluster).",
    "legacy": "Move a mesh from its old trust domain to this one (cluster).",
    "root": "Replace the federation's root (hub).",
    "approval": "Approve what takes two people (hub, cluster).",
    "bundle": "Show, fetch and verify SPIFFE bundles.",
    "svid": "Get, watch and verify SVIDs, as a workload does.",
    "publication": "See how the published bundles stand (hub).",
    "token": "Give and take access to the hub's API (hub).",
    "evidence": "Prove how certificates were rotated: reports, figures, alarms, packs, verification.",
    "audit": "Read and verify the journal of a hub or a cluster.",
}

# trustfed.cli.start is where the console script begins.


class Noun(TyperCommand):
    """Stands for a noun until it is used: reading its file costs time that `trustfed --help` does not have."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the real command: from here on this one plays no part."""
        return load(self.name or "").make_context(info_name, args, parent=parent, **extra)


class Nouns(TyperGroup):
    """`trustfed` itself."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        for name, help_text in NOUNS.items():
            self.add_command(Noun(name, help=help_text), name)


def load(noun: str) -> TyperCommand | TyperGroup:
    """The real command of a noun."""
    app = importlib.import_module(f"trustfed.cli.{noun}").app
    command: TyperCommand | TyperGroup = (
        typer.main.get_command(app) if noun == "demo" else typer.main.get_group(app)  # type: ignore[assignment]
    )
    command.name = noun
    if noun != "demo":
        command.help = NOUNS[noun]
    return command


values.without_pydantic()
app = typer.Typer(
    cls=Nouns,
    name="trustfed",
    help="SPIFFE trust federation for many clusters, alive through partitions and provable afterwards.",
    epilog="Start here: trustfed demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415  asked for once in a while

        sys.stdout.write(f"trustfed {version('trustfed')}\n")
        raise typer.Exit


@app.callback()
def trustfed(
    _asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Every noun has its verbs; `trustfed NOUN --help` lists them, `trustfed NOUN VERB --help` has examples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command = typer.main.get_command(app)
    try:
        result = command.main(
            list(sys.argv[1:] if arguments is None else arguments), prog_name="trustfed", standalone_mode=False
        )
        sys.stdout.flush()
    except typer.TyperException as error:
        return _misused(error)
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone: say nothing more, also not while the interpreter flushes.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failed(error)
    return result if isinstance(result, int) else 0


def _misused(error: typer.TyperException) -> int:
    """A wrong option or argument: click's own words, on one line."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return 2
    where = f"{context.command_path} --help" if context else "trustfed --help"
    _tell(" ".join(error.format_message().split()), where)
    return error.exit_code


def _failed(error: Exception) -> int:
    # Imported only here: a command that succeeds needs neither.
    from trustfed.runtime import errors, logs  # noqa: PLC0415

    if "trustfed" not in (type(error).__module__ or ""):
        logs.configure("error")
    answer = errors.answer(error)
    _tell(answer.message, answer.hint)
    return answer.exit_code


def _tell(message: str, hint: str) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\x1b[31merror:\x1b[0m" if colour else "error:"
    sys.stderr.write(f"{label} {_plain(message)}\n" + (f"  hint: {_plain(hint)}\n" if hint else ""))


def _plain(text: str) -> str:
    """What a peer said shall not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


if __name__ == "__main__":
    sys.exit(main())
