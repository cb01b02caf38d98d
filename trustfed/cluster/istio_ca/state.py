"""What the journal adds up to for the plugged-in CA and the legacy domain. The authority itself is among the domain's own."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from trustfed.cluster.istio_ca import events as e
from trustfed.journal.table import Table


class External(Struct, frozen=True):
    """What is known of an external authority beside its AuthorityState."""

    id: str
    leaf_seconds: int
    prepared_at: datetime
    anchored_at: datetime | None = None
    confirmed: bool = False
    exported_at: datetime | None = None
    replaces: str = ""
    swapped_at: datetime | None = None
    retired_at: datetime | None = None


class IstioState(Struct, frozen=True):
    """The part of a cluster's state that Istio alone needs."""

    external: Table[External] = Table()  # authority id
    legacy: Table[e.LegacyAnchorAdded] = Table()  # trust domain; only while believed
