"""trustfed bundle: the SPIFFE bundles that a cluster holds, and those of others' endpoints."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import AtHub, ClusterSocket, EitherSocket, Output, OutputOption, ReasonOption, examples, noun
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
        "trustfed bundle fetch --from s3://trust/prod --root root.json --domain prod-us-west --write bundles",
        "trustfed bundle fetch --from https://cdn.example/trust --root root.json --accept-stale 12h --output json",
        "trustfed bundle fetch --from s3://trust/prod --root root.json --domain prod-us-west --manifests --write mesh",
    ),
)
def fetch(
    url: Annotated[str, typer.Argument(metavar="[URL]", help="An https:// bundle endpoint.")] = "",
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="Whose bundle it must be.")] = "",
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
    write: Annotated[
        Path | None,
        typer.Option(
            "--write", "-w", metavar="FILE|DIR", help="Leave the bundle in this file, or a store's in this folder."
        ),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            "--from", metavar="STORE", help="Read a store: s3://BUCKET/PREFIX, https://HOST/PATH or a folder."
        ),
    ] = "",
    root: Annotated[
        Path | None, typer.Option("--root", metavar="FILE", help="The store's TUF root metadata, which you trust.")
    ] = None,
    domains: Annotated[
        list[str] | None, typer.Option("--domain", metavar="NAME", help="Only this trust domain; may be repeated.")
    ] = None,
    manifests: Annotated[
        bool,
        typer.Option("--manifests", help="Of a store: also the Istio manifests of each --domain, as NAME.routes.yaml."),
    ] = False,
    publication_key: PublicationKeyFile = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="What was seen before, so that nothing older is believed (0700)."),
    ] = None,
    accept_stale: Annotated[
        str, typer.Option("--accept-stale", metavar="AGE", help="Take a timestamp that expired at most so long ago.")
    ] = "",
    timeout: Annotated[str, typer.Option("--timeout", help="For the whole visit to a store.")] = "30s",
    s3_endpoint: Annotated[
        str, typer.Option("--s3-endpoint", metavar="URL", help="An S3 server other than AWS's.")
    ] = "",
    s3_addressing: Annotated[
        str, typer.Option("--s3-addressing", help="Where the bucket stands: auto, path or virtual.")
    ] = "auto",
    region: Annotated[str, typer.Option("--region", help="The AWS region.")] = "",
    profile: Annotated[str, typer.Option("--profile", help="A profile of the AWS SDK's files.")] = "",
    role_arn: Annotated[str, typer.Option("--role-arn", help="Assume this role, by STS.")] = "",
    web_identity_token_file: Annotated[
        Path | None, typer.Option("--web-identity-token-file", metavar="FILE", help="Assume it with this token.")
    ] = None,
    sts_endpoint: Annotated[str, typer.Option("--sts-endpoint", metavar="URL", help="An STS other than AWS's.")] = "",
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="FILE", help="Roots (PEM) for a store's TLS, not the system's.")
    ] = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Fetch a bundle from its endpoint (SPIFFE Federation §5), or bundles from a store; checked before shown or kept."""
    if store:
        from trustfed.cli import stores  # noqa: PLC0415
        from trustfed.reading.location import AwsSettings, Location  # noqa: PLC0415

        if root is None or url or trust_domain:
            raise Invalid(
                "--from needs --root, and neither URL nor --trust-domain", hint="--domain names trust domains"
            )
        if s3_addressing not in ("auto", "path", "virtual"):
            raise Invalid(f"--s3-addressing {s3_addressing} is unknown", hint="auto, path or virtual")
        aws = AwsSettings(
            region=region,
            profile=profile,
            role_arn=role_arn,
            web_identity_token_file=str(web_identity_token_file or ""),
            sts_endpoint=sts_endpoint,
        )
        location = Location(store, s3_endpoint, s3_addressing, str(ca_file or ""), aws)  # type: ignore[arg-type]
        stores.fetch(
            stores.Visit(location, root, domains or [], state, accept_stale, timeout, publication_key, manifests),
            write,
            output_as,
        )
        return
    if not url or not trust_domain:
        raise Invalid(
            "an endpoint's URL and --trust-domain are needed, or --from and --root", hint="trustfed bundle fetch --help"
        )
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
    epilog=examples('trustfed bundle accept example.org --reason "their owner restored its server, ticket 4711"'),
)
def accept(name: Name, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Accept the bundle that a foreign peer serves now, although it does not continue the one held (see peer accept)."""
    from trustfed.cli import peer  # noqa: PLC0415

    peer.accept(name, reason, "", socket)


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
