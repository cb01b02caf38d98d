"""Bundle endpoints from outside (SPIFFE Federation §5): https_web, and https_spiffe verified in one named domain."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from trustfed.cli.svidfiles import read_bundle
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.runtime.https_client import Server, get
from trustfed.runtime.tls import client_context
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.verify import verify_x509_svid


def web(url: str, anchors: Path | None) -> bytes:
    """The document at `url`; its server is known by host name, below `anchors` (PEM) or the system's roots."""
    host, port, path = _parts(url)
    try:
        context = ssl.create_default_context(cafile=str(anchors) if anchors else None)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(
            f"{anchors} cannot be used as anchors: {error.strerror or error}", hint="PEM certificates"
        ) from None
    try:
        return get(Server(host, port, context, None), path)
    except Unavailable as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise Denied(
                f"https://{host}:{port} did not prove that it is {host}: {error.__cause__.verify_message}",
                hint="--anchors FILE for roots of your own; --spiffe-id and --bundle for an https_spiffe endpoint",
            ) from None
        raise


def spiffe(url: str, spiffe_id: str, bundle: Path) -> bytes:
    """The document at `url`; its server must prove `spiffe_id` in the bundle of that ID's own trust domain."""
    host, port, path = _parts(url)
    expected = SpiffeId.parse(spiffe_id)
    held = read_bundle(bundle, expected.trust_domain)

    def verify(chain: tuple[bytes, ...]) -> None:
        verify_x509_svid(chain, held, datetime.now(UTC), expected=expected)

    return get(Server(host, port, client_context(None, held.x509_authorities), verify), path)


def _parts(url: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.fragment:
        raise Invalid(f"{url[:200]} is not an https:// address", hint="such as https://hub.example:9443/bundles/NAME")
    return parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
