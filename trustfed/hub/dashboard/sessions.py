"""Who is logged in: sessions on the server's side, of which a browser holds nothing but a random number.

    sessions = Sessions.open(data_dir / "sessions.db", clock, os.urandom)
    secret = sessions.fresh()                                   # the cookie's value: given out once, kept nowhere
    session, ended = await sessions.begin(secret, caller, "link")
    session = sessions.of(secret)                               # None: log in again

 1. the number has 256 random bits and is new at each login: what a browser brought along before it is never adopted
 2. only its SHA-256 is kept; the token that forms carry against request forgery is derived from the number itself
 3. a session ends 12 hours after it began, one hour after it was last used, at logout, when its actor logs in with
    another role, and when the token whose link opened it is revoked; an actor has at most MAX_OF_ONE, the oldest ends for a
    new one
 4. they survive a restart in a file of their own. Losing it logs everybody out, and nothing else
 5. what has ended is over at once, also when the file cannot be written; it is taken out of it with the next write that can.
    Only a restart before that would bring it back

Trust sentence: who may read the file learns who is logged in, not how to be; who may write it can log in as anybody, as
with every file in the data directory.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trustfed.errors import Unavailable
from trustfed.hub.access import ROLES, Caller
from trustfed.journal.database import Database, Format
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms

LIFE_MS = 12 * 3_600_000
IDLE_MS = 3_600_000
MAX_OF_ONE = 8
MAX_SESSIONS = 2_000
_NOTE_MS = 60_000
"""How much later "last used" may be on the disk than in memory: not each page is a write."""

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_TABLE = (
    "CREATE TABLE sessions (digest TEXT PRIMARY KEY, actor TEXT NOT NULL, role TEXT NOT NULL, person TEXT NOT NULL,"
    " how TEXT NOT NULL, began_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL) WITHOUT ROWID"
)
_FORMAT = Format(0x74665331, 1, (_TABLE,))  # "tfS1"
_log = logs.get("hub.sessions")


@dataclass
class Session:
    """One login. `digest` is the hash of its secret; `csrf` is derived from the secret, and only there when that came."""

    digest: str
    actor: str
    role: str
    person: str
    how: str
    began_ms: int
    used_ms: int
    csrf: str = ""
    noted_ms: int = 0

    @property
    def id(self) -> str:
        """What names it in the journal: enough of the hash to tell sessions apart."""
        return self.digest[:16]

    @property
    def caller(self) -> Caller:
        """Who it is to the hub's decisions."""
        return Caller(self.actor, self.role, self.person)

    @property
    def ends_ms(self) -> int:
        """When it ends if it is not used again."""
        return min(self.began_ms + LIFE_MS, self.used_ms + IDLE_MS)


class Sessions:
    """All sessions, in memory and in one file."""

    def __init__(self, database: Database, clock: Clock, randomness: Callable[[int], bytes]) -> None:
        self._database, self._clock, self._randomness = database, clock, randomness
        self._held: dict[str, Session] = {}
        self._leaving: set[str] = set()
        """Digests of those that ended and may still be in the file."""
        self._ended: list[Callable[[], None]] = []
        self._stands: Callable[[Session], bool] = lambda _: True

    @classmethod
    def open(cls, path: Path, clock: Clock, randomness: Callable[[int], bytes]) -> Sessions:
        """The sessions in a file, made when it is missing. Blocks: call it before serving. Raises Invalid, Unavailable."""
        made = cls(Database(path, _FORMAT), clock, randomness)
        made._load()
        return made

    def on_end(self, told: Callable[[], None]) -> None:
        """Call `told` whenever sessions end before their time: streams look whether theirs is among them."""
        self._ended.append(told)

    def hold_to(self, stands: Callable[[Session], bool]) -> None:
        """Take a session for ended when `stands` says that it is not to be believed any more."""
        self._stands = stands

    def fresh(self) -> str:
        """The secret of a session that is to begin. Raises Unavailable when there is no room for one."""
        if len(self.alive()) >= MAX_SESSIONS:
            raise Unavailable(f"{MAX_SESSIONS} sessions are open", hint="log out of those that are not used")
        return _text(self._randomness(32))  # 1

    async def begin(self, secret: str, caller: Caller, how: str) -> tuple[Session, list[Session]]:
        """The session of a fresh secret, and those of the same actor that ended for it. Durable on return."""
        now = to_ms(self._clock.now())
        session = Session(
            id_of(secret, 64), caller.actor, caller.role, caller.acting.person, how, now, now, noted_ms=now
        )
        row = (session.digest, session.actor, session.role, session.person, how, now, now)

        await self._write("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        # Counted after the wait: of logins that come at once each sees those before it.
        mine = sorted((one for one in self.alive() if one.actor == caller.actor), key=lambda one: one.used_ms)
        ended = [one for one in mine if one.role != caller.role]  # 3
        same = [one for one in mine if one.role == caller.role]
        ended += same[: max(0, len(same) - MAX_OF_ONE + 1)]
        self._held[session.digest] = session
        try:
            await self.end(ended)
        except Unavailable as error:  # 5: the new one is whole
            _log.warning("sessions that ended are still in the file", error=error.message)
        return session, ended

    def of(self, secret: str | None) -> Session | None:
        """The session of a cookie's value, if it has not ended."""
        if not secret or not _SECRET.fullmatch(secret):
            return None
        session = self._held.get(id_of(secret, 64))
        return replace(session, csrf=csrf_of(secret)) if session is not None and self.is_alive(session) else None

    def is_alive(self, session: Session) -> bool:
        """Whether it has not ended."""
        held = self._held.get(session.digest)
        return held is not None and to_ms(self._clock.now()) < held.ends_ms and self._stands(held)

    def alive(self) -> list[Session]:
        """All that have not ended; those that have are forgotten."""
        now = to_ms(self._clock.now())
        self._held = {digest: one for digest, one in self._held.items() if now < one.ends_ms and self._stands(one)}
        return list(self._held.values())

    async def used(self, session: Session) -> None:
        """It is in use: the idle hour begins anew."""
        held, now = self._held.get(session.digest), to_ms(self._clock.now())
        if held is None:
            return
        session = held
        session.used_ms = now
        if now - session.noted_ms < _NOTE_MS:
            return
        session.noted_ms = now
        try:
            await self._write("UPDATE sessions SET used_ms = ? WHERE digest = ?", (now, session.digest))
        except Unavailable as error:  # a disk that is full must not keep anybody from looking why
            _log.warning("the use of a session could not be noted", error=error.message)

    async def end(self, sessions: Sequence[Session]) -> None:
        """End these sessions, durable on return: in memory even if it raises Unavailable, for the disk."""
        if not sessions:
            return
        for one in sessions:
            self._held.pop(one.digest, None)
            self._leaving.add(one.digest)
        for told in self._ended:
            told()
        await self._write()

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()

    async def _write(self, statement: str = "", values: tuple[object, ...] = ()) -> None:
        """Run one statement, and take out of the file what has ended (5). Raises Unavailable."""
        leaving, began_ms = [(digest,) for digest in self._leaving], to_ms(self._clock.now()) - LIFE_MS

        def work(connection: sqlite3.Connection) -> None:
            if statement:
                connection.execute(statement, values)
            connection.executemany("DELETE FROM sessions WHERE digest = ?", leaving)
            connection.execute("DELETE FROM sessions WHERE began_ms < ?", (began_ms,))

        await self._database.write(work, lambda _: None, 512 + 128 * len(leaving))
        self._leaving -= {digest for (digest,) in leaving}

    def _load(self) -> None:
        """What was open when the hub stopped; a row that no hub of ours wrote is skipped."""
        now = to_ms(self._clock.now())
        # Those that are over are left out by the file: they must not take the places of those that are not.
        statement = (
            "SELECT digest, actor, role, person, how, began_ms, used_ms FROM sessions"
            " WHERE began_ms > ? AND used_ms > ? LIMIT ?"
        )
        given = (now - LIFE_MS, now - IDLE_MS, MAX_SESSIONS)
        rows = self._database.read_now(lambda db: db.execute(statement, given).fetchall())
        for *texts, began_ms, used_ms in rows:
            digest, actor, role, person, how = (text.decode() for text in texts)
            session = Session(digest, actor, role, person, how, began_ms, used_ms)
            if session.role in ROLES and began_ms <= now < session.ends_ms:
                self._held[session.digest] = session


def csrf_of(secret: str) -> str:
    """The token that forms of a session carry: nobody has it who has not the cookie."""
    return _text(hmac.digest(secret.encode(), b"trustfed csrf", "sha256"))


def id_of(secret: str, digits: int = 16) -> str:
    """What names a session in the journal: so many hex digits of its secret's SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:digits]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
