"""Structured logs on standard error: one event per line, fields beside the message, nothing secret.

    log = logs.get("hub")
    log.info("grant accepted", grant=grant.id, importer=str(domain))

A field named after a secret ("key", "token", "join_token", "selectors", ...) or holding bytes is never written: in a
test it raises, in production the event goes out with the field's name under "withheld". Ids ("key_id") are fine.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TextIO, get_args

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
MAX_VALUE = 2_000
"""Characters of one value; what is longer is cut."""
MAX_TRACE = 16_000
_SECRET_WORDS = frozenset(
    {
        *(
            "key",
            "keys",
            "token",
            "tokens",
            "secret",
            "secrets",
            "password",
            "passphrase",
            "seed",
            "jwt",
            "pem",
            "pkcs8",
        ),
        *("selector", "selectors", "credential", "credentials", "authorization", "cookie"),
    }
)
_RESERVED = frozenset({"time", "level", "log", "message", "trace", "withheld"})
# A test fails where production withholds.
_STRICT = "pytest" in sys.modules


@dataclass(frozen=True)
class LogConfig:
    """The table [log] of every process."""

    level: Level = "info"


class Log:
    """A named source of events. Fields are str, int, float, bool, None, or things whose str() may be seen."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger("trustfed." + name)

    def debug(self, message: str, **fields: object) -> None:
        """Details for the one who debugs."""
        self._emit(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Something crossed a boundary, as it should."""
        self._emit(logging.INFO, message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Something is not as it should be; the process copes."""
        self._emit(logging.WARNING, message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Something failed that a person should look at."""
        self._emit(logging.ERROR, message, fields)

    def exception(self, message: str, error: BaseException, **fields: object) -> None:
        """An error that nobody expected, with its traceback."""
        self._emit(logging.ERROR, message, fields, error)

    def _emit(self, level: int, message: str, fields: dict[str, object], error: BaseException | None = None) -> None:
        withheld = [name for name, value in fields.items() if _is_secret(name, value)]
        misnamed = _RESERVED & fields.keys()
        if _STRICT and (withheld or misnamed):
            raise AssertionError(f"log fields {sorted({*withheld, *misnamed})} must not be used")
        if self._logger.isEnabledFor(level):
            kept = {name: value for name, value in fields.items() if name not in withheld and name not in misnamed}
            if withheld:
                kept["withheld"] = ",".join(sorted(withheld))
            trace = (type(error), error, error.__traceback__) if error else None
            self._logger.log(level, "%s", message, extra={"fields": kept}, exc_info=trace)


def get(name: str) -> Log:
    """The log of one part of the process, such as "hub.rpc"."""
    return Log(name)


def configure(level: str = "info", *, stream: TextIO | None = None, human: bool | None = None) -> None:
    """Send every log of the process, libraries' too, to `stream` (standard error). `human` None: on a terminal."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(HumanFormatter() if (stream.isatty() if human is None else human) else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up only when something is wrong; their debug lines may hold what ours never do.
    root.setLevel(logging.WARNING)
    logging.getLogger("trustfed").setLevel(level.upper())
    # Frames, threads and processes of each call site are not written, so they are not looked up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # A reader of our log that went away must not end us, nor be told so on the log that it does not read.
    logging.raiseExceptions = False


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC, RFC 3339), level, log, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. json.dumps escapes every control character, so a value cannot begin a line of its own."""
        event: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "log": record.name.removeprefix("trustfed."),
            "message": _plain(record.getMessage()),
        }
        event |= {name: _plain(value) for name, value in _fields(record).items()}
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)[-MAX_TRACE:]
        return json.dumps(event)


class HumanFormatter(logging.Formatter):
    """Time, level, log, message, fields: for a terminal. Control characters are escaped here too."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback of an unexpected error, indented."""
        fields = "".join(f"  {name}={_shown(value)}" for name, value in _fields(record).items())
        name = record.name.removeprefix("trustfed.")
        message = _shown(record.getMessage(), quote=False)
        line = f"{_time(record):%H:%M:%S} {record.levelname.lower():7} {name}: {message}{fields}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)[-MAX_TRACE:]
            line += "".join("\n    " + _shown(part, quote=False) for part in trace.splitlines())
        return line


def _is_secret(name: str, value: object) -> bool:
    return name.lower().rpartition("_")[2] in _SECRET_WORDS or isinstance(value, bytes | bytearray | memoryview)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "..."


def _shown(value: object, *, quote: bool = True) -> str:
    text = str(_plain(value))
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return f'"{text}"' if quote and (" " in text or not text) else text
