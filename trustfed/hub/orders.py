"""What operators may send, member by member; unknown members are refused."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from trustfed.errors import Invalid
from trustfed.spiffe.ids import shown


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class DomainInvitation(_Request):
    """Who may enrol; `ttl` such as "24h"."""

    name: str = Field(max_length=263)
    owner: str = Field(max_length=256)
    dns_suffixes: list[str] = Field(default_factory=list, max_length=16)
    ttl: str = Field(default="24h", max_length=16)
    simulated: bool = False


class GrantOffer(_Request):
    """Who may accept whose identities, until when (RFC 3339), and why."""

    importer: str = Field(max_length=263)
    exporter: str = Field(max_length=263)
    until: str = Field(max_length=40)
    start: str | None = Field(default=None, max_length=40)
    reason: str = Field(max_length=1024)


class Why(_Request):
    """The reason of a decision."""

    reason: str = Field(max_length=1024)


class CaCommand(_Request):
    """Why; `break_glass`: at once and alone, alarmed, with a reason of at least 10 characters."""

    reason: str = Field(default="", max_length=1024)
    break_glass: bool = False


class RootRetirementOrder(CaCommand):
    """Which root goes, and why; `force` even if trust domains still stand on it."""

    name: str = Field(max_length=64)
    force: bool = False


class RevocationOrder(CaCommand):
    """The `reason` is one of RFC 5280 §5.3.1; `why` says it in words, which broken glass needs."""

    why: str = Field(default="", max_length=1024)


class Approval(_Request):
    """`body_hash`: what the approver looked at; approving anything else is refused."""

    body_hash: str = Field(default="", max_length=80)


class Withdrawal(_Request):
    """Why not."""

    reason: str = Field(default="", max_length=1024)


class ApiTokenOrder(_Request):
    """Whom to let in, and as what; `ttl` such as "30d"."""

    name: str = Field(max_length=64)
    role: str = Field(max_length=16)
    ttl: str = Field(default="30d", max_length=16)


def moment_of(text: str, member: str) -> datetime:
    """A time in RFC 3339 with its zone, or Invalid naming the member."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Invalid(f"{member} {shown(text)} is no time with a zone", hint="such as 2026-12-31T00:00:00Z")
    return moment.astimezone(UTC)
