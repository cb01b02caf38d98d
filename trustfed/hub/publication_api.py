"""What operators ask and order of the protected publication: its online keys, and its roots."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from trustfed.errors import NotFound, Unavailable
from trustfed.federation.envelope import PublicationKey
from trustfed.hub.api import Admin, Parts, Viewer
from trustfed.hub.protection import Protection

Json = dict[str, Any]
MAX_ROOT = 65_536


class RootInstallation(BaseModel):
    """A root as a ceremony made it: the file's text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    document: str = Field(max_length=MAX_ROOT)


def routes(parts: Parts) -> APIRouter:
    """All routes of this file."""
    router = APIRouter(prefix="/publication")

    def protection() -> Protection:
        if parts.protection is None:
            raise Unavailable("this hub has no protected publication")
        return parts.protection

    @router.get("/keys")
    async def keys(caller: Admin) -> Json:
        """The hub's newest online keys, for a root to name; made when they are first asked for."""
        return _shown(await protection().online_keys())

    @router.post("/keys", status_code=201)
    async def new_keys(caller: Admin) -> Json:
        """Other online keys, for the next root to name; the old ones sign until that root is installed."""
        return _shown(await protection().online_keys(anew=True))

    @router.get("/root")
    async def root(caller: Viewer) -> Json:
        """The newest installed root."""
        held = parts.operations.state.tuf_roots
        if not held:
            raise NotFound("no root of the protected publication is installed", hint="trustfed publication root create")
        return {"version": len(held), "document": held[-1].document.decode()}

    @router.post("/root", status_code=201)
    async def install(caller: Admin, given: Annotated[RootInstallation, Body()]) -> Json:
        """Install the next root: it must follow the newest one, and name online keys of this hub."""
        document = given.document.strip().encode()
        version, expires = await protection().check_root(document, parts.operations.now())
        await parts.operations.install_publication_root(caller, document, version, expires)
        return protection().status()

    return router


def _shown(keys: dict[str, PublicationKey]) -> Json:
    return {name: base64.b64encode(key.spki).decode() for name, key in keys.items()}
