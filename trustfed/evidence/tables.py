"""The tables of evidence.db, and the statements on them. Called on the database's threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from trustfed.evidence.changes import Changes, Correction, Counters, ProbeState, UnknownSerial, plain
from trustfed.evidence.model import BUCKET_MS, COUNTS, FAILED, FEW, Class, Obligation, Outcome
from trustfed.journal.database import Format

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
WIDTHS = (BUCKET_MS, HOUR_MS, DAY_MS)
KEPT_MS = {BUCKET_MS: 3 * DAY_MS, HOUR_MS: 35 * DAY_MS, DAY_MS: 400 * DAY_MS}
"""For how long counts are kept at each width; then they join the next, and go after 13 months."""

MAX_LISTED = 100_000
"""Unknown serials, and corrections: of each, the newest."""

# "tfE1" in ASCII. Another version is made anew from the ledger.
FORMAT = Format(
    0x74664531,
    1,
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE counters (class TEXT NOT NULL, width INTEGER NOT NULL, bucket INTEGER NOT NULL,"
        " changed INTEGER NOT NULL, counts BLOB NOT NULL, PRIMARY KEY (width, bucket, class)) WITHOUT ROWID",
        "CREATE INDEX counters_changed ON counters (changed)",
        "CREATE TABLE obligations (id TEXT PRIMARY KEY, class TEXT NOT NULL, outcome TEXT NOT NULL,"
        " on_time INTEGER NOT NULL, settled INTEGER NOT NULL, failed INTEGER NOT NULL, changed INTEGER NOT NULL,"
        " spiffe_id TEXT NOT NULL, instance TEXT NOT NULL, predecessor TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID",
        "CREATE INDEX obligations_due ON obligations (on_time, id)",
        "CREATE INDEX obligations_changed ON obligations (changed) WHERE failed = 1",
        "CREATE INDEX obligations_pending ON obligations (settled) WHERE settled = 0",
        "CREATE INDEX obligations_of ON obligations (instance, on_time)",
        "CREATE TABLE identities (instance TEXT NOT NULL, slot TEXT NOT NULL, spiffe_id TEXT NOT NULL,"
        " node TEXT NOT NULL, entry TEXT NOT NULL, serial TEXT NOT NULL, at INTEGER NOT NULL,"
        " PRIMARY KEY (instance, slot)) WITHOUT ROWID",
        "CREATE INDEX identities_of ON identities (spiffe_id)",
        "CREATE TABLE probes (at INTEGER NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL,"
        " PRIMARY KEY (at, n)) WITHOUT ROWID",
        "CREATE TABLE listed (n INTEGER PRIMARY KEY, what TEXT NOT NULL, serial TEXT NOT NULL, at INTEGER NOT NULL,"
        " body BLOB NOT NULL)",
        "CREATE INDEX listed_what ON listed (what, n)",
    ),
)


class Identity(msgspec.Struct, frozen=True):
    """One slot of one instance, and its newest serial; in the table it may be one of the last day (EvidenceStore.identities)."""

    instance: str
    slot: str
    spiffe_id: str
    node: str
    entry: str
    serial: str
    at_ms: int


def identity(row: Sequence[Any]) -> Identity:
    """A row of `identities`, its columns in order."""
    instance, slot, spiffe_id, node, entry, serial = (_text(column) for column in row[:6])
    return Identity(instance, slot, spiffe_id, node, entry, serial, int(row[6]))


def get(connection: sqlite3.Connection, name: str, default: int = 0) -> int:
    """A number of `meta`."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row is not None else default


def put(connection: sqlite3.Connection, name: str, value: int | str) -> None:
    """Set one value of `meta`."""
    connection.execute("REPLACE INTO meta VALUES (?, ?)", (name, str(value)))


def text(connection: sqlite3.Connection, name: str) -> str:
    """A string of `meta`; "" if there is none."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return _text(row[0]) if row is not None else ""


def clear(connection: sqlite3.Connection) -> None:
    """Empty every table."""
    for table in ("meta", "counters", "obligations", "identities", "probes", "listed"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the line above


def apply(connection: sqlite3.Connection, changes: Changes, pending: set[str]) -> None:
    """Write what an engine told. `pending` are the ids of rows that are there and not settled; it is kept up to date."""
    number = get(connection, "changed")
    for (class_, bucket), delta in changes.counters.items():
        number += 1
        _count(connection, class_, bucket, delta, number)
    for it in changes.obligations:
        stored = it.id in pending
        if not stored and it.class_ not in FEW and it.outcome in (Outcome.OPEN, Outcome.ON_TIME):
            continue  # most: they are in the counters, and in the ledger
        number += 1
        failed = it.outcome in FAILED or (stored and _failed_before(connection, it.id))
        connection.execute(
            "REPLACE INTO obligations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(it.id, it.class_.value, it.outcome.value, it.on_time_ms, int(it.settled), int(failed), number),
                *(it.spiffe_id, it.instance, it.predecessor, msgspec.json.encode(plain(it))),
            ),
        )
        if it.settled:
            pending.discard(it.id)
        else:
            pending.add(it.id)
    connection.executemany(
        # Most say again what is there but for the serial: the index by SPIFFE ID is left alone.
        "INSERT INTO identities VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance, slot) DO UPDATE SET"
        " spiffe_id = excluded.spiffe_id, node = excluded.node, entry = excluded.entry, serial = excluded.serial,"
        " at = excluded.at",
        [(o.instance, o.slot, str(o.spiffe_id), o.node, str(o.entry), o.serial, o.issued_ms) for o in changes.named],
    )
    connection.executemany(
        # A slot may be left and taken again within one batch: then it was named anew.
        "UPDATE identities SET serial = ?1, at = ?2 WHERE instance = ?3 AND slot = ?4 AND at < ?2",
        [(one.serial, one.at_ms, one.instance, one.slot) for one in changes.left],
    )
    for state in changes.probes:
        number += 1
        connection.execute("INSERT INTO probes VALUES (?, ?, ?, ?)", (state.at_ms, state.name, state.state, number))
    _list(connection, "unknown", [(one.serial, one.at_ms, one) for one in changes.unknown])
    _list(connection, "correction", [(one.serial, one.at_ms, one) for one in changes.corrections])
    put(connection, "changed", number)


def _count(connection: sqlite3.Connection, class_: Class, bucket: int, delta: Sequence[int], number: int) -> None:
    """Add to the row that holds this bucket: a wider one, if it has been compacted already."""
    compacted = {HOUR_MS: get(connection, "hours_until"), DAY_MS: get(connection, "days_until")}
    width = BUCKET_MS
    if bucket < compacted[DAY_MS]:
        width = DAY_MS
    elif bucket < compacted[HOUR_MS]:
        width = HOUR_MS
    at = bucket - bucket % width
    row = connection.execute(
        "SELECT counts FROM counters WHERE width = ? AND bucket = ? AND class = ?", (width, at, class_.value)
    ).fetchone()
    if row is not None:
        delta = [old + new for old, new in zip(msgspec.json.decode(row[0], type=list[int]), delta, strict=True)]
    connection.execute(
        "REPLACE INTO counters VALUES (?, ?, ?, ?, ?)", (class_.value, width, at, number, msgspec.json.encode(delta))
    )


def _failed_before(connection: sqlite3.Connection, id_: str) -> bool:
    row = connection.execute("SELECT failed FROM obligations WHERE id = ?", (id_,)).fetchone()
    return row is not None and bool(row[0])


def _list(
    connection: sqlite3.Connection, what: str, rows: Sequence[tuple[str, int, UnknownSerial | Correction]]
) -> None:
    if not rows:
        return
    connection.executemany(
        "INSERT INTO listed (what, serial, at, body) VALUES (?, ?, ?, ?)",
        [(what, serial, at, msgspec.json.encode(body)) for serial, at, body in rows],
    )
    connection.execute(
        "DELETE FROM listed WHERE what = ? AND n <= (SELECT max(n) FROM listed WHERE what = ?) - ?",
        (what, what, MAX_LISTED),
    )


def compact(connection: sqlite3.Connection, now_ms: int) -> bool:
    """Let old buckets join wider ones, and what is older than 13 months go; whether anything moved."""
    moved = False
    for narrow, wide, name in ((BUCKET_MS, HOUR_MS, "hours_until"), (HOUR_MS, DAY_MS, "days_until")):
        until = (now_ms - KEPT_MS[narrow]) // DAY_MS * DAY_MS
        if until <= get(connection, name):
            continue
        rows = connection.execute(
            "SELECT class, bucket, changed, counts FROM counters WHERE width = ? AND bucket < ?", (narrow, until)
        ).fetchall()
        sums: dict[tuple[bytes, int], tuple[int, list[int]]] = {}
        for class_, bucket, changed, counts in rows:
            key = (class_, bucket - bucket % wide)
            number, total = sums.get(key, (0, [0] * len(COUNTS)))
            given = msgspec.json.decode(counts, type=list[int])
            sums[key] = max(number, changed), [old + new for old, new in zip(total, given, strict=True)]
        connection.execute("DELETE FROM counters WHERE width = ? AND bucket < ?", (narrow, until))
        connection.executemany(
            "REPLACE INTO counters VALUES (?, ?, ?, ?, ?)",
            [(_text(key[0]), wide, key[1], one[0], msgspec.json.encode(one[1])) for key, one in sums.items()],
        )
        newest = max((changed for _, _, changed, _ in rows), default=0)
        put(connection, "compacted", max(newest, get(connection, "compacted")))
        put(connection, name, until)
        moved = True
    if moved:
        gone = now_ms - KEPT_MS[DAY_MS]
        connection.execute("DELETE FROM counters WHERE width = ? AND bucket < ?", (DAY_MS, gone))
        connection.execute("DELETE FROM obligations WHERE on_time < ? AND settled = 1", (gone,))
        connection.execute("DELETE FROM identities WHERE at < ?", (gone,))
        connection.execute(
            "DELETE FROM probes WHERE at < ? AND n NOT IN (SELECT n FROM probes AS p WHERE at < ? AND NOT EXISTS"
            " (SELECT 1 FROM probes AS q WHERE q.name = p.name AND q.at > p.at AND q.at < ?))",
            (gone, gone, gone),
        )
    return moved


def counters(connection: sqlite3.Connection, from_ms: int, to_ms: int) -> Counters:
    """The counters of [from_ms, to_ms), at whatever width they have by now."""
    return {
        (Class(_text(class_)), bucket): msgspec.json.decode(counts, type=list[int])
        for class_, bucket, counts in connection.execute(
            "SELECT class, bucket, counts FROM counters WHERE width IN (?, ?, ?) AND bucket >= ? AND bucket < ?",
            (*WIDTHS, from_ms, to_ms),
        )
    }


def changed_counters(connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, str, int, list[int]]]:
    """Rows with their change number, class, bucket and counts, in the order in which they changed."""
    return [
        (changed, _text(class_), bucket, msgspec.json.decode(counts, type=list[int]))
        for changed, class_, bucket, counts in connection.execute(
            "SELECT changed, class, bucket, counts FROM counters WHERE changed > ? ORDER BY changed LIMIT ?",
            (after, limit),
        )
    ]


def changed_failed(connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, Obligation]]:
    """Obligations that fail, or once did, with their change number, in the order in which they changed."""
    return [
        (changed, msgspec.json.decode(body, type=Obligation))
        for changed, body in connection.execute(
            "SELECT changed, body FROM obligations WHERE failed = 1 AND changed > ? ORDER BY changed LIMIT ?",
            (after, limit),
        )
    ]


def failed(connection: sqlite3.Connection, from_ms: int, to_ms: int, limit: int) -> list[Obligation]:
    """Up to `limit` obligations with their limit in [from_ms, to_ms) that fail, by that limit."""
    marks = ", ".join("?" * len(FAILED))
    return [
        msgspec.json.decode(body, type=Obligation)
        for (body,) in connection.execute(
            f"SELECT body FROM obligations WHERE on_time >= ? AND on_time < ? AND outcome IN ({marks})"  # noqa: S608
            " ORDER BY on_time, id LIMIT ?",
            (from_ms, to_ms, *sorted(one.value for one in FAILED), limit),
        )
    ]


def recreated(connection: sqlite3.Connection, from_ms: int, to_ms: int) -> dict[str, int]:
    """Per class, the excused with their limit in [from_ms, to_ms) that were there again within their life (rule 13)."""
    rows = connection.execute(
        "SELECT class, count(*) FROM obligations WHERE on_time >= ? AND on_time < ? AND outcome = ?"
        " AND json_extract(CAST(body AS TEXT), '$.again_ms') > 0 GROUP BY class",
        (from_ms, to_ms, Outcome.EXCUSED.value),
    )
    return {_text(class_): count for class_, count in rows}


def few(connection: sqlite3.Connection, from_ms: int, to_ms: int) -> list[Obligation]:
    """Of the classes of few rotations, those with their limit in [from_ms, to_ms)."""
    marks = ", ".join("?" * len(FEW))
    return [
        msgspec.json.decode(body, type=Obligation)
        for (body,) in connection.execute(
            f"SELECT body FROM obligations WHERE on_time >= ? AND on_time < ? AND class IN ({marks})",  # noqa: S608
            (from_ms, to_ms, *sorted(one.value for one in FEW)),
        )
    ]


def rotations(connection: sqlite3.Connection, classes: Sequence[str], authority: str, limit: int) -> list[Obligation]:
    """Of these classes of few rotations, the newest limit first: all, or those that an authority ended or began with."""
    marks = ", ".join("?" * len(classes))
    rows = connection.execute(
        f"SELECT body FROM obligations WHERE instance = '' AND class IN ({marks}) ORDER BY on_time DESC, id",  # noqa: S608
        list(classes),
    )
    decoded = (msgspec.json.decode(body, type=Obligation) for (body,) in rows)
    return list(islice((it for it in decoded if not authority or authority in (it.predecessor, it.successor)), limit))


def probes(connection: sqlite3.Connection, to_ms: int) -> list[ProbeState]:
    """What probes said before `to_ms`, in order."""
    return [
        ProbeState(_text(name), at, _text(state))
        for at, name, state in connection.execute(
            "SELECT at, name, state FROM probes WHERE at < ? ORDER BY at, n", (to_ms,)
        )
    ]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
