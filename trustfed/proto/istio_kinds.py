"""Istio's kinds: what Kubernetes, xDS and protobuf each call the same resource. Below everything that renders or serves.

ASKED is what an istiod 1.29 subscribes to over MCP-over-xDS, in its order; KINDS what is rendered here. Read from
istio/istio and istio/api.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from trustfed.proto import istio_pb2 as pb

MESH_CONFIG = "core/v1alpha1/MeshConfig"
"""Asked for before the kinds; whatever is answered is not used."""
RESOURCE_URL = "type.googleapis.com/istio.mcp.v1alpha1.Resource"
"""The type of every resource in an MCP answer: pb.McpResource."""
ASKED = (
    "security.istio.io/v1/AuthorizationPolicy",
    "networking.istio.io/v1/DestinationRule",
    "networking.istio.io/v1alpha3/EnvoyFilter",
    "networking.istio.io/v1/Gateway",
    "security.istio.io/v1/PeerAuthentication",
    "networking.istio.io/v1beta1/ProxyConfig",
    "security.istio.io/v1/RequestAuthentication",
    "networking.istio.io/v1/ServiceEntry",
    "networking.istio.io/v1/Sidecar",
    "telemetry.istio.io/v1/Telemetry",
    "networking.istio.io/v1/VirtualService",
    "extensions.istio.io/v1alpha1/WasmPlugin",
    "networking.istio.io/v1/WorkloadEntry",
    "networking.istio.io/v1/WorkloadGroup",
)


_PRINTABLE = bytes(range(0x20, 0x7F))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def plain(manifest: bytes) -> bool:
    """Whether these are characters that istiod's YAML reader takes: one that it does not take costs it a whole folder.

    Printable ASCII (a DEL, or U+FFFE as it stands, is a control character there), and no escape of half a character: what JSON
    writes as two `\\u` escapes is an error in YAML.
    """
    return not manifest.translate(None, _PRINTABLE) and _SURROGATE.search(manifest) is None


@dataclass(frozen=True)
class Kind:
    """One kind that is rendered here."""

    name: str  # as in `kind:`
    api_version: str  # as in `apiVersion:`
    body_url: str  # the type URL of its spec in an Any
    message: type[Message]  # its spec

    @property
    def type_url(self) -> str:
        """What istiod asks for."""
        return f"{self.api_version}/{self.name}"


def _kind(message: type[Message], api_version: str, proto_package: str) -> Kind:
    name = message.DESCRIPTOR.name
    return Kind(name, api_version, f"type.googleapis.com/{proto_package}.{name}", message)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind(pb.ServiceEntry, "networking.istio.io/v1", "istio.networking.v1alpha3"),
        _kind(pb.DestinationRule, "networking.istio.io/v1", "istio.networking.v1alpha3"),
        _kind(pb.Gateway, "networking.istio.io/v1", "istio.networking.v1alpha3"),
        _kind(pb.AuthorizationPolicy, "security.istio.io/v1", "istio.security.v1beta1"),
    )
}
