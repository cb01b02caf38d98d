"""Facts and decisions as OCSF 1.8 events: Authentication (3002) for each SVID, Entity Management (3004) for each step of a key.

What OCSF has no place for stands in `unmapped`, so nothing of a fact is lost on its way to a SIEM.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trustfed.evidence import facts as f
from trustfed.journal.events import Fact

VERSION = "1.8.0"
_ISSUE = 1  # Authentication: Logon is the nearest activity to an identity that is handed out
_STEPS = {
    "prepared": 1,
    "activated": 8,
    "retired": 9,
    "removed": 4,
    "tainted": 3,
    "certified": 3,
    "reissued": 3,
    "published": 3,
}
"""Entity Management activities: 1 create, 3 update, 4 delete, 10 activate, 11 deactivate."""


def events(trust_domain: str, numbered: Iterable[tuple[int, Fact]], software: str) -> Iterator[dict[str, Any]]:
    """The facts that OCSF has a class for, in order."""
    for position, fact in numbered:
        if fact.kind in (f.ISSUED, f.JWT_ISSUED):
            yield _authentication(trust_domain, position, fact, software)
        elif fact.kind == f.AUTHORITY_STEP:
            yield _entity(trust_domain, position, fact, software)


def _base(class_uid: int, activity: int, position: int, fact: Fact, trust_domain: str, software: str) -> dict[str, Any]:
    return {
        "activity_id": activity,
        "category_uid": 3,
        "class_uid": class_uid,
        "type_uid": class_uid * 100 + activity,
        "time": fact.at,
        "severity_id": 1,
        "status_id": 1,
        "metadata": {
            "version": VERSION,
            "uid": f"{trust_domain}/ledger/{position}",
            "log_name": f"trustfed/{trust_domain}/ledger",
            "sequence": position,
            "product": {"name": "trustfed", "vendor_name": "trustfed", "version": software},
        },
        "unmapped": dict(fact.body),
    }


def _authentication(trust_domain: str, position: int, fact: Fact, software: str) -> dict[str, Any]:
    body: Mapping[str, Any] = fact.body
    event = _base(3002, _ISSUE, position, fact, trust_domain, software)
    event["user"] = {"uid": body["spiffe_id"], "name": body["spiffe_id"], "type_id": 3, "domain": trust_domain}
    event["service"] = {"name": "trustfed", "uid": str(body.get("authority", ""))}
    event["auth_protocol_id"] = 99
    event["auth_protocol"] = "SPIFFE"
    if fact.kind == f.ISSUED:
        event["certificate"] = {
            "serial_number": body["serial"],
            "subject": body["spiffe_id"],
            "issuer": str(body.get("authority", "")),
            "created_time": body["not_before"] * 1000,
            "expiration_time": body["not_after"] * 1000,
        }
    return event


def _entity(trust_domain: str, position: int, fact: Fact, software: str) -> dict[str, Any]:
    body: Mapping[str, Any] = fact.body
    event = _base(3004, _STEPS.get(body["step"], 99), position, fact, trust_domain, software)
    if event["activity_id"] == 99:
        event["activity_name"] = body["step"]
    event["entity"] = {"name": body["authority"], "type": f"{body['kind']} authority", "uid": body["authority"]}
    event["comment"] = body["step"]
    return event
