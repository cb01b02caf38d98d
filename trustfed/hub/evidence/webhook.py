"""One signed webhook for alarms that began and alarms that are over (Standard Webhooks 1.0).

    POST URL   webhook-id: unique per message, the same at each try      webhook-timestamp: Unix seconds of the try
               webhook-signature: v1,BASE64(HMAC-SHA256(secret, "ID.TIMESTAMP.BODY"))
    {"type": "alarm.raised" | "alarm.resolved", "timestamp": RFC 3339, "data": {...}}

Each alarm is told once when it begins and once when it is over, in order, also over a restart: what waits and what was told is
one small file. A receiver that is away is tried again with growing, random pauses for about a day; then the message is given
up, counted and logged. The address is judged like any that somebody else named (trustfed.runtime.guarded_fetch): no redirects.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from trustfed.errors import Invalid, NotFound, TrustfedError
from trustfed.evidence.standing import alarm_code
from trustfed.hub.evidence.views import Raised
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.files import read_bounded, write_atomic
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.waiting import news_or_time

MAX_WAITING, MAX_TOLD, MAX_TRIES = 500, 2_000, 100
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 900.0
CALM_MS = 60_000
"""An alarm that comes back within a minute was never over."""
MAX_FILE = 8 << 20
LAST_MS = 253_402_300_799_000  # 9999-12-31: what datetime can say
_log = logs.get("hub.evidence.webhook")

Send = Callable[[bytes, dict[str, str]], Any]
"""Sends a body with headers, blocking; raises a TrustfedError unless it was taken."""


class Message(msgspec.Struct):
    """One message that waits."""

    id: str
    body: bytes
    tries: int = 0


class Kept(msgspec.Struct):
    """The file: what was told as standing (by key), when it was missed first, and what waits."""

    told: dict[str, dict[str, Any]] = {}
    missed_ms: dict[str, int] = {}
    waiting: list[Message] = []


class Webhook:
    """Implements `trustfed.hub.evidence.alerts.Told`."""

    def __init__(
        self,
        path: Path,
        send: Send,
        secret: bytes,
        clock: Clock,
        randomness: Callable[[int], bytes],
        registry: Registry,
    ) -> None:
        self._path, self._send, self._secret, self._clock, self._randomness = path, send, secret, clock, randomness
        self._kept, self._news = Kept(), asyncio.Event()
        self._messages = registry.counter("hub_webhook_messages_total", "Messages to the webhook.", ("outcome",))
        registry.gauge("hub_webhook_waiting", "Messages that wait for the webhook.").read(
            lambda: len(self._kept.waiting)
        )

    async def start(self) -> None:
        """Take up what waited; a file that cannot be read is left behind, and said."""
        try:
            data = await asyncio.to_thread(read_bounded, self._path, MAX_FILE)
            self._kept = _respelled(msgspec.json.decode(data, type=Kept))
        except NotFound:
            pass
        except (TrustfedError, msgspec.DecodeError) as error:
            _log.error("what waited for the webhook cannot be read: alarms are told anew", error=str(error))

    async def news(self, standing: list[Raised]) -> None:
        """Queue what began and what is over."""
        kept, now = self._kept, to_ms(self._clock.now())
        present = {_key(one): _data(one) for one in standing[:MAX_TOLD]}
        changed = False
        for key, data in present.items():
            kept.missed_ms.pop(key, None)
            if key not in kept.told:
                kept.told[key] = data
                self._queue("alarm.raised", data)
                changed = True
        for key in list(kept.told):
            if key not in present and now - kept.missed_ms.setdefault(key, now) >= CALM_MS:
                self._queue("alarm.resolved", {**kept.told.pop(key), "resolved_at": _time(kept.missed_ms.pop(key))})
                changed = True
        if changed:
            await self._save()
            self._news.set()

    async def run(self) -> None:
        """Send what waits, oldest first; until cancelled."""
        while True:
            pause: float | None = None
            while self._kept.waiting and pause is None:
                pause = await self._try(self._kept.waiting[0])
                await self._save()
            if pause is None:
                await news_or_time(self._news, self._clock, None)
            else:
                await self._clock.sleep(pause)

    async def _try(self, message: Message) -> float | None:
        """Send one: None when it is done with, else the pause until the next try, in seconds."""
        stamp = str(int(self._clock.now().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(self._secret, message.id, stamp, message.body),
        }
        try:
            await asyncio.to_thread(self._send, message.body, headers)
            self._messages.add(1, outcome="sent")
        except TrustfedError as error:
            message.tries += 1
            if message.tries < MAX_TRIES:
                _log.warning("the webhook did not take a message", tries=message.tries, error=error.message)
                longest: float = min(FIRST_PAUSE * float(1 << min(message.tries - 1, 16)), LONGEST_PAUSE)
                return longest * (0.75 + int.from_bytes(self._randomness(2), "big") / 131_072)
            self._messages.add(1, outcome="given_up")
            _log.error("a message to the webhook is given up", id=message.id, error=error.message)
        if message in self._kept.waiting:
            self._kept.waiting.remove(message)
        return None

    def _queue(self, kind: str, data: dict[str, Any]) -> None:
        body = msgspec.json.encode({"type": kind, "timestamp": _time(to_ms(self._clock.now())), "data": data})
        self._kept.waiting.append(Message(f"msg_{self._randomness(16).hex()}", body))
        if len(self._kept.waiting) > MAX_WAITING:
            lost = self._kept.waiting.pop(0)
            self._messages.add(1, outcome="given_up")
            _log.error("too much waits for the webhook: the oldest message is given up", id=lost.id)

    async def _save(self) -> None:
        data = msgspec.json.encode(self._kept)
        try:
            await asyncio.to_thread(write_atomic, self._path, data)
        except TrustfedError as error:
            _log.error("what waits for the webhook is not kept", error=error.message)


def signature(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` of a message."""
    said = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, said, hashlib.sha256).digest()).decode()


def read_secret(data: bytes) -> bytes:
    """The secret of a key file: `whsec_` and base64, or the bytes themselves. Invalid for fewer than 24 bytes."""
    text = data.strip()
    if text.startswith(b"whsec_"):
        try:
            text = base64.b64decode(text[6:], validate=True)
        except ValueError:
            raise Invalid("[alerts] key_file: what follows whsec_ is not base64") from None
    if not 24 <= len(text) <= 1_024:
        raise Invalid("[alerts] key_file: the secret has 24 to 1024 bytes", hint="openssl rand -base64 32")
    return text


def _respelled(kept: Kept) -> Kept:
    """What an earlier version told, under the codes of this one: an upgrade raises and resolves nothing."""
    held = {key: _key_of(*key.split("\n")) if key.count("\n") == 3 else key for key in kept.told}
    told = {held[key]: {**data, "code": alarm_code(str(data.get("code", "")))} for key, data in kept.told.items()}
    return Kept(told, {held[key]: at for key, at in kept.missed_ms.items() if key in held}, kept.waiting)


def _key(one: Raised) -> str:
    # Of several of one kind a cluster names the worst, which may be another one each minute: still the same alarm.
    subject = one.what.subject if one.source == "hub" else ""
    return _key_of(one.trust_domain, one.what.code, subject, one.what.severity)


def _key_of(domain: str, code: str, subject: str, severity: str) -> str:
    return "\n".join((domain, alarm_code(code), subject, severity))


def _data(one: Raised) -> dict[str, Any]:
    alarm = one.what
    return {
        "trust_domain": one.trust_domain,
        "code": alarm.code,
        "severity": alarm.severity,
        "subject": alarm.subject,
        "says": alarm.says,
        "hint": alarm.hint,
        "since": _time(alarm.since_ms),
        "source": one.source,
    }


def _time(at_ms: int) -> str:
    at_ms = min(max(at_ms, 0), LAST_MS)  # a cluster says since when its alarms stand
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
