"""A process starts without what it does not need: each package below is tens of milliseconds of a core, or hundreds."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.architecture.tree import sources, text

HEAVY = {
    *("boto3", "botocore", "cryptography", "fastapi", "fpdf", "google", "grpc", "grpclib", "h2", "httpx", "hvac"),
    *("jinja2", "jwt", "kubernetes", "msgspec", "pydantic", "requests", "rich", "starlette", "tuf", "uvicorn", "yaml"),
}


def test_a_command_loads_nothing_heavy() -> None:
    """One that asks an admin socket. 0.15 s in all; what it did load before was 0.35 s more, 0.13 of them pydantic."""
    program = (
        "import json, sys\nfrom trustfed.cli.main import main\n"
        "code = main(['entry', 'list', '--output', 'json', '--socket', '/nonexistent/socket'])\n"
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    code, loaded = json.loads(done.stdout)
    assert code == 6 and "cannot be reached" in done.stderr
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def test_a_cluster_does_without_fastapi() -> None:
    """0.5 s of each cluster's start, for schemas that its doors do not use (trustfed.runtime.paths)."""
    found = [path for path in sources("trustfed") if path.is_relative_to("trustfed/cluster")]
    assert len(found) > 100
    loading = re.compile(r"^\s*(?:from|import) (?:fastapi|pydantic)\b", re.MULTILINE)
    assert not {str(path) for path in found if loading.search(text(path))}
    assert loading.search("    from fastapi import FastAPI")
