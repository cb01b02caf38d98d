"""A real SPIRE server, when TRUSTFED_SPIRE_SERVER names its binary: the peer that is most often foreign."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.system.stack import Process, Stack
from trustfed.demo.ports import free_port
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

BINARY = os.environ.get("TRUSTFED_SPIRE_SERVER", "")
SPIRE = "spire.example"
SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{socket}"
  trust_domain = "{domain}"
  data_dir = "{folder}"
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {endpoint}
      refresh_hint = "{hint}"
      {serves}
    }}
  }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3"  connection_string = "{folder}/store.sqlite3" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""
SERVES_SPIFFE = 'profile "https_spiffe" {}'
SERVES_WEB = """profile "https_web" {{
        serving_cert_file {{ cert_file_path = "{cert}"  key_file_path = "{key}"  file_sync_interval = "1m" }}
      }}"""


class Spire:
    """One server; `serves` is how its own bundle endpoint is known, `roots` what it trusts as the Web PKI."""

    def __init__(self, stack: Stack, name: str, *, serves: str = SERVES_SPIFFE, roots: Path | None = None) -> None:
        self.folder = stack.folder / name
        self.folder.mkdir(mode=0o700)
        self.socket, self.endpoint = stack.sockets / f"{name}.sock", free_port()
        self.url = f"https://127.0.0.1:{self.endpoint}"
        config = stack.folder / f"{name}.conf"
        config.write_text(
            SERVER.format(
                port=free_port(),
                socket=self.socket,
                domain=SPIRE,
                folder=self.folder,
                endpoint=self.endpoint,
                hint="10s",
                serves=serves,
            )
        )
        self.process: Process = stack.process(name, [BINARY, "run", "-config", str(config)], self.ready)
        if roots is not None:
            self.process.environment = {"SSL_CERT_FILE": str(roots)}
        self.process.start()

    def ready(self) -> bool:
        return self._run("healthcheck").returncode == 0

    def ask(self, *command: str, text: str = "") -> str:
        done = self._run(*command, text=text)
        assert done.returncode == 0, f"spire-server {' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def federate(self, domain: str, url: str, server: str = "", bundle: str = "") -> None:
        """Have it read `domain`'s bundle at `url`: by https_spiffe from `server`, known by `bundle`, else by https_web."""
        words = ["-trustDomain", domain, "-bundleEndpointURL", url]
        if server:
            first = self.folder / f"{domain}.json"
            first.write_text(bundle)
            words += ["-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", server]
            words += ["-trustDomainBundlePath", str(first), "-trustDomainBundleFormat", "spiffe"]
        else:
            words += ["-bundleEndpointProfile", "https_web"]
        self.ask("federation", "create", *words)

    def bundle(self) -> Bundle:
        return Bundle.parse(TrustDomain(SPIRE), self.ask("bundle", "show", "-format", "spiffe").encode())

    def holds(self, domain: str) -> Bundle:
        """What it holds of another domain."""
        said = self.ask("bundle", "list", "-format", "spiffe", "-id", f"spiffe://{domain}")
        return Bundle.parse(TrustDomain(domain), said[said.index("{") :].encode())

    def rotate(self) -> float:
        """Prepare a new X.509 authority; the moment at which it is in the bundle."""
        before = len(self.bundle().x509_authorities)
        self.ask("localauthority", "x509", "prepare")
        at = time.monotonic()
        assert len(self.bundle().x509_authorities) == before + 1
        return at

    def forget(self) -> None:
        """A new datastore and new keys, as after a disaster."""
        self.process.stop()
        for name in ("store.sqlite3", "keys.json"):
            (self.folder / name).unlink()
        self.process.start()

    def svid(self, path: str) -> list[bytes]:
        """A minted X509-SVID: its chain, DER."""
        from trustfed.cli.keyfiles import certificates

        out = self.folder / "minted"
        out.mkdir(exist_ok=True)
        self.ask("x509", "mint", "-spiffeID", f"spiffe://{SPIRE}{path}", "-write", str(out))
        return certificates((out / "svid.pem").read_bytes(), "svid.pem")

    def _run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        words = [*command, "-socketPath", str(self.socket)]
        return subprocess.run([BINARY, *words], capture_output=True, text=True, input=text, timeout=30, check=False)


def write_pair(folder: Path, keypair: KeyPair) -> tuple[Path, Path]:
    """A certificate and its key as files."""
    certificate, key = folder / "web.pem", folder / "web.key"
    certificate.write_bytes(keypair.chain_pem())
    key.touch(mode=0o600)
    key.write_bytes(keypair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key
