"""What the dashboard's pages read, and what its actions go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustfed.hub.api import Parts
from trustfed.hub.dashboard.logins import Logins
from trustfed.hub.dashboard.news import News
from trustfed.hub.dashboard.sessions import Sessions
from trustfed.hub.evidence.fleet import Fleet
from trustfed.runtime.clock import Clock

if TYPE_CHECKING:
    from trustfed.hub.dashboard.oidc import Oidc
    from trustfed.hub.evidence.orders import Orders
    from trustfed.hub.evidence.questions import Questions


@dataclass(frozen=True)
class DashboardParts:
    """Everything behind the pages. `hosts` are the names that the hub is reached by, without a port.

    Without `questions` nothing can be asked of clusters, without `orders` nothing be ordered: pages say so.
    """

    hub: Parts
    fleet: Fleet
    sessions: Sessions
    logins: Logins
    news: News
    clock: Clock
    hosts: frozenset[str]
    randomness: Callable[[int], bytes]
    questions: Questions | None = None
    orders: Orders | None = None
    oidc: Oidc | None = None
