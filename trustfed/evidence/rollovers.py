"""Which rollovers are stuck: a successor stands by, something holds it back, and its last safe moment is near. Pure.

Near is when less than a quarter of the time between its making and that moment is left: with the defaults some hours, in which
people can still see to whoever is missing. At that moment the successor signs all the same, and who is missing refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from trustfed.evidence.standing import Alarm, Authority

CODE = "rollover_stuck"
NEAR = 0.25
LATE_MS = 60_000
"""What nothing holds back is taken over within this, by a cluster that runs."""
_LAST_S = 253_402_300_799
_NAMED = 5


def stuck(authorities: Iterable[Authority], now_ms: int) -> list[Alarm]:
    """An alarm for each, by its authority; since when is the moment from which it was near."""
    found = []
    for one in authorities:
        if one.state not in ("prepared", "distributed") or not one.activates_by_ms:
            continue
        near_ms = one.activates_by_ms - int(NEAR * max(one.activates_by_ms - one.since_ms, 0))
        held_back = bool(one.waiting_count or one.waiting_for or one.paused)
        if now_ms < (near_ms if held_back else one.activates_by_ms + LATE_MS):
            continue
        hint = f"trustfed authority list --output json; trustfed authority activate {one.id}"
        found.append(Alarm(CODE, "page", one.id, _says(one, now_ms), near_ms, hint[:200]))
    return found


def _says(one: Authority, now_ms: int) -> str:
    count = max(one.waiting_count, len(one.waiting_for))
    names = ", ".join(one.waiting_for[:_NAMED])
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    whys = [*(["is paused"] if one.paused else []), *([f"waits for {names or count}{more}"] if count else [])]
    moment = datetime.fromtimestamp(min(max(one.activates_by_ms // 1000, 0), _LAST_S), UTC)
    at = moment.isoformat(timespec="minutes").replace("+00:00", "Z")
    over = now_ms >= one.activates_by_ms
    how = " and ".join(whys) or "is held back by nothing"
    return f"the {one.kind} rollover {how}; its last safe moment {'was' if over else 'is'} {at}"[:500]
