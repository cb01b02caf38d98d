"""demo.json: where everything of a running demo is; written at once when anything changes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from trustfed.demo.house import Cluster, House
from trustfed.runtime.files import write_atomic

LOOK_SECONDS = 0.5


class DemoFile:
    """Keeps DIR/demo.json true from construction to `close`: who is killed and started again gets its new pid there."""

    def __init__(self, house: House, root: Path) -> None:
        self.path = house.directory / "demo.json"
        self._house, self._root = house, root
        self._written: dict[str, Any] | None = None
        self._ended, self._lock = threading.Event(), threading.Lock()
        self.write()
        self._thread = threading.Thread(target=self._follow, name="demo.json", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following, and take the file away: nothing that it names runs any longer."""
        self._ended.set()
        self._thread.join(5)
        self.path.unlink(missing_ok=True)

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.write()

    def write(self) -> None:
        """Make it true now: for who does not want to wait until the next look."""
        with self._lock:
            found = document(self._house, self._root)
            if found != self._written:
                write_atomic(self.path, (json.dumps(found, indent=2) + "\n").encode(), 0o600)
                self._written = found


def document(house: House, root: Path) -> dict[str, Any]:
    """What demo.json says."""
    return {
        "hub": {
            "api": f"https://{house.hub.https}/api/v1",
            "dashboard": house.dashboard,
            "login": house.login,
            "admin": str(house.hub.admin),
            "root": str(root),
        },
        "publication": {
            "directory": str(house.hub.public),
            "http": f"https://{house.hub.https}/bundles",
            "s3": house.s3.url if house.s3 else None,
            "s3_endpoint": house.s3.endpoint if house.s3 else None,
        },
        "clusters": [_cluster(cluster) for cluster in house.clusters],
        "processes": [
            {"name": process.name, "pid": process.look(), "argv": process.argv, "log": str(process.log)}
            for process in house.processes
        ],
    }


def _cluster(cluster: Cluster) -> dict[str, Any]:
    return {
        "trust_domain": cluster.name,
        "admin": str(cluster.admin),
        "bundle_endpoint": f"https://{cluster.bundle}/bundle",
        "istiod_feed": cluster.mcp,
        "istio_directory": str(cluster.istio),
        "agents": [{"socket": str(cluster.api), "admin": str(cluster.agent_admin), "cache": str(cluster.agent_data)}],
        "workloads": [{"spiffe_id": cluster.workload_id, "control": str(cluster.control)}],
    }
