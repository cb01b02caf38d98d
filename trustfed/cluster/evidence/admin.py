"""The admin socket's paths for evidence: status, figures, questions, checkpoints, and how this cluster stands."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, actor, answered, body_of
from trustfed.cluster.evidence.events import HubLogForgotten
from trustfed.cluster.evidence.fleet_link import FleetLink
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.runner import Runner
from trustfed.cluster.evidence.witnessing import Witnessing
from trustfed.errors import Invalid
from trustfed.evidence.figures import Window
from trustfed.evidence.model import BUCKET_MS
from trustfed.runtime import logs
from trustfed.runtime.paths import Paths
from trustfed.runtime.timestamps import to_ms

log = logs.get("cluster.evidence")

MAX_QUESTION = 64 << 10
_MONTH_MS = 30 * 86_400_000


class Question(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    body: msgspec.Raw = msgspec.Raw(b"{}")


class CheckpointOrder(msgspec.Struct, forbid_unknown_fields=True):
    export: bool = False  # into evidence.witness_directory, also if it has today's


class Forgetting(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""


def evidence_paths(
    app: Paths, parts: AdminParts, runner: Runner, own: ClusterLogs, witnessing: Witnessing, link: FleetLink
) -> None:
    """Add them to the application."""

    @app.get("/evidence/status")
    async def status() -> Response:
        store = runner.store
        return answered(
            {
                "position": store.position,
                "ledger": parts.ledger.position,
                "as_of_ms": store.as_of_ms,
                "store": store.store_id,
                "definition": store.definition.hash,
                "log_key": own.vkey.text,
                "cosigner_key": witnessing.cosigner.text if witnessing.cosigner is not None else None,
                "logs": own.standing(),
                "hub": link.status(),
                "probes_down": runner.probes_down(),
                "alarms": runner.alarms(),
            }
        )

    @app.get("/evidence/figures")
    async def figures(request: Request) -> Response:
        query = request.query_params
        end = moment(query.get("to", ""), "to") if query.get("to") else runner.store.as_of_ms // BUCKET_MS * BUCKET_MS
        begin = moment(query.get("from", ""), "from") if query.get("from") else end - _MONTH_MS
        return answered(await runner.store.figures(Window(begin, end)))

    @app.post("/evidence/query")
    async def question(request: Request) -> Response:
        if len(await request.body()) > MAX_QUESTION:
            raise Invalid("the question is too long", hint=f"at most {MAX_QUESTION} bytes")
        said = await body_of(request, Question)
        return Response(await runner.answer(said.kind, bytes(said.body)), media_type="application/json")

    @app.get("/evidence/standing")
    async def standing() -> Response:
        return Response(await runner.standing(), media_type="application/json")

    @app.post("/evidence/checkpoint")
    async def checkpoint(request: Request) -> Response:
        said = await body_of(request, CheckpointOrder)
        signed = await own.cut()
        return answered(
            {
                "origin": signed.checkpoint.origin,
                "size": signed.checkpoint.size,
                "root": base64.b64encode(signed.checkpoint.root).decode(),
                "ledger_size": parts.fold.state.evidence.checkpoint_size,
                "note": signed.data.decode(),
                "cosigned": own.cosigned_note().decode(),
                "exported": await own.export() if said.export else "",
            }
        )

    @app.post("/evidence/forget-hub-log")
    async def forget(request: Request) -> Response:
        said = await body_of(request, Forgetting)
        if not said.reason.strip():
            raise Invalid("to forget the hub's log needs a reason", hint="--reason 'the hub was made anew'")
        who, reason = actor(request), said.reason.strip()

        async def record(held: HubLogForgotten) -> None:
            # Under an id of its own: a Command-Id that was used before would record nothing, and all the same be a success.
            await parts.fold.execute(
                lambda state: [held], command_id=uuid4().hex, actor=who, reason=reason, now=parts.clock.now()
            )

        forgotten = await witnessing.forget(record)
        if forgotten:
            log.warning("the hub's log is forgotten", actor=who, reason=reason[:200])
        return answered({"forgotten": forgotten})


def moment(text: str, name: str) -> int:
    """Unix ms from RFC 3339 or from a number of ms, down to a whole bucket. Raises Invalid naming `name`."""
    if text.isascii() and text.isdigit() and len(text) < 16:
        return int(text) // BUCKET_MS * BUCKET_MS
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{name}={text[:40]!r} is no time", hint="2026-11-01T00:00:00Z, or Unix milliseconds") from None
    return to_ms(found if found.tzinfo else found.replace(tzinfo=UTC)) // BUCKET_MS * BUCKET_MS
