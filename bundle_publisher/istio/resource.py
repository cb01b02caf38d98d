"""One rendered resource: a Kubernetes object as canonical JSON, checked before anybody is given it.

istiod never refuses: what it cannot use it logs and drops, and one invalid document in its directory source rejects all of
them. So the form (every member known to Istio's own message, every value of its type) and the limits that istiod's
validation and Kubernetes have are checked here, and a resource that does not hold is left out alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format

from trustfed.errors import Invalid
from trustfed.proto.istio_kinds import KINDS, plain
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import shown

MAX_MANIFEST = 1_048_576  # bytes: below etcd's 1.5 MiB, and a batch of them below 4 MiB of gRPC
MANAGED_BY = {"app.kubernetes.io/managed-by": "trustfed"}
PREFIX = "trustfed-"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_HELD: set[str] = set()
"""Versions whose form was found to hold: most of what is rendered anew comes to the same bytes, and checking is the dearest."""
MAX_HELD = 65_536


@dataclass(frozen=True)
class Resource:
    """`key` is KIND/NAMESPACE/NAME, `version` the lower-case hex SHA-256 of `manifest`, which is canonical JSON."""

    key: str
    version: str
    created_at: datetime
    manifest: bytes

    @property
    def kind(self) -> str:
        return self.key.split("/")[0]

    @property
    def namespace(self) -> str:
        return self.key.split("/")[1]

    @property
    def name(self) -> str:
        return self.key.split("/")[2]


def seal(kind: str, namespace: str, name: str, created_at: datetime, spec: Mapping[str, Any]) -> Resource:
    """The resource with this spec, as its Kubernetes object. Raises Invalid for what istiod or Kubernetes would not take."""
    found = KINDS[kind]
    what = f"{kind} {shown(namespace)}/{shown(name)}"
    if not _LABEL.fullmatch(namespace):
        raise Invalid(f"the namespace of {what} is no DNS label")
    if not name.startswith(PREFIX) or not _LABEL.fullmatch(name):
        raise Invalid(f"the name of {what} is no name of ours of at most 63 characters")
    manifest = strict_json.write(
        {
            "apiVersion": found.api_version,
            "kind": kind,
            "metadata": {
                "creationTimestamp": timestamp(created_at),
                "labels": MANAGED_BY,
                "name": name,
                "namespace": namespace,
            },
            "spec": spec,
        }
    )
    if len(manifest) > MAX_MANIFEST:
        raise Invalid(f"{what} has {len(manifest)} bytes, more than {MAX_MANIFEST}")
    if not plain(manifest):
        raise Invalid(f"{what} has characters that istiod's YAML reader does not take")
    version = hashlib.sha256(manifest).hexdigest()
    if version not in _HELD:
        try:
            json_format.ParseDict(dict(spec), found.message())
        except (json_format.ParseError, TypeError, ValueError) as error:
            raise Invalid(f"{what} does not fit its kind: {' '.join(str(error).split())[:200]}") from None
        if len(_HELD) >= MAX_HELD:
            _HELD.clear()
        _HELD.add(version)
    return Resource(f"{kind}/{namespace}/{name}", version, created_at.replace(microsecond=0), manifest)


def timestamp(at: datetime) -> str:
    """As Kubernetes writes a time: RFC 3339, whole seconds, Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
