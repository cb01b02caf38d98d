"""trustfed bundle: the SPIFFE bundles that a cluster holds, and those of others' endpoints."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import AtHub, EitherSocket, Output, OutputOption, examples, noun
from trustfed.errors import Invalid
from trustfed.runtime.files import read_bounded, write_atomic

app = noun()
Name = Annotated[str, typer.Argument(metavar="TRUST_DOMAIN", help="Whose bundle.")]
PublicFile = Annotated[
    Path | None, typer.Option("--write", "-w", metavar="FILE", help="Leave the bundle in this file (0644).")
]
PublicationKeyFile = Annotated[
    Path | None,
    typer.Option("--publication-key", metavar="FILE", help="It is an envelope, signed by this key (PEM or DER)."),
]


class Form(StrEnum):
    """How a bundle is written."""

    SPIFFE = "spiffe"
    ENVELOPE = "envelope"
    PEM = "pem"


@app.command("list", epilog=examples("trustfed bundle list", "trustfed bundle list --hub --output json"))
def list_(socket: EitherSocket = None, hub: AtHub = False, output_as: OutputOption = Output.TABLE) -> None:
    """List the bundles that a cluster holds (its own and those it imports), or that the hub relays."""
    door = client.either(socket, hub)
    if door.kind == "hub":
        domains = client.members(door.get("/domains"), "domains")
        found = [{"trust_domain": one["name"], "level": one["level"]} for one in domains if one["level"]]
        columns = {"TRUST DOMAIN": "trust_domain", "LEVEL": "level"}
    else:
        found = client.members(door.get("/bundles"), "bundles")
        columns = {"TRUST DOMAIN": "trust_domain", "HOME": "home", "LEVEL": "level"}
    output.listing(found, columns, output_as)


@app.command(
    epilog=examples(
        "trustfed bundle show prod-us-west", "trustfed bundle show prod-us-west --format pem --write prod-us-west.pem"
    ),
)
def show(
    name: Name,
    form: Annotated[Form, typer.Option("--format", help="SPIFFE JSON, the signed envelope, or PEM.")] = Form.SPIFFE,
    write: PublicFile = None,
    socket: EitherSocket = None,
    hub: AtHub = False,
) -> None:
    """Show the bundle of a trust domain."""
    door = client.either(socket, hub)
    if door.kind == "hub" and form is not Form.SPIFFE:
        raise Invalid("the hub gives SPIFFE bundles only", hint="ask a cluster, or leave --format out")
    _leave(door.read(f"/bundles/{client.segment(name)}", format=form.value), write)


@app.command(
    epilog=examples(
        "trustfed bundle fetch https://hub.example:9443/bundles/prod-us-west --trust-domain prod-us-west"
        " --anchors root.pem --write prod-us-west.json",
        "trustfed bundle fetch https://trust.us-west.example:9444/bundle --trust-domain prod-us-west"
        " --spiffe-id spiffe://prod-us-west/trustfed/cluster --bundle prod-us-west.json",
        "trustfed bundle fetch https://trust.example/bundle --trust-domain example.org",
    ),
)
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="An https:// bundle endpoint.")],
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="Whose bundle it must be.")],
    anchors: Annotated[
        Path | None,
        typer.Option("--anchors", metavar="FILE", help="https_web below these roots (PEM), not the system's."),
    ] = None,
    spiffe_id: Annotated[
        str, typer.Option("--spiffe-id", help="https_spiffe: the identity that must answer; needs --bundle.")
    ] = "",
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="https_spiffe: the bundle of that identity's domain."),
    ] = None,
    write: PublicFile = None,
) -> None:
    """Fetch a bundle from its endpoint (SPIFFE Federation §5), and check it before it is shown or kept."""
    from trustfed.cli import fetching  # noqa: PLC0415  TLS and pyca take time to load
    from trustfed.spiffe.bundle import Bundle  # noqa: PLC0415
    from trustfed.spiffe.ids import TrustDomain  # noqa: PLC0415

    domain = TrustDomain.parse(trust_domain)
    if bool(spiffe_id) != (bundle is not None):
        raise Invalid("https_spiffe needs both --spiffe-id and --bundle")
    data = fetching.spiffe(url, spiffe_id, bundle) if bundle is not None else fetching.web(url, anchors)
    found = Bundle.parse(domain, data)
    sys.stderr.write(_summary(found) + "\n")
    _leave(data, write)


@app.command(
    epilog=examples(
        "trustfed bundle verify prod-us-west.json --trust-domain prod-us-west",
        "trustfed bundle verify prod-us-west.envelope --trust-domain prod-us-west --publication-key prod-us-west.pub",
    ),
)
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A SPIFFE bundle, or an envelope.")],
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="Whose bundle it must be.")],
    publication_key: PublicationKeyFile = None,
) -> None:
    """Verify a bundle document, or an envelope by the publication key of its trust domain."""
    from trustfed.federation.envelope import MAX_BYTES, PublicationKey, open_envelope  # noqa: PLC0415
    from trustfed.spiffe.bundle import Bundle  # noqa: PLC0415
    from trustfed.spiffe.ids import TrustDomain  # noqa: PLC0415

    domain, data = TrustDomain.parse(trust_domain), read_bounded(file, MAX_BYTES)
    if publication_key is None:
        if b'"payload"' in data[:4096] and b'"keys"' not in data[:4096]:
            raise Invalid(
                f"{file} is an envelope", hint="--publication-key FILE names the key that must have signed it"
            )
        output.line(f"{file} is well-formed, and signed by nobody: {_summary(Bundle.parse(domain, data))}")
        return
    from trustfed.cli.keyfiles import public_key  # noqa: PLC0415

    key = PublicationKey(public_key(read_bounded(publication_key, 65_536), str(publication_key)))
    envelope = open_envelope(data, domain, key)
    output.line(f"{file} is signed by {key.fingerprint}, epoch {envelope.level.epoch}: {_summary(envelope.bundle)}")


def _summary(bundle: object) -> str:
    from trustfed.spiffe.bundle import Bundle  # noqa: PLC0415

    assert isinstance(bundle, Bundle)
    return (
        f"{bundle.trust_domain}: {len(bundle.x509_authorities)} X.509 and {len(bundle.jwt_authorities)} JWT authorities,"
        f" sequence {output.cell(bundle.sequence)}"
    )


def _leave(data: bytes, write: Path | None) -> None:
    if write is not None:
        write_atomic(write, data, 0o644)
        return
    output.text(data.decode("utf-8") + ("" if data.endswith(b"\n") else "\n"))
