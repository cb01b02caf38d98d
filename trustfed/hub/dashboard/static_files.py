"""The few files that pages refer to, each under a name that has its content's hash: it may be kept for ever.

    static.url("style.css")  →  /dashboard/static/style.3f9a1c22b7d0e4aa.css

They are read once, when the hub starts. Nothing else can be asked for: the answer comes from a table, not from a path.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from trustfed.errors import NotFound
from trustfed.runtime.files import read_bounded
from trustfed.spiffe.ids import shown

FOLDER = Path(__file__).parent / "static"
MAX_FILE = 256 << 10
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_KEEP = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class _File:
    name: str
    content_type: str
    data: bytes
    packed: bytes


class StaticFiles:
    """Everything in one folder, by name and by the name that it has outside."""

    def __init__(self, prefix: str, folder: Path = FOLDER) -> None:
        self._prefix = prefix
        self._files: dict[str, _File] = {}
        self._urls: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix not in _TYPES:
                continue
            data = read_bounded(path, MAX_FILE)
            digest = hashlib.sha256(data).hexdigest()[:16]
            outside = f"{path.stem}.{digest}{path.suffix}"
            self._files[outside] = _File(outside, _TYPES[path.suffix], data, gzip.compress(data, 9, mtime=0))
            self._urls[path.name] = f"{prefix}/{outside}"

    def url(self, name: str) -> str:
        """Where pages find a file. KeyError for one that there is not: a template is wrong then, not a request."""
        return self._urls[name]

    async def serve(self, request: Request) -> Response:
        """One file. NotFound for any other name."""
        name = request.path_params["name"]
        found = self._files.get(name)
        if found is None:
            raise NotFound(f"there is no file {shown(name)}", hint="reload the page: the dashboard was updated")
        headers = {"Cache-Control": _KEEP, "Content-Type": found.content_type, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(found.packed, headers={**headers, "Content-Encoding": "gzip"})
        return Response(found.data, headers=headers)
