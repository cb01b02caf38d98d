"""SPIRE with its defaults, but for rate limits (off), loopback addresses and a directory of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load import Door, LoadClient, Sample
from bench.procs import Process, run, wait_until
from bench.product import ENTRIES, FIRST_UID, HOME, OWN_PATH, OWN_SELECTOR, PEER
from trustfed.demo.ports import free_port

NODE = f"spiffe://{HOME}/node"  # every entry's parent; each join token maps its agent to it
CACHE_RELOAD_SECONDS = 6  # the server reloads its entry cache every 5 s
SERVER_ID = f"spiffe://{HOME}/spire/server"

SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/api.sock"
  trust_domain = "{domain}"
  data_dir = "{folder}"
  ratelimit {{ attestation = false  signing = false }}
  federation {{ {federation} }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3"  connection_string = "{folder}/store.sqlite3" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""
SERVES_BUNDLE = """bundle_endpoint {{ address = "127.0.0.1"  port = {port}  profile "https_spiffe" {{}} }}"""
READS_BUNDLE = """federates_with "{domain}" {{
    bundle_endpoint_url = "https://127.0.0.1:{port}"
    bundle_endpoint_profile "https_spiffe" {{ endpoint_spiffe_id = "spiffe://{domain}/spire/server" }}
  }}"""
AGENT = """
agent {{
  data_dir = "{folder}"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{folder}/agent.sock"
  trust_bundle_path = "{folder}/bundle.pem"
  trust_domain = "{domain}"
  join_token_file = "{folder}/token"
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class Spire:
    """Two servers, the home one federated with the other by https_spiffe, and the home domain's agent."""

    name = "SPIRE"

    def __init__(self, server: Path, agent: Path, directory: Path, client: LoadClient) -> None:
        self._server, self._agent, self._directory, self._client = server, agent, directory, client
        self.version = run([server, "--version"]).strip()
        self.socket = directory / "agent" / "agent.sock"
        self._home, self._peer, self._node = (directory / name for name in ("home", "peer", "node"))
        self._port = free_port()
        self._running: dict[str, Process] = {}

    def start(self) -> float:
        for folder in (self._home, self._peer, self._node, self._directory / "agent"):
            folder.mkdir(mode=0o700, parents=True)
        endpoint = free_port()
        self._serve("peer server", self._peer, PEER, free_port(), SERVES_BUNDLE.format(port=endpoint))
        self._serve("server", self._home, HOME, self._port, READS_BUNDLE.format(domain=PEER, port=endpoint))
        document = self._api(self._peer, "bundle", "show", "-format", "spiffe")
        self._api(self._home, "bundle", "set", "-format", "spiffe", "-id", f"spiffe://{PEER}", text=document)
        self._create_entries()
        self._client_node()
        self._prepare_agent()
        time.sleep(CACHE_RELOAD_SECONDS)  # else the first start would wait for the server to see what it was just told
        return self._client.first(self.socket, self._start_agent)

    def stop(self) -> None:
        for process in reversed(self._running.values()):
            process.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def processes(self) -> dict[str, int]:
        return {"cluster (SPIRE: server)": self._running["server"].pid, "agent": self._running["agent"].pid}

    def restart_agent(self, limit: float = 60.0) -> float:
        self._running["agent"].stop()
        return self._client.first(self.socket, self._start_agent, limit)

    @contextmanager
    def alone(self) -> Iterator[None]:
        for name in ("server", "peer server"):
            self._running[name].stop()
        try:
            yield
        finally:
            self._run_server("peer server", self._peer)
            self._run_server("server", self._home)
            if not self._running["agent"].running():  # it ends by itself when it finds no server
                self._client.first(self.socket, self._start_agent)

    def issue(self, size: int, callers: int, seconds: float) -> Sample:
        door = Door("batch", f"127.0.0.1:{self._port}", self._node, SERVER_ID)
        return self._client.issuance(door, size, callers, seconds)

    def create_entry(self, path: str) -> str:
        spiffe_id = f"spiffe://{HOME}{path}"
        options = ["-parentID", NODE, "-spiffeID", spiffe_id, "-selector", OWN_SELECTOR]
        self._api(self._home, "entry", "create", *options)
        return spiffe_id

    def prepare_authority(self) -> int:
        begun = time.time_ns()
        self._api(self._peer, "localauthority", "x509", "prepare")
        return begun

    def _serve(self, name: str, folder: Path, domain: str, port: int, federation: str) -> None:
        (folder / "server.conf").write_text(
            SERVER.format(port=port, folder=folder, domain=domain, federation=federation)
        )
        self._run_server(name, folder)

    def _run_server(self, name: str, folder: Path) -> None:
        (folder / "api.sock").unlink(missing_ok=True)
        argv = [self._server, "run", "-config", folder / "server.conf"]
        process = self._running[name] = Process(name, argv, folder / "log")
        wait_until((folder / "api.sock").exists, "its API socket", process)
        run([self._server, "healthcheck", "-socketPath", folder / "api.sock"])

    def _api(self, folder: Path, *command: str, text: str | None = None) -> str:
        return run([self._server, *command, "-socketPath", folder / "api.sock"], text=text)

    def _create_entries(self) -> None:
        def entry(path: str, uid: str) -> dict[str, object]:
            selectors = [{"type": "unix", "value": uid}]
            return {"spiffe_id": f"spiffe://{HOME}{path}", "parent_id": NODE, "selectors": selectors}

        others = [entry(f"/bench/other-{n}", f"uid:{FIRST_UID + n}") for n in range(ENTRIES)]
        own = entry(OWN_PATH, OWN_SELECTOR.removeprefix("unix:"))
        own["federates_with"] = [f"spiffe://{PEER}"]
        self._api(self._home, "entry", "create", "-data", "-", text=json.dumps({"entries": [*others, own]}))

    def _client_node(self) -> None:
        """The load client joins as a second node, so that it may ask for SVIDs as an agent does."""
        where = ["-address", f"127.0.0.1:{self._port}", "-admin", f"unix://{self._home}/api.sock"]
        who = ["-server", SERVER_ID, "-parent", NODE, "-credentials", self._node]
        run([self._client.binary, "-mode", "enrol", *where, *who])

    def _prepare_agent(self) -> None:
        folder = self._directory / "agent"
        token = json.loads(self._api(self._home, "token", "generate", "-spiffeID", NODE, "-output", "json"))["value"]
        (folder / "token").write_text(token)
        (folder / "bundle.pem").write_text(self._api(self._home, "bundle", "show"))
        (folder / "agent.conf").write_text(AGENT.format(folder=folder, port=self._port, domain=HOME))

    def _start_agent(self) -> int:
        folder = self._directory / "agent"
        argv = [self._agent, "run", "-config", folder / "agent.conf"]
        process = self._running["agent"] = Process("agent", argv, folder / "log")
        return process.started_ns
