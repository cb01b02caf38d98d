"""SVIDs and bundles between the Workload API, files and people."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from trustfed.cli.keyfiles import certificates
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime.files import private_directory, read_bounded, write_atomic
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import MAX_BUNDLE, Bundle, BundleMap
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid
from trustfed.spiffe.x509svid import pem

Json = dict[str, Any]


def rows(answer: pb.X509SVIDResponse) -> list[Json]:
    """One row for each SVID of an answer."""
    return [_row(svid, sorted(answer.federated_bundles)) for svid in answer.svids]


def line(answer: pb.X509SVIDResponse, now: datetime, as_json: bool) -> str:
    """What one push said, on one line."""
    at = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    found = rows(answer)
    if as_json:
        return json.dumps({"at": at, "svids": found})
    said = [f"{row['spiffe_id']} until {row['not_after']} by {row['authority']}" for row in found]
    bundles = ", ".join(TrustDomain.parse(name).name for name in sorted(answer.federated_bundles))
    return f"{at}  {'; '.join(said)}" + (f"  federates with {bundles}" if bundles else "")


def write(answer: pb.X509SVIDResponse, folder: Path) -> None:
    """Leave the default identity (the first) and its bundles in `folder` (0700). Files change one by one, each whole."""
    if not answer.svids:
        raise Unavailable("the Workload API answered without an SVID")
    svid = answer.svids[0]
    names = {TrustDomain.parse(name).name: data for name, data in answer.federated_bundles.items()}
    private_directory(folder)
    key = load_der_private_key(svid.x509_svid_key, None)
    write_atomic(folder / "key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    write_atomic(folder / "svid.pem", pem(split(svid.x509_svid)), 0o644)
    write_atomic(folder / "bundle.pem", pem(split(svid.bundle)), 0o644)
    for name, data in names.items():
        # A trust domain's name is no path: its grammar has no slash, and neither "." nor "..".
        taken = name in ("svid", "key", "bundle")
        write_atomic(folder / (f"{name}.federated.pem" if taken else f"{name}.pem"), pem(split(data)), 0o644)


def split(data: bytes) -> list[bytes]:
    """Concatenated DER certificates, one by one. Raises Invalid."""
    found = []
    while data:
        length = _length(data)
        if length is None or length > len(data):
            raise Invalid("the Workload API sent certificates that are cut short")
        found.append(data[:length])
        data = data[length:]
    return found


def read_bundle(path: Path, trust_domain: TrustDomain) -> Bundle:
    """The bundle of `trust_domain` in a file: a SPIFFE bundle document, or PEM with its X.509 authorities."""
    return parse_bundle(read_bounded(path, MAX_BUNDLE), str(path), trust_domain)


def parse_bundle(data: bytes, source: str, trust_domain: TrustDomain) -> Bundle:
    """The same from bytes that came from `source`."""
    if data.lstrip().startswith(b"{"):
        return Bundle.parse(trust_domain, data)
    return Bundle(trust_domain, tuple(certificates(data, source)))


def verify_x509(text: str, source: str, bundle: Bundle, spiffe_id: str, now: datetime) -> Json:
    """What an X509-SVID (PEM, leaf first) proves."""
    expected = SpiffeId.parse(spiffe_id) if spiffe_id else None
    svid = verify_x509_svid(certificates(text.encode(), source), bundle, now, expected=expected)
    return {"spiffe_id": str(svid.id), "not_after": _time(svid.not_after), "serial": serial_text(svid.serial)}


def verify_jwt(token: str, bundle: Bundle, audience: str, spiffe_id: str, now: datetime) -> Json:
    """What a JWT-SVID proves to `audience`."""
    svid = jwtsvid.verify(token, BundleMap({bundle.trust_domain: bundle}), audience, now)
    if spiffe_id and str(svid.id) != spiffe_id:
        raise Denied(f"JWT-SVID of {svid.id}: it must be {spiffe_id}")
    return {"spiffe_id": str(svid.id), "audience": list(svid.audience), "not_after": _time(svid.expires_at)}


def _row(svid: pb.X509SVID, federated: list[str]) -> Json:
    leaf = x509.load_der_x509_certificate(split(svid.x509_svid)[0])
    issuer = leaf.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return {
        "spiffe_id": svid.spiffe_id,
        "not_after": _time(leaf.not_valid_after_utc),
        "serial": serial_text(leaf.serial_number),
        # "prod-us-west authority 0b1c2d3e4f506172": the id is what `trustfed authority list` shows.
        "authority": str(issuer[0].value).rpartition(" ")[2] if issuer else "",
        "federated": [TrustDomain.parse(name).name for name in federated],
        "hint": svid.hint,
    }


def _length(data: bytes) -> int | None:
    """Bytes of the DER element at the start (X.690 §8.1.3), header included."""
    if len(data) < 2 or data[0] != 0x30:
        return None
    if data[1] < 0x80:
        return 2 + data[1]
    octets = data[1] & 0x7F
    if not 1 <= octets <= 4 or len(data) < 2 + octets:
        return None
    return 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
