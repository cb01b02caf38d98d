"""One SQLite file with one writer thread and one reader thread, so that the event loop never waits for a disk.

Durability: WAL with synchronous=FULL, so COMMIT returns after the log is synced. Group commit: the writer takes all
jobs that queued up while the last sync ran and commits them together; whoever waited shares one sync, and is answered
by one wake-up of the loop. A failed COMMIT rolls everything back and leaves the file as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.journal.directory import private_file, sync_directory
from trustfed.journal.ports import Corrupt

T = TypeVar("T")

WAITING_WRITES = 10_000
WAITING_BYTES = 64 << 20
WAITING_READS = 1_000
GROUP_BYTES = 16 << 20

_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -8192",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
)


# What may pass, by SQLite's primary result code: what happened, and what to do.
_PASSING = {
    sqlite3.SQLITE_FULL: ("the disk is full", "make room on the disk"),
    sqlite3.SQLITE_READONLY: ("it cannot be written", "is the disk mounted read-only?"),
    sqlite3.SQLITE_BUSY: ("another program holds it locked", "a backup? try again later"),
    sqlite3.SQLITE_LOCKED: ("another program holds it locked", "a backup? try again later"),
    sqlite3.SQLITE_IOERR: ("the disk failed", "check the disk and the room on it"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check the disk and who owns the directory"),
}


class Format(NamedTuple):
    """What a file must be to be opened: application number, schema version, and how an empty one is made.

    A file of version 1 has the first `begun` statements of the schema; it gets the others when it is opened.
    """

    application_id: int
    version: int
    schema: Sequence[str]
    begun: int = 0


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    durable: Callable[[Any], None]
    size: int
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class _Outcome(NamedTuple):
    job: _Job
    result: Any
    error: Exception | None


class Database:
    """Opens or makes the file at `path` (0600); Invalid if it is foreign or newer, Corrupt if SQLite cannot read it."""

    def __init__(self, path: Path, form: Format) -> None:
        self._path = path
        private_file(path)
        self._writer = self._connect()
        self._reader: sqlite3.Connection | None = None
        try:
            with self.translated():
                self._prepare(form)
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only = ON")
        except BaseException:
            self._disconnect()
            raise
        sync_directory(path.parent)
        self._open = True
        self._waiting_writes = self._waiting_bytes = self._waiting_reads = 0
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-reader")
        # A daemon, so that a process whose loop died can still exit; close() waits for it.
        self._thread = threading.Thread(target=self._write_groups, name=f"{path.stem}-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[sqlite3.Connection], T], durable: Callable[[T], None], size: int) -> T:
        """Run `work` in a transaction of the writer thread and return its result once that is durable.

        `work` shares the transaction with others: it may raise a TrustfedError only before it wrote anything.
        `durable` is called on the loop, also when the caller was cancelled. `size` is in bytes.
        """
        self._check_open()
        if self._waiting_writes >= WAITING_WRITES or self._waiting_bytes + size > WAITING_BYTES:
            raise Unavailable(f"{self._path} is behind: {self._waiting_writes} writes wait", hint="try again later")
        loop = asyncio.get_running_loop()
        job = _Job(work, durable, size, loop, loop.create_future())
        self._waiting_writes += 1
        self._waiting_bytes += size
        self._jobs.put(job)
        result: T = await job.answer
        return result

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the reader thread, on what is committed."""
        self._check_open()
        if self._waiting_reads >= WAITING_READS:
            raise Unavailable(f"{self._path} is behind: {self._waiting_reads} reads wait", hint="try again later")
        self._waiting_reads += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, self.read_now, work)
        finally:
            self._waiting_reads -= 1

    def read_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the reader's connection in this thread: for an opening, before there is a loop."""
        if self._reader is None:
            raise Unavailable(f"{self._path} is closed")
        with self.translated():
            return work(self._reader)

    def inspect(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in this thread on a connection of its own, however long it takes."""
        with self.translated():
            connection = self._connect()
            try:
                connection.execute("PRAGMA query_only = ON")
                return work(connection)
            finally:
                connection.close()

    async def close(self) -> None:
        """Finish what was accepted, then close the file; twice is fine."""
        self._end()  # on the loop, as `write` is: nothing is accepted behind the writer's last job
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """Like `close`, but blocks: for an opening that failed half-way."""
        self._end()
        self._thread.join()
        self._reading.shutdown()
        self._disconnect()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what SQLite reports into the two things a caller can act on: try again, or restore a backup."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> TrustfedError:
        # The primary result code is the low byte: https://sqlite.org/rescode.html
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_CORRUPT:
            return Corrupt(f"{self._path} is damaged: {error}")
        if code == sqlite3.SQLITE_NOTADB:
            return Invalid(
                f"{self._path} is not a trustfed file: {error}",
                hint="move it away, or restore this data directory from its last good backup",
            )
        why, hint = _PASSING.get(code, (str(error), ""))
        return Unavailable(f"{self._path}: {why}; nothing was acknowledged", hint=hint)

    def _connect(self) -> sqlite3.Connection:
        with self.translated():
            connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
            connection.text_factory = bytes  # bytes that are no UTF-8 are damage to report, not an exception
            for pragma in _PRAGMAS:
                connection.execute(pragma)
        return connection

    def _disconnect(self) -> None:
        # The reader first: the last connection to close checkpoints the log into the file.
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._reader = None

    def _prepare(self, form: Format) -> None:
        connection = self._writer
        application_id, version, tables = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "schema_version")
        )
        if (application_id, version, tables) == (0, 0, 0):
            # Made in rollback mode: until this commits the file is empty, and a crash leaves it so.
            connection.execute("BEGIN IMMEDIATE")
            for statement in form.schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {form.application_id}")
            connection.execute(f"PRAGMA user_version = {form.version}")
            connection.execute("COMMIT")
            version = form.version
        elif application_id != form.application_id:
            raise Invalid(f"{self._path} belongs to another program", hint="give trustfed a directory of its own")
        elif not 1 <= version <= form.version:
            raise Invalid(
                f"{self._path} has schema version {version}; this program knows version {form.version}",
                hint="run the trustfed that wrote it, or a later one",
            )
        made = [
            sql.decode(errors="replace")
            for (sql,) in connection.execute("SELECT sql FROM sqlite_master ORDER BY rowid")
        ]
        if made != list(form.schema if version == form.version else form.schema[: form.begun]):
            raise Corrupt(f"{self._path} is damaged: its tables are not those of schema version {version}")
        if version != form.version:
            connection.execute("BEGIN IMMEDIATE")  # all or nothing: a crash leaves a file of the version that it was
            for statement in form.schema[form.begun :]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {form.version}")
            connection.execute("COMMIT")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != b"wal":
            raise Unavailable(f"{self._path} is on a disk without write-ahead logging", hint="use a local disk")

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._jobs.put(None)

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable(f"{self._path} is closed")

    def _write_groups(self) -> None:
        while (job := self._jobs.get()) is not None:
            group, size, last = [job], job.size, False
            while size < GROUP_BYTES and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    last = True
                    break
                group.append(following)
                size += following.size
            self._answer(self._commit(group))
            if last:
                return

    def _commit(self, group: list[_Job]) -> list[_Outcome]:
        outcomes = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job in group:
                try:
                    outcomes.append(_Outcome(job, job.work(self._writer), None))
                except TrustfedError as refusal:
                    outcomes.append(_Outcome(job, None, refusal))
            self._writer.execute("COMMIT")
        except Exception as error:  # whatever broke the transaction broke it for all who share it
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            failure = self._translate(error) if isinstance(error, sqlite3.Error) else error
            return [_Outcome(job, None, failure) for job in group]
        return outcomes

    def _answer(self, outcomes: list[_Outcome]) -> None:
        loops = dict.fromkeys(outcome.job.loop for outcome in outcomes)
        for loop in loops:
            mine = [outcome for outcome in outcomes if outcome.job.loop is loop]
            with contextlib.suppress(RuntimeError):  # that loop is gone, and with it whoever waited
                loop.call_soon_threadsafe(self._deliver, mine)

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        for outcome in outcomes:
            job = outcome.job
            self._waiting_writes -= 1
            self._waiting_bytes -= job.size
            if outcome.error is None:
                job.durable(outcome.result)
            if job.answer.done():
                continue
            if outcome.error is None:
                job.answer.set_result(outcome.result)
            else:
                job.answer.set_exception(outcome.error)
