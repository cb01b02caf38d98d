"""The federation's roots as a PEM file, for curl and the like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustfed.errors import Denied, Unavailable
from trustfed.federation.roots import RootSet, reopen
from trustfed.runtime.files import write_atomic
from trustfed.runtime.https_client import root_documents
from trustfed.runtime.sockets import parse_address
from trustfed.spiffe.x509svid import pem


def write_root(https: str, told: dict[str, Any], path: Path) -> RootSet:
    """Fetch the newest root set from the hub's HTTPS door, hold it against the hash from its admin socket, write it."""
    host, port = parse_address(https)
    documents = root_documents(host, port)
    if not documents:
        raise Unavailable("the hub has no root set")
    root_set = reopen(documents[-1])
    if root_set.hash != told["hash"]:
        raise Denied(f"the hub's HTTPS door gives root set {root_set.hash}, its admin socket {told['hash']}")
    write_atomic(path, pem(root_set.roots), 0o644)
    return root_set
