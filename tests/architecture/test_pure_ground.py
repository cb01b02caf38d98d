"""The ground floor is pure: importing every module of trustfed.spiffe loads no library that does I/O."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import trustfed.spiffe

# A network, a database, a framework, an event loop. `socket` itself is not here: importing `cryptography.x509` loads
# `ipaddress` and `email.utils`, and the latter loads `socket`; nothing of ours imports it (the second test).
FORBIDDEN = [
    "_ssl",
    "asyncio",
    "boto3",
    "botocore",
    "concurrent.futures",
    "fastapi",
    "ftplib",
    "google.protobuf",
    "grpc",
    "grpclib",
    "h11",
    "h2",
    "http",
    "http.client",
    "http.server",
    "httpx",
    "hvac",
    "jwt",
    "jwt.jwks_client",
    "logging.handlers",
    "msgspec",
    "multiprocessing",
    "prometheus_client",
    "requests",
    "rich",
    "smtplib",
    "socketserver",
    "sqlalchemy",
    "sqlite3",
    "ssl",
    "starlette",
    "structlog",
    "subprocess",
    "tempfile",
    "trustfed.federation",
    "trustfed.runtime",
    "typer",
    "urllib.error",
    "urllib.request",
    "urllib3",
    "uvicorn",
    "uvloop",
]

MODULES = sorted(f"trustfed.spiffe.{module.name}" for module in pkgutil.iter_modules(trustfed.spiffe.__path__))


def fresh(code: str) -> object:
    """Run code in a new interpreter and return what it prints as JSON."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(result.stdout)


def test_importing_the_ground_floor_loads_no_io_library() -> None:
    loaded = fresh(f"import sys, json; import {', '.join(MODULES)}; print(json.dumps(sorted(sys.modules)))")
    assert isinstance(loaded, list)
    assert set(MODULES) <= set(loaded)
    assert sorted(set(FORBIDDEN) & set(loaded)) == []


def test_the_check_can_fail() -> None:
    loaded = fresh("import sys, json; import jwt; print(json.dumps(sorted(sys.modules)))")
    assert isinstance(loaded, list)
    assert {"jwt.jwks_client", "urllib.request", "ssl"} <= set(loaded) & set(FORBIDDEN)


def test_the_ground_floor_opens_nothing_while_it_verifies() -> None:
    """An audit hook sees every file, socket and process that Python opens; after pyjwt is loaded there is none."""
    code = """
import sys, json
from datetime import UTC, datetime, timedelta
from cryptography.hazmat.primitives.asymmetric import ec
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import Bundle, BundleMap, JwtAuthority
from trustfed.spiffe.ids import SpiffeId, TrustDomain
domain, key, now = TrustDomain("a"), ec.generate_private_key(ec.SECP256R1()), datetime(2026, 1, 1, tzinfo=UTC)
bundles = BundleMap({domain: Bundle(domain, (), (JwtAuthority("k", key.public_key()),))})
def once():
    token = jwtsvid.sign(SpiffeId(domain, "/b"), "c", now, now + timedelta(minutes=1), key, kid="k")
    return jwtsvid.verify(token, bundles, "c", now)
once()
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
once()
print(json.dumps([e for e in seen if e.split(".")[0] in ("open", "socket", "subprocess", "os", "urllib", "import")]))
"""
    assert fresh(code) == []
