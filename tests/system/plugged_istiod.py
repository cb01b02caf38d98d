"""A real istiod (TRUSTFED_ISTIOD, 1.29.x) with a folder of ours plugged in as its CA; no Kubernetes, loopback only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType

from tests.system.stack import until
from trustfed.demo.ports import free_port

BINARY = os.environ.get("TRUSTFED_ISTIOD", "")


class PluggedIstiod:
    """`with PluggedIstiod(cacerts, folder) as istiod:`; its log is what it says about the CA."""

    def __init__(self, cacerts: Path, folder: Path, *, multiroot: bool = True) -> None:
        self._folder, self._log = folder, folder / "istiod.log"
        self._environment = {
            **os.environ,
            "ROOT_CA_DIR": str(cacerts),
            "POD_NAME": "istiod-0",
            "ISTIO_MULTIROOT_MESH": "true" if multiroot else "false",
        }
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PluggedIstiod:
        self._folder.mkdir(exist_ok=True)
        mesh = self._folder / "mesh.yaml"
        mesh.write_text("trustDomain: prod-us-west\n")
        ports = [f"127.0.0.1:{free_port()}" for _ in range(4)]
        flags = ["httpAddr", "grpcAddr", "secureGRPCAddr", "monitoringAddr"]
        argv = [BINARY, "discovery", "--registries=", f"--meshConfig={mesh}", "--clusterID=west", "--httpsAddr="]
        argv += [f"--{flag}={port}" for flag, port in zip(flags, ports, strict=True)] + ["--ctrlz_port=0"]
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                argv, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._popen is not None
        self._popen.kill()
        self._popen.wait(10)
        if error is not None:
            error.add_note("\n".join(self.log().splitlines()[-40:]))

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def said(self, what: str, times: int = 1) -> None:
        """Return once its log has this so often."""
        until(lambda: self.log().count(what) >= times, f"istiod to say {what!r} {times} times")
