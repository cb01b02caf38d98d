"""trustfed cacerts: a sub-authority of this domain for istiod to plug in, and its rollover step by step."""

from __future__ import annotations

import base64
import os
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output, proposed
from trustfed.cli.options import (
    BreakGlassOption,
    ClusterSocket,
    Output,
    OutputOption,
    ReasonOption,
    examples,
    noun,
    seconds,
)
from trustfed.errors import Conflict
from trustfed.runtime.config import duration

app = noun()
FolderOption = Annotated[
    Path, typer.Option("--write", "-w", metavar="DIR", help="The folder that istiod mounts as cacerts (0700).")
]
_MULTIROOT = "istiod takes a changed root-cert.pem only with ISTIO_MULTIROOT_MESH=true"
_STEPS = 6
"""Steps that one call may take, one after the other."""


@app.command(
    epilog=examples(
        'trustfed cacerts begin --write /var/lib/istio/cacerts --leaf-ttl 24h --reason "istiod signs for the mesh"',
        "trustfed cacerts begin --write cacerts --leaf-ttl 12h --ttl 90d --reason yearly",
        'trustfed cacerts begin --write cacerts --leaf-ttl 24h --reason "one person on duty" --break-glass',
    ),
)
def begin(
    write: FolderOption,
    leaf_ttl: Annotated[
        str, typer.Option("--leaf-ttl", help="The longest life of what istiod signs (its MAX_WORKLOAD_CERT_TTL).")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    ttl: Annotated[str, typer.Option("--ttl", help="How long the sub-authority lives, at most 366d.")] = "180d",
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
) -> None:
    """Make a new key in DIR and its anchor in the home bundle; a rollover where one signs already. Takes two people."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    from ca.authority import new_authority_id  # noqa: PLC0415  pyca takes time to load
    from ca.external import make_external  # noqa: PLC0415
    from trustfed.cli.cacertsfolder import Folder  # noqa: PLC0415
    from trustfed.spiffe.ids import TrustDomain  # noqa: PLC0415
    from trustfed.spiffe.x509svid import pem  # noqa: PLC0415

    cluster, folder = client.cluster(socket), Folder(write)
    found = cluster.get("/cacerts")
    if found["following"]:
        held, wanted = folder.following(), _certificate(found, found["following"])
        if held is None or held[0] != wanted:
            raise Conflict(
                f"authority {found['following']} is being rolled in, and its key is not in {write}",
                hint="name its folder, or trustfed cacerts abandon",
            )
        output.line(f"authority {found['following']} is begun already; `trustfed cacerts advance` takes the next step")
        return
    left = folder.following()
    if left is not None and any(one["certificate"].encode() == left[0] for one in found["authorities"]):
        raise Conflict(f"{write} has a key that signs and is not in its place yet", hint="trustfed cacerts advance")
    if left is not None and (waiting := _waiting(cluster, left[0])) is not None:
        output.line(f"the key in {write} is proposed already: trustfed approval approve {waiting}")
        return
    now = datetime.now(UTC)
    id_ = new_authority_id(os.urandom)
    key, twin = make_external(
        TrustDomain.parse(found["trust_domain"]),
        id_,
        not_after=(now + duration(ttl)).replace(microsecond=0),
        now=now,
        randomness=os.urandom,
    )
    # A key that is there and was never taken is worth nothing: nobody knows its anchor.
    folder.keep_following(pem([twin]), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    body = {
        "id": id_,
        "twin": base64.b64encode(twin).decode(),
        "leaf_seconds": seconds(leaf_ttl),
        "reason": reason,
        "break_glass": break_glass,
    }
    answer = cluster.post("/cacerts", body)
    if proposed.waits(answer):
        output.line(proposed.proposed(cluster, answer))
    else:
        _say(answer)
    output.line("`trustfed cacerts advance` takes each next step when its time has come")


@app.command(
    epilog=examples(
        "trustfed cacerts advance --write /var/lib/istio/cacerts",
        'trustfed cacerts advance --write cacerts --confirmed --reason "istioctl proxy-config secret shows both roots"',
    ),
)
def advance(
    write: FolderOption,
    confirmed: Annotated[
        bool,
        typer.Option("--confirmed", help="Every proxy holds both anchors: do not wait for it. Takes two people."),
    ] = False,
    settle: Annotated[
        str, typer.Option("--settle", help="How long istiod gets to read a change before the next one.")
    ] = "1m",
    reason: ReasonOption = "",
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
) -> None:
    """Take every step whose time has come, and bring DIR up to date; run it hourly. It says what the next step waits for."""
    from trustfed.cli.cacertsfolder import Folder  # noqa: PLC0415

    cluster, folder, quiet = client.cluster(socket), Folder(write), duration(settle)
    found = cluster.get("/cacerts")
    for _ in range(_STEPS):
        settled = _bring(folder, found, quiet)
        following, step = found["following"], found["next"]
        if step == "anchor" and settled:
            found = cluster.post(f"/cacerts/{following}/anchored", {"reason": reason})
        elif following and confirmed and found["step"] == "swapping" and not step:
            body = {"confirmed": True, "reason": reason, "break_glass": break_glass}
            answer = cluster.post(f"/cacerts/{following}/anchored", body)
            if proposed.waits(answer):
                output.line(proposed.proposed(cluster, answer))
                break
            found = answer
        elif step == "swap":
            found = cluster.post(f"/cacerts/{found['signing']}/swapped", {"reason": reason})
        elif step == "export":
            held = folder.following()
            if held is None or held[0] != _certificate(found, following):
                raise Conflict(f"the key of authority {following} is not in {write}", hint="trustfed cacerts abandon")
            # Recorded first: whatever breaks from here on, the next call finds out whose files belong into the folder.
            found = cluster.post(f"/cacerts/{following}/exported", {"reason": reason})
        else:
            break
    _say(found)


@app.command(epilog=examples("trustfed cacerts status", "trustfed cacerts status --output json"))
def status(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show which sub-authority istiod uses, where a rollover is, and what its next step waits for."""
    found = client.cluster(socket).get("/cacerts")
    if output_as is Output.JSON:
        output.document(found)
        return
    _say(found)
    columns = {
        "ID": "id",
        "STATUS": "status",
        "ISSUES": "issues",
        "TAINTED": "tainted",
        "NOT AFTER": "not_after",
        "EXPORTED": "exported_at",
        "RETIRED": "retired_at",
        "GONE AFTER": "last_leaf_not_after",
    }
    output.listing(client.members(found, "authorities"), columns, output_as)


@app.command(
    epilog=examples(
        'trustfed cacerts abandon 0b1c2d3e4f506172 --reason "the key was lost"',
        'trustfed cacerts abandon 0b1c2d3e4f506172 --reason "the key was lost" --break-glass',
    )
)
def abandon(
    authority: Annotated[str, typer.Argument(metavar="ID", help="The one that is to follow.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
) -> None:
    """Give up a sub-authority that was never used: its anchor leaves the bundle. Takes two people."""
    cluster, body = client.cluster(socket), {"reason": reason, "break_glass": break_glass}
    answer = cluster.post(f"/cacerts/{client.segment(authority)}/abandon", body)
    if proposed.waits(answer):
        output.line(proposed.proposed(cluster, answer))
    else:
        _say(answer)


@app.command(epilog=examples("trustfed cacerts check --write /var/lib/istio/cacerts"))
def check(write: FolderOption) -> None:
    """Say whether istiod would boot with the four files in DIR."""
    from trustfed.cli.cacertsfolder import Folder  # noqa: PLC0415
    from trustfed.cli.cacertsfolder import check as check_files  # noqa: PLC0415

    files = Folder(write).present()
    if files is None:
        raise Conflict(f"nothing was exported to {write} yet", hint="trustfed cacerts advance")
    check_files(files, b"", datetime.now(UTC))
    output.line(f"istiod would take what is in {write}")


def _bring(folder: Any, found: dict[str, Any], quiet: timedelta) -> bool:
    """Bring the folder to what the cluster says; True once root-cert.pem is what it is to be, or was appended to."""
    from trustfed.cli.cacertsfolder import Plugin, blocks, next_roots  # noqa: PLC0415

    if not found["signing"]:
        return False
    wanted = _certificate(found, found["signing"])
    present, following = folder.present(), folder.following()
    if present is not None and present.certificate == wanted:
        certificate, key = present.certificate, present.key
    elif following is not None and following[0] == wanted:
        certificate, key = following
    else:
        raise Conflict(
            f"the key of authority {found['signing']}, which signs, is not in {folder.path}", hint="name its folder"
        )
    anchors = [block for text in found["anchors"] for block in blocks(text.encode())]
    held = blocks(present.roots) if present else []
    roots = next_roots(held, anchors)
    if folder.turns(b"".join(roots)) and folder.age() < quiet.total_seconds():
        sys.stderr.write("root-cert.pem is changed at a later call: istiod gets time to read the last change\n")
        roots = held
    files = Plugin(certificate, key, certificate, b"".join(roots))
    if present != files:
        folder.write(files, datetime.now(UTC))
        sys.stderr.write(f"{folder.path} was changed; {_MULTIROOT}\n")
    if following is not None and following[0] == wanted:
        folder.forget_following()
    return set(anchors) <= set(roots)


def _waiting(cluster: client.Admin, certificate: bytes) -> str | None:
    """The proposal that waits for another person with this very key (PEM of its certificate)."""
    try:
        der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    except ValueError:  # a file that was cut short: no key that anybody has proposed
        return None
    for one in client.members(cluster.get("/approvals"), "approvals"):
        if one["command"] == "cacerts.begin" and one["body"].get("twin") == base64.b64encode(der).decode():
            return str(one["id"])
    return None


def _certificate(found: dict[str, Any], id_: str) -> bytes:
    known = next((one for one in found["authorities"] if one["id"] == id_), None)
    return str(known["certificate"]).encode() if known else b""


def _say(found: dict[str, Any]) -> None:
    words = {
        "none": "istiod has no sub-authority of this domain",
        "publishing": "the new anchor is on its way to every reader of the bundle",
        "anchoring": "every reader has the new anchor; root-cert.pem is to get it",
        "swapping": "the new key is to take over",
        "reissuing": "the new key signs; the old anchor stays for what the old key signed",
        "settled": "one key signs",
    }
    output.line(f"{found['step']}: {words.get(found['step'], '')}")
    if found["signing"]:
        output.line(f"  signs: {found['signing']} (issued outside)")
    if found["following"]:
        output.line(f"  follows: {found['following']}")
    if found["waits_for"]:
        until = f", until {found['until']}" if found["until"] else ""
        output.line(f"  waits for: {output.cell(found['waits_for'][:10])}{until}")
