"""The admin socket's paths for what this domain says of its mesh: what `trustfed gateway|export|import` talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, Reason, actor, answered, body_of, page
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.events import LocalSeen
from trustfed.cluster.mesh.state import Own, key
from trustfed.cluster.state import ClusterState
from trustfed.errors import Invalid, NotFound
from trustfed.federation.mesh import Import, Item, item_of, read_item
from trustfed.federation.mesh import body_of as document_of
from trustfed.journal.events import TypedEvent
from trustfed.runtime.paths import Paths
from trustfed.runtime.reach import Reach
from trustfed.spiffe.ids import shown

Row = TypeVar("Row")


class LocalPut(msgspec.Struct, forbid_unknown_fields=True):
    sidecars: str
    answers: list[str] = []
    rules: list[dict[str, Any]] = []
    ports: list[str] = []
    reason: str = ""
    take_over: bool = False


class ItemPut(msgspec.Struct, forbid_unknown_fields=True):
    """`item` is the document of trustfed.federation.mesh without its name; `local` is for an import of one host."""

    item: dict[str, Any]
    reason: str = ""
    take_over: bool = False
    local: LocalPut | None = None


def mesh_paths(app: Paths, parts: AdminParts, reach: Reach) -> None:
    """Add the paths to the admin application; `reach` says which addresses a gateway may have."""
    door = _Door(parts, reach)

    @app.get("/mesh/gateways")
    async def gateways(after: str = "", limit: int = 100) -> Response:
        return door.listed("gateway", after, limit)

    @app.get("/mesh/exports")
    async def exports(after: str = "", limit: int = 100) -> Response:
        return door.listed("export", after, limit)

    @app.get("/mesh/imports")
    async def imports(after: str = "", limit: int = 100) -> Response:
        return door.listed("import", after, limit)

    @app.put("/mesh/gateways/{name}")
    async def gateway_put(name: str, request: Request) -> Response:
        return await door.put("gateway", name, request)

    @app.put("/mesh/exports/{host}")
    async def export_put(host: str, request: Request) -> Response:
        return await door.put("export", host, request)

    @app.put("/mesh/imports/{name}")
    async def import_put(name: str, request: Request) -> Response:
        return await door.put("import", name, request)

    @app.post("/mesh/gateways/{name}/remove")
    async def gateway_removed(name: str, request: Request) -> Response:
        return await door.drop("gateway", name, request)

    @app.post("/mesh/exports/{host}/remove")
    async def export_removed(host: str, request: Request) -> Response:
        return await door.drop("export", host, request)

    @app.post("/mesh/imports/{name}/remove")
    async def import_removed(name: str, request: Request) -> Response:
        return await door.drop("import", name, request)

    @app.get("/mesh/local")
    async def local(after: str = "", limit: int = 100) -> Response:
        held = parts.fold.state.mesh.local
        return answered(_paged("local", held.items(), _local, after, limit))

    @app.put("/mesh/local/{host}")
    async def local_put(host: str, request: Request) -> Response:
        said = await body_of(request, LocalPut)

        def decide(state: ClusterState) -> list[TypedEvent]:
            return own.local(
                state,
                host,
                said.sidecars,
                said.answers,
                said.rules,
                own.COMMAND,
                parts.clock.now(),
                take=said.take_over,
                ports=said.ports,
            )

        await door.record(request, decide, said.reason)
        return answered(_local(parts.fold.state.mesh.local[host]))

    @app.post("/mesh/local/{host}/remove")
    async def local_removed(host: str, request: Request) -> Response:
        said = await body_of(request, Reason)
        await door.record(request, lambda state: own.forget(state, host, own.COMMAND, parts.clock.now()), said.reason)
        return answered({"host": host, "removed": True})


class _Door:
    """What the three kinds have in common."""

    def __init__(self, parts: AdminParts, reach: Reach) -> None:
        self._parts, self._reach = parts, reach

    def listed(self, kind: str, after: str, limit: int) -> Response:
        held = ((one.name, one) for one in self._parts.fold.state.mesh.of_kind(kind))
        return answered(_paged(f"{kind}s", held, _item, after, limit))

    async def put(self, kind: str, name: str, request: Request) -> Response:
        said = await body_of(request, ItemPut)
        item = _read(kind, name, said.item)
        local = said.local
        if local is not None and not (isinstance(item, Import) and item.host):
            raise Invalid(
                f"local knowledge is of one host, and {kind} {name} names none", hint="trustfed mesh local HOST"
            )

        def decide(state: ClusterState) -> list[TypedEvent]:
            now = self._parts.clock.now()
            draft = own.Draft(state, own.COMMAND, now, reach=self._reach, take=said.take_over)
            draft.put(item)
            if local is not None and isinstance(item, Import):
                draft.local(item.host, local.sidecars, local.answers, local.rules, local.ports)
            return draft.done()

        await self.record(request, decide, said.reason, item.owner)
        held = self._parts.fold.state.mesh.own.get(key(kind, item.name))
        if held is None:  # a repeated command, whose item has been removed since
            raise NotFound(f"{kind} {item.name} was put, and has been removed since", hint=f"trustfed {kind} list")
        return answered(_item(held))

    async def drop(self, kind: str, name: str, request: Request) -> Response:
        said = await body_of(request, Reason)
        now = self._parts.clock.now()
        await self.record(request, lambda state: own.drop(state, kind, name, own.COMMAND, now), said.reason)
        return answered({"kind": kind, "name": name, "removed": True})

    async def record(
        self,
        request: Request,
        decide: Callable[[ClusterState], Sequence[TypedEvent]],
        reason: str,
        owner: str = "",
    ) -> None:
        """As the caller, once per Command-Id."""
        await self._parts.fold.execute(
            decide,
            command_id=request.headers.get("command-id") or uuid4().hex,
            actor=actor(request),
            owner=owner,
            reason=reason,
            now=self._parts.clock.now(),
        )


def _read(kind: str, name: str, body: dict[str, Any]) -> Item:
    first = "host" if kind == "export" else "name"
    if body.get(first, name) != name:
        raise Invalid(f"{first} of the {kind} is {shown(body[first])}, the path says {shown(name)}")
    return item_of(kind, {**body, first: name})


def _item(held: Own) -> dict[str, Any]:
    """The document of an item, and where it comes from."""
    body = document_of(read_item(held.kind, held.item))
    if held.kind == "export":
        body.setdefault("callers", [])
    return {
        **body,
        "source": held.source,
        "sequence": held.sequence,
        "created_at": held.created_at,
        "changed_at": held.changed_at,
    }


def _local(seen: LocalSeen) -> dict[str, Any]:
    return {
        "host": seen.host,
        "sidecars": seen.sidecars,
        "answers": seen.answers,
        "rules": msgspec.Raw(seen.rules or b"[]"),
        "ports": seen.ports,
        "source": seen.source,
        "at": seen.at,
    }


def _paged(
    name: str,
    held: Iterable[tuple[str, Row]],
    shown_as: Callable[[Row], dict[str, Any]],
    after: str,
    limit: int,
) -> dict[str, Any]:
    """One page in the order of names; `next` is what to ask for after it, or null. Only its own rows are read."""
    later = sorted((one for one in held if one[0] > after), key=lambda one: one[0])
    found = later[: page(limit)]
    following = found[-1][0] if len(later) > len(found) else None
    return {name: [shown_as(row) for _, row in found], "next": following}
