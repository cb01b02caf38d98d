"""The table [mesh.kubernetes]: which API server is read. Without the table none is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trustfed.errors import Invalid

_SUFFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)


@dataclass(frozen=True)
class KubernetesConfig:
    """Needs the extra `trustfed[kubernetes]`, and the rights of deploy/kubernetes/cluster-reader.yaml."""

    # A kubeconfig file; without one the service account of the pod that this process runs in is used.
    kubeconfig: Path | None = None
    # The context of that file; "": its current one.
    context: str = ""
    # What comes behind NAME.NAMESPACE.svc. in the hosts of this cluster's services.
    cluster_domain: str = "cluster.local"
    # One request may last so long; a watch is asked for anew after a minute or so in any case.
    timeout: timedelta = timedelta(seconds=20)

    def __post_init__(self) -> None:
        if not _SUFFIX.fullmatch(self.cluster_domain) or len(self.cluster_domain) > 120:
            raise Invalid("mesh.kubernetes.cluster_domain is no DNS name", hint="such as cluster.local")
        if self.context and self.kubeconfig is None:
            raise Invalid("mesh.kubernetes.context names a context of no file", hint="say kubeconfig beside it")
        if not timedelta(seconds=1) <= self.timeout <= timedelta(minutes=5):
            raise Invalid("mesh.kubernetes.timeout must be between 1s and 5m")
