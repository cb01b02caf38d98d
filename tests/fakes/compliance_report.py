"""A report with something in every table, names as bad as they come among it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from trustfed.evidence.compliance.data import (
    Access,
    Anchor,
    Asset,
    Change,
    Deviation,
    Endpoint,
    Failure,
    Figure,
    Proof,
    Report,
    Rotation,
    Uptime,
)

AT = 1_772_323_200_000
HOSTILE = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x","y")',
    "a\r\nSet-Cookie: b",
    "\u202eevil\u2066\u200b",
    "n" * 2_048,
    "\x1b[31mred",
)


def report(**changed: Any) -> Report:
    """All is well, but for what `changed` says."""
    counts = {"due": 10_000, "on_time": 10_000}
    good = Report(
        scope=("prod-us-west",),
        from_ms=AT,
        to_ms=AT + 30 * 86_400_000,
        as_of_ms=AT + 31 * 86_400_000,
        ran_by="uid:0",
        source="cluster prod-us-west, admin socket",
        software="trustfed 0.1.0",
        definition="ab" * 32,
        definition_version=1,
        parameters={"keep": "13 months"},
        rows={"facts": 1_000_000, "events": 500},
        figures=(Figure("prod-us-west", "leaf", counts, 1.0, 0.9996, 1.0, 1.0, 1.0),),
        rotations=(Rotation("prod-us-west", "intermediate", "a1", "a2", "on_time", AT),),
        assets=(
            Asset("prod-us-west", "x509-svid", "spiffe://prod-us-west/web", "0f" * 16, "cd" * 32, "a2", "ec-p256", 128, False,
                  AT, AT + 3_600_000, "agent", "team-web"),
            Asset("prod-us-west", "authority", "a2", "", "", "", "ec-p256", 128, False, AT, AT + 86_400_000, "file", "platform"),
        ),
        changes=(Change("prod-us-west", 7, AT, "authority.tainted", "uid:1000", "uid:1001", "key suspected"),),
        accesses=(Access("ci", "viewer", "token", AT + 86_400_000),),
        anchors=(Anchor("prod-us-west", "prod-eu", 1, 4, "ef" * 32, "uid:1000"),),
        endpoints=(Endpoint("127.0.0.1:8443", "gRPC", "TLS 1.3", "TLS_AES_256_GCM_SHA384", "agents"),),
        uptimes=(Uptime("prod-us-west", "sign", 1.0, 0),),
        exceptions=(Deviation("prod-us-west", "legacy", "moving house", "uid:1001", AT + 86_400_000),),
        proofs=(Proof("trustfed/prod-us-west/journal", 500, "q83v" * 10 + "q80=", AT, ("trustfed/hub",), AT),),
    )  # fmt: skip
    return replace(good, **changed)


def hostile() -> Report:
    """The same with hostile names wherever somebody else chooses a name."""
    failures = tuple(Failure("prod-us-west", "leaf", bad, bad, "00", "expired", bad, AT) for bad in HOSTILE)
    asset = report().assets[0]
    assets = tuple(replace(asset, name=bad, owner=bad, serial=f"{number:032x}") for number, bad in enumerate(HOSTILE))
    changes = tuple(Change("prod-us-west", 1, AT, "authority.tainted", bad, bad, bad) for bad in HOSTILE)
    return report(failures=failures, assets=assets, changes=changes)
