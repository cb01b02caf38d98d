"""A real Envoy with one mTLS listener whose certificate and validation come from SDS, and a client of it."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.unit.agent.world import eventually

ENVOY = Path(sys.executable).parent / "envoy"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


def sds(name: str, delta: bool = False) -> dict[str, Any]:
    """A secret by SDS, as istiod writes it into a listener."""
    source = {
        "api_type": "DELTA_GRPC" if delta else "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
    }
    return {
        "name": name,
        "sds_config": {"initial_fetch_timeout": "0s", "resource_api_version": "V3", "api_config_source": source},
    }


def from_sds(sans: Sequence[str], delta: bool = False) -> dict[str, Any]:
    """The TLS of a listener, as istiod writes it: its own list of SANs beside our ROOTCA."""
    return {
        "tls_certificate_sds_secret_configs": [sds("default", delta)],
        "combined_validation_context": {
            "default_validation_context": {"match_subject_alt_names": [{"exact": san} for san in sans]},
            "validation_context_sds_secret_config": sds("ROOTCA", delta),
        },
    }


def listener(port: int, name: str, tls: Mapping[str, Any]) -> dict[str, Any]:
    """Answers every request 200, to a client with a certificate that it believes."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "in"}}}
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    context = {"@type": TLS + "DownstreamTlsContext", "require_client_certificate": True, "common_tls_context": tls}
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": context},
            }
        ],
    }


def configuration(agent: Path, listeners: Sequence[dict[str, Any]], admin: int) -> dict[str, Any]:
    """Envoy's bootstrap."""
    return {
        "node": {"id": "sidecar~10.0.0.9~web.ns~ns.svc.cluster.local", "cluster": "web.ns"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {
            "listeners": list(listeners),
            "clusters": [
                {
                    "name": "sds-grpc",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "sds-grpc",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(agent)}}}}]}],
                    },
                }
            ],
        },
    }


class Envoy:
    """A running Envoy's ports."""

    def __init__(self, admin: int, process: asyncio.subprocess.Process, log: Path) -> None:
        self.admin, self.process, self.log = admin, process, log

    async def ask(self, path: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        raw = await reader.read()
        writer.close()
        return raw.partition(b"\r\n\r\n")[2].decode(errors="replace")

    async def stat(self, name: str) -> int:
        found = await self.ask(f"/stats?filter=^{name}$")
        return sum(int(line.rsplit(": ", 1)[1]) for line in found.splitlines() if ": " in line)

    async def live(self) -> bool:
        if self.process.returncode is not None:
            raise AssertionError(self.log.read_text(errors="replace")[-2000:])
        with suppress(OSError):
            return "LIVE" in await self.ask("/server_info")
        return False


@asynccontextmanager
async def envoy(bootstrap: Mapping[str, Any], folder: Path) -> AsyncIterator[Envoy]:
    """Run it until the block ends."""
    config, log = folder / "envoy.json", folder / "envoy.log"
    config.write_text(json.dumps(bootstrap))
    arguments = ["--config-path", config, "--use-dynamic-base-id", "--concurrency", "1", "--disable-hot-restart"]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            ENVOY, *map(str, [*arguments[:2], *arguments[3:]]), "--log-level", "info", stdout=output, stderr=output
        )
    admin = bootstrap["admin"]["address"]["socket_address"]["port_value"]
    running = Envoy(admin, process, log)
    try:
        await eventually(running.live, 30)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def client_context(chain: Sequence[bytes], key: bytes) -> ssl.SSLContext:
    """A client with this certificate (DER) and key (PKCS#8 PEM); what the server shows is for the test to judge."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2  # a refusal comes within the handshake
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write("".join(map(ssl.DER_cert_to_PEM_cert, chain)).encode() + key)
        file.flush()
        context.load_cert_chain(file.name)
    return context


async def call(port: int, context: ssl.SSLContext, server_name: str | None = None) -> bytes:
    """One request over a new connection; gives the DER of the server's certificate. Raises OSError if refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name or "")
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = await reader.readline()
        if b" 200 " not in head:
            raise OSError(f"answered {head!r}")
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
        return shown
    finally:
        writer.close()
