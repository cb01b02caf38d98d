"""What "rotation success" means, as a versioned document with a hash: another number in it is another metric.

Its canonical bytes are RFC 8785 JSON (trustfed.journal.jcs), so shares are whole numbers per thousand. The rules that use
the numbers are in trustfed.evidence.rules.
"""

from __future__ import annotations

import hashlib

import msgspec

from trustfed.errors import Invalid
from trustfed.evidence.model import BUCKET_MS
from trustfed.journal.jcs import encode

VERSION = 1


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every number of the metric. Times in ms, shares in thousandths of a life (NotAfter - NotBefore)."""

    version: int = VERSION
    due_permille: int = 500
    """A rotation is due at half life."""
    on_time_permille: int = 750
    """It is on time until here."""
    unknown_grace_ms: int = 60_000
    """How long after a limit the engine waits for facts on their way before it says that there are none."""
    close_ms: int = 24 * 3_600_000
    """Facts recorded later than this after an obligation's hard limit correct nothing any more; they are listed."""
    probe_memory_ms: int = 24 * 3_600_000
    """An instance that a probe confirmed within this time must be confirmed again."""
    lead_ms: int = 31 * 86_400_000
    """Longer than any leaf lives: where a fold begins in the midst of a ledger, serials are called unknown only after this."""
    coverage_floor_permille: int = 950
    """Below this coverage a headline is withheld."""
    confidence_permille: int = 950
    """Of the Clopper-Pearson interval, two-sided."""
    bucket_ms: int = BUCKET_MS
    levels: dict[str, str] = msgspec.field(
        default_factory=lambda: {
            "workload_api": "delivered",
            "sds": "loaded",
            "node": "confirmed",
            "probed": "confirmed",
        }
    )
    """Which level an obligation must reach, by how its predecessor was delivered."""

    def canonical(self) -> bytes:
        """The bytes that are hashed, packed and recorded."""
        return encode(self.body(), self.body(), "definition")

    def body(self) -> dict[str, object]:
        """The document as JSON types: the body of the fact evidence.policy."""
        document: dict[str, object] = msgspec.to_builtins(self)
        return document

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical bytes, lower-case hex."""
        return hashlib.sha256(self.canonical()).hexdigest()


DEFINITION = Definition()


def read_definition(document: object) -> Definition:
    """The definition in a document (bytes or decoded JSON). Raises Invalid for one that this program cannot apply."""
    try:
        given = (
            msgspec.json.decode(document, type=Definition)
            if isinstance(document, bytes)
            else msgspec.convert(document, Definition)
        )
    except msgspec.MsgspecError as error:
        raise Invalid(f"this is no definition of rotation success: {error}", hint="use the one in the pack") from None
    if given.version != VERSION:
        raise Invalid(
            f"definition version {given.version} is unknown; this program knows {VERSION}",
            hint="use the trustfed that wrote it",
        )
    if given.levels != DEFINITION.levels or given.bucket_ms != BUCKET_MS:
        raise Invalid("the definition's levels or buckets are not those of version 1", hint="use the one in the pack")
    shares = (given.due_permille, given.on_time_permille, given.coverage_floor_permille, given.confidence_permille)
    times = (given.unknown_grace_ms, given.close_ms, given.probe_memory_ms, given.lead_ms)
    if not all(0 < share < 1000 for share in shares) or given.due_permille > given.on_time_permille:
        raise Invalid("a share of the definition is out of range", hint="1 to 999 thousandths, due before on time")
    if not all(0 <= time <= 400 * 86_400_000 for time in times):
        raise Invalid("a time of the definition is out of range", hint="0 ms to 400 days")
    return given
