"""trustfed publication root: the ceremony of the protected publication's root. All but show and install run anywhere, offline."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.keyfiles import public_key
from trustfed.cli.options import HubSocket, Output, OutputOption, examples, moment, noun, secret_argument
from trustfed.errors import Conflict, Invalid
from trustfed.runtime.files import read_bounded, read_private, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bundle_publisher.tuf.root import Standing
    from trustfed.federation.envelope import PublicationKey

app = noun()
MAX_FILE = 65_536
MIN_PASSPHRASE = 12

RootFile = Annotated[Path, typer.Argument(metavar="FILE", help="The root, as `create` or `rotate` left it.")]
Previous = Annotated[
    Path | None, typer.Option("--previous", metavar="FILE", help="The root version before it: its keys must sign too.")
]
Keys = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="FILE", help="An offline public key (PEM); once for each.", show_default=False),
]
Passphrase = Annotated[
    str,
    typer.Option("--passphrase", metavar="@FILE", help="The key file's passphrase: @FILE, or - for standard input."),
]
Expires = Annotated[str, typer.Option("--expires", help="When it ends: a time (RFC 3339), or from now (365d).")]
Target = Annotated[Path, typer.Option("--write", "-w", metavar="FILE", help="Leave the result in this file.")]


@app.command(
    epilog=examples(
        "trustfed publication root key --write alice.pem",
        "trustfed publication root key --write alice.pem --passphrase @alice.pass",
    ),
)
def key(write: Target, passphrase: Passphrase = "") -> None:
    """Make one person's offline key: FILE (0600) is kept by that person alone, FILE.pub goes into the root."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - only commands that use it load it
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    if write.exists():
        raise Conflict(f"{write} exists already", hint="a key is never overwritten: choose another name")
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase:
        secret = secret_argument(passphrase, "passphrase")
        if len(secret) < MIN_PASSPHRASE:
            raise Invalid("the passphrase is too short", hint=f"use at least {MIN_PASSPHRASE} characters")
        protection = BestAvailableEncryption(secret.encode())
    made = ec.generate_private_key(ec.SECP256R1())
    public = Path(f"{write}.pub")
    write_atomic(public, made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), mode=0o644)
    write_atomic(write, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    output.line(f"private key in {write}, public key in {public}")


@app.command(
    epilog=examples(
        "trustfed publication root create --online online.json --key alice.pem.pub --key bob.pem.pub"
        " --key carol.pem.pub --threshold 2 --expires 365d --write 1.root.json",
    ),
)
def create(
    online: Annotated[Path, typer.Option("--online", metavar="FILE", help="What `trustfed publication keys` wrote.")],
    threshold: Annotated[int, typer.Option("--threshold", help="How many of the offline keys must sign.", min=1)],
    write: Target,
    keys: Keys = None,
    expires: Expires = "365d",
) -> None:
    """Make the first root: unsigned, for its people to sign."""
    from bundle_publisher.tuf import root  # noqa: PLC0415 - it loads python-tuf: half a second

    made = root.create(_online(online), _offline(keys or []), threshold, _end(expires))
    _new(write, made)
    _tell(write, root.standing(made))


@app.command(
    epilog=examples(
        "trustfed publication root rotate --previous 1.root.json --write 2.root.json",
        "trustfed publication root rotate --previous 1.root.json --online online.json --write 2.root.json",
        "trustfed publication root rotate --previous 1.root.json --key alice.pem.pub --key dora.pem.pub"
        " --threshold 2 --write 2.root.json",
    ),
)
def rotate(
    previous: Annotated[Path, typer.Option("--previous", metavar="FILE", help="The root that is installed now.")],
    write: Target,
    online: Annotated[
        Path | None, typer.Option("--online", metavar="FILE", help="Other online keys of the hub; else the same.")
    ] = None,
    keys: Keys = None,
    threshold: Annotated[int | None, typer.Option("--threshold", help="Else the same.", min=1)] = None,
    expires: Expires = "365d",
) -> None:
    """Make the next version of a root: with a later end, and what else is given; the people of both versions sign it."""
    from bundle_publisher.tuf import root  # noqa: PLC0415 - it loads python-tuf: half a second

    before = read_bounded(previous, MAX_FILE)
    made = root.renew(
        before,
        _end(expires),
        online=_online(online) if online else None,
        offline=_offline(keys) if keys else None,
        threshold=threshold,
    )
    _new(write, made)
    _tell(write, root.standing(made, before))


@app.command(
    epilog=examples(
        "trustfed publication root sign 1.root.json --key alice.pem --passphrase @alice.pass",
        "trustfed publication root sign 2.root.json --key bob.pem --previous 1.root.json",
    ),
)
def sign(
    file: RootFile,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your private key.")],
    passphrase: Passphrase = "",
    previous: Previous = None,
) -> None:
    """Add one signature to a root, in its file."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    from bundle_publisher.tuf import root  # noqa: PLC0415 - it loads python-tuf: half a second

    secret = secret_argument(passphrase, "passphrase").encode() if passphrase else None
    held = read_private(key, MAX_FILE)
    try:
        private = load_pem_private_key(held, secret)
    except TypeError:
        hint = "--passphrase @FILE" if secret is None else "leave --passphrase out"
        raise Invalid(f"{key} is {'encrypted' if secret is None else 'not encrypted'}", hint=hint) from None
    except Exception:  # a wrong passphrase, or no key: pyca raises several kinds
        raise Invalid(f"{key} cannot be read as a private key", hint="is the passphrase right?") from None
    if not isinstance(private, EllipticCurvePrivateKey):
        raise Invalid(f"{key} is no ECDSA key", hint="trustfed publication root key")
    before = read_bounded(previous, MAX_FILE) if previous else None
    made = root.sign(read_bounded(file, MAX_FILE), private, previous=before)
    write_atomic(file, made, mode=0o644)
    _tell(file, root.standing(made, before))


@app.command(
    epilog=examples(
        "trustfed publication root show",
        "trustfed publication root show --write 1.root.json",
        "trustfed publication root show 2.root.json --previous 1.root.json",
    ),
)
def show(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A root; without it the newest that is installed.")
    ] = None,
    previous: Previous = None,
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Leave the installed root in this file.")
    ] = None,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Show a root, and who has signed it: the installed one is what readers pin."""
    from bundle_publisher.tuf import root  # noqa: PLC0415 - it loads python-tuf: half a second

    if file is None:
        document = str(client.hub(socket).get("/publication/root")["document"]).encode()
    else:
        document = read_bounded(file, MAX_FILE)
    found = root.standing(document, read_bounded(previous, MAX_FILE) if previous else None)
    if write is not None:
        _new(write, document)
    output.record(_record(found), output_as)


@app.command(epilog=examples("trustfed publication root install 1.root.json"))
def install(file: RootFile, socket: HubSocket = None) -> None:
    """Give the hub the next root: it verifies it, keeps it, and publishes under it from now on."""
    document = read_bounded(file, MAX_FILE).decode("utf-8", "replace")
    found = client.hub(socket).post("/publication/root", {"document": document})
    output.line(f"root version {found['root_version']} is installed until {found['root_expires']}")
    if missing := found["domains_without_role"]:
        output.line(f"waiting for the role of: {output.cell(missing)}")


def _online(file: Path) -> dict[str, PublicationKey]:
    from trustfed.federation.envelope import PublicationKey  # noqa: PLC0415

    try:
        found = json.loads(read_bounded(file, MAX_FILE))
        return {name: PublicationKey(base64.b64decode(value, validate=True)) for name, value in found.items()}
    except (ValueError, AttributeError, TypeError):
        raise Invalid(
            f"{file} does not hold the hub's online keys", hint="trustfed publication keys --write FILE"
        ) from None


def _offline(files: Sequence[Path]) -> list[PublicationKey]:
    from trustfed.federation.envelope import PublicationKey  # noqa: PLC0415

    return [PublicationKey(public_key(read_bounded(file, MAX_FILE), str(file))) for file in files]


def _end(text: str) -> datetime:
    from bundle_publisher.tuf.root import MAX_LIFE  # noqa: PLC0415

    found, now = datetime.fromisoformat(moment(text)).astimezone(UTC), datetime.now(UTC)
    if not now < found <= now + MAX_LIFE:
        raise Invalid(f"a root that ends at {found.isoformat()} is of no use", hint=f"within {MAX_LIFE.days} days")
    return found


def _new(file: Path, document: bytes) -> None:
    if file.exists():
        raise Conflict(f"{file} exists already", hint="it may hold signatures: choose another name")
    write_atomic(file, document, mode=0o644)


def _record(found: Standing) -> dict[str, Any]:
    shown = {
        "version": found.version,
        "expires": found.expires.isoformat(),
        "threshold": found.threshold,
        "signed": list(found.signed),
        "not_signed": list(found.unsigned),
        "missing": found.missing,
    }
    if found.previous_signed or found.previous_unsigned:
        before = f"version_{found.version - 1}"
        shown |= {
            f"{before}_signed": list(found.previous_signed),
            f"{before}_not_signed": list(found.previous_unsigned),
            f"{before}_missing": found.previous_missing,
        }
    return shown


def _tell(file: Path, found: Standing) -> None:
    parts = [f"{found.missing} more signature(s)"] if found.missing else []
    if found.previous_missing:
        parts.append(f"{found.previous_missing} more of version {found.version - 1}'s keys")
    wants = " and ".join(parts)
    output.line(f"{file}: root version {found.version} " + (f"wants {wants}" if wants else "is complete: install it"))
