"""What one cluster's istiods are told, as one file for GitOps: every rendered resource of a cluster, in the order of their keys.

    # trustfed: mesh of prod-us-west, version 1793280000, 2 resources
    ---
    {"apiVersion":...}
    ---
    {"apiVersion":...}

JSON is YAML, so Flux, Argo CD and kubectl read it. `version` is the time at which this content was first signed: it rises
with every change and says which of two files is the newer one. Plain readers find it at `routes/NAME.yaml` with its
digest beside it (as sha256sum writes it); TUF clients ask for the target `mesh/NAME`, which the cluster's own role lists.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable

from bundle_publisher.targets.port import Document
from trustfed.errors import Invalid
from trustfed.spiffe.ids import TrustDomain

MAX_BYTES = 16 * 1024 * 1024
MAX_PACKED = 1_300_000
"""What a cluster sends the hub of it, packed, beside its envelope in one message."""
READ_AGAIN = 60
"""Seconds that a cache may keep it."""
PREFIX = "routes/"
_HEAD = re.compile(rb"# trustfed: mesh of (\S{1,255}), version (\d{1,16}), \d{1,9} resources\n")


def write(trust_domain: TrustDomain, version: int, resources: Iterable[bytes]) -> bytes:
    """The file, given each resource as one line of JSON, in the order of their keys. Raises Invalid when it is too long."""
    lines = list(resources)
    head = f"# trustfed: mesh of {trust_domain.name}, version {version}, {len(lines)} resources\n".encode()
    data = head + b"".join(b"---\n" + line + b"\n" for line in lines)
    if len(data) > MAX_BYTES:
        raise Invalid(
            f"the manifests of {trust_domain} have {len(data)} bytes", hint=f"at most {MAX_BYTES} are published"
        )
    return data


def read_version(data: bytes, trust_domain: TrustDomain) -> int:
    """The version of the file in `data`. Raises Invalid for what is no such file of this domain."""
    match = _HEAD.match(data[:400])
    if match is None or match[1] != trust_domain.name.encode():
        raise Invalid(f"this is not the file of {trust_domain}'s manifests")
    return int(match[2])


def pack(data: bytes) -> bytes:
    """The file as a cluster sends it. Raises Invalid when even that is too long."""
    packed = zlib.compress(data, 6)
    if len(packed) > MAX_PACKED:
        raise Invalid(f"the manifests have {len(packed)} bytes when packed", hint=f"at most {MAX_PACKED} are published")
    return packed


def unpack(packed: bytes) -> bytes:
    """The file again, whoever packed it. Raises Invalid for what is longer than a file may be, or no packed file."""
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(packed[: MAX_PACKED + 1], MAX_BYTES + 1) if len(packed) <= MAX_PACKED else b""
    except zlib.error:
        data = b""
    if not unpacking.eof or unpacking.unused_data or not 0 < len(data) <= MAX_BYTES:
        raise Invalid("the packed manifests are damaged or too long", hint=f"at most {MAX_BYTES} bytes")
    return data


def names(trust_domain: TrustDomain) -> tuple[str, str]:
    """The names of the plain file and of its digest."""
    name = f"{PREFIX}{trust_domain.name}.yaml"
    return name, f"{name}.sha256"


def document(trust_domain: TrustDomain, data: bytes) -> Document:
    """The plain file."""
    name, _ = names(trust_domain)
    return Document(name, data, "application/yaml", f"max-age={READ_AGAIN}")


def digest_document(trust_domain: TrustDomain, data: bytes) -> Document:
    """What `sha256sum --check` reads, in the folder of the plain file; its comment says which version it is of."""
    name, beside = names(trust_domain)
    line = f"{hashlib.sha256(data).hexdigest()}  {name.removeprefix(PREFIX)}\n"
    head = data[: data.index(b"\n") + 1]
    return Document(beside, head + line.encode(), "text/plain", f"max-age={READ_AGAIN}")


def trust_domain_of(name: str) -> TrustDomain | None:
    """The trust domain whose plain file, or digest, is published under `name`; None for any other document."""
    stem = name.removeprefix(PREFIX).removesuffix(".sha256")
    if not name.startswith(PREFIX) or not stem.endswith(".yaml"):
        return None
    return TrustDomain(stem.removesuffix(".yaml"))
