"""trustfed svid: get, watch and verify SVIDs, as any workload does (SPIFFE Workload API)."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import output
from trustfed.cli.options import Output, OutputOption, WriteOption, examples, leave_secret, noun, secret_argument
from trustfed.errors import Invalid
from trustfed.runtime.files import read_bounded

app = noun()
Socket = Annotated[
    str | None,
    typer.Option(
        "--socket", metavar="PATH", envvar="SPIFFE_ENDPOINT_SOCKET", help="The Workload API: a path, or unix:/path."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--write",
        "-w",
        metavar="DIR",
        help="Leave svid.pem, key.pem (0600), bundle.pem and NAME.pem of each federated domain there.",
    ),
]
COLUMNS = {
    "SPIFFE ID": "spiffe_id",
    "NOT AFTER": "not_after",
    "SERIAL": "serial",
    "AUTHORITY": "authority",
    "FEDERATES WITH": "federated",
    "HINT": "hint",
}


@app.command(
    epilog=examples(
        "trustfed svid x509 --socket /run/trustfed/agent.sock", "trustfed svid x509 --write ./identity --output json"
    ),
)
def x509(socket: Socket = None, write: Folder = None, output_as: OutputOption = Output.TABLE) -> None:
    """Get this process's X509-SVIDs, and the bundles to verify its peers by."""
    from trustfed.cli import svidfiles, workload  # noqa: PLC0415  grpclib takes time to load

    async def fetch() -> Any:
        async with workload.workload_api(socket) as api:
            return await api.x509_svid()

    answer = asyncio.run(fetch())
    if write is not None:
        svidfiles.write(answer, write)
        sys.stderr.write(f"{answer.svids[0].spiffe_id} written to {write}\n")
    output.listing(svidfiles.rows(answer), COLUMNS, output_as)


@app.command(
    epilog=examples(
        "trustfed svid jwt --audience stock", "trustfed svid jwt --audience stock --audience cart --write stock.jwt"
    ),
)
def jwt(
    audience: Annotated[list[str], typer.Option("--audience", help="Whom the token is for; may be repeated.")],
    spiffe_id: Annotated[str, typer.Option("--spiffe-id", help="Which of several identities.")] = "",
    write: WriteOption = None,
    socket: Socket = None,
) -> None:
    """Get a JWT-SVID: the token goes to standard output, or into a file."""
    from trustfed.cli import workload  # noqa: PLC0415

    async def fetch() -> Any:
        async with workload.workload_api(socket) as api:
            return await api.jwt_svids(audience, spiffe_id)

    answer = asyncio.run(fetch())
    leave_secret(answer.svids[0].svid, write, f"JWT-SVID of {answer.svids[0].spiffe_id}")


@app.command(
    epilog=examples(
        "trustfed svid watch", "trustfed svid watch --count 2 --output json", "trustfed svid watch -w ./id"
    ),
)
def watch(
    count: Annotated[int, typer.Option("--count", min=0, help="Stop after so many; 0 goes on until Ctrl-C.")] = 0,
    socket: Socket = None,
    write: Folder = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Print a line whenever the agent pushes: a rotation, a changed bundle, a changed entry."""
    from trustfed.cli import svidfiles, workload  # noqa: PLC0415

    async def follow() -> None:
        seen = 0
        async with workload.workload_api(socket) as api:
            async for answer in api.x509_svids(timeout=None):
                if write is not None:
                    svidfiles.write(answer, write)
                output.line(svidfiles.line(answer, datetime.now(UTC), output_as is Output.JSON))
                sys.stdout.flush()
                seen += 1
                if count and seen >= count:
                    return

    asyncio.run(follow())


@app.command(
    epilog=examples(
        "trustfed svid verify svid.pem --bundle bundle.pem --trust-domain prod-us-west",
        "trustfed svid verify stock.jwt --bundle prod-us-west.json --trust-domain prod-us-west --audience stock",
    ),
)
def verify(
    svid: Annotated[str, typer.Argument(metavar="FILE", help="The SVID: PEM, or a JWT; - for standard input.")],
    bundle: Annotated[
        Path, typer.Option("--bundle", metavar="FILE", help="That domain's bundle: SPIFFE JSON, or PEM.")
    ],
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="Whose SVID it must be.")],
    audience: Annotated[str, typer.Option("--audience", help="Whom a JWT-SVID must be for.")] = "",
    spiffe_id: Annotated[str, typer.Option("--spiffe-id", help="The exact identity it must prove.")] = "",
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Verify an SVID in the bundle of one named trust domain, and in no other."""
    from trustfed.cli import svidfiles  # noqa: PLC0415
    from trustfed.spiffe.ids import TrustDomain  # noqa: PLC0415

    text = secret_argument("-", "SVID") if svid == "-" else read_bounded(Path(svid), 65_536).decode("utf-8", "replace")
    anchors = svidfiles.read_bundle(bundle, TrustDomain.parse(trust_domain))
    if "-----BEGIN" in text:
        found = svidfiles.verify_x509(text, svid, anchors, spiffe_id, datetime.now(UTC))
    elif not audience:
        raise Invalid("a JWT-SVID is for an audience", hint="--audience NAME")
    else:
        found = svidfiles.verify_jwt(text.strip(), anchors, audience, spiffe_id, datetime.now(UTC))
    output.record(found, output_as)
