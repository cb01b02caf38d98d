"""Standings to make fleets of: a cluster with nothing to complain of, and what those with faults say instead."""

from __future__ import annotations

import hashlib

from trustfed.evidence.standing import (
    Alarm,
    Algorithm,
    Authority,
    Expiry,
    Finding,
    Held,
    Log,
    Probe,
    Stage,
    Standing,
)

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
AWAY, LATE, STUCK, UNKNOWN = "checkout-eu.example", "ledger-us.example", "cards-ap.example", "edge-br.example"

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "line\r\nSet-Cookie: a=b\r\n\r\n<b>",
    "evil\u202emoc.elgoog\u202c\u2066\u200f",
    "x" * 2_048,
    "' onmouseover='document.title=1' {{7*7}} ${7*7}",
    "\u0000\u0007\u001b[31mred",
    "e" + "\u0301" * 40,
)


def standing(name: str, owner: str, now: int, identities: int = 180) -> Standing:
    """How a cluster with nothing to complain of stands."""
    return Standing(
        trust_domain=name,
        as_of_ms=now - 2_000,
        software="trustfed 0.1.0",
        owner=owner,
        nodes=12,
        nodes_live=12,
        entries=identities // 3,
        identities=identities,
        open_obligations=identities // 9,
        coverage=0.998,
        authorities=(
            Authority(
                "a1f0" + name[:4].encode().hex(),
                "x509",
                "active",
                "ECDSA P-256",
                "file",
                now - DAY,
                now + 2 * DAY,
                now - DAY,
            ),
            Authority(
                "b2e1" + name[:4].encode().hex(),
                "x509",
                "prepared",
                "ECDSA P-256",
                "file",
                now,
                now + 3 * DAY,
                now - HOUR,
                now + DAY,
            ),
            Authority(
                "c3d2" + name[:4].encode().hex(), "jwt", "active", "ES256", "file", now - DAY, now + DAY, now - DAY
            ),
        ),
        runway=runway(now, identities, 0),
        funnel=(
            Stage("due", identities, {}),
            Stage("issued", identities, {}),
            Stage("delivered", identities, {}),
            Stage("loaded", identities - identities // 3, {}),
            Stage("confirmed", identities - identities // 2, {}),
        ),
        held=(Held(LATE, name, 1, 18, 1, 18, 40_000, 300_000), Held(AWAY, name, 2, 7, 2, 7, 50_000, 300_000)),
        algorithms=(
            Algorithm("x509-svid", "ECDSA P-256", 128, False, identities, "agent memory"),
            Algorithm("authority", "ECDSA P-256", 128, False, 2, "file"),
            Algorithm("jwt", "ES256", 128, False, 1, "file"),
            Algorithm("bundle signature", "ECDSA P-256", 128, False, 1, "file"),
            Algorithm("log", "Ed25519", 128, False, 1, "file"),
        ),
        probes=(
            Probe("sign", True, now - 9 * DAY, 0.9998, 0),
            Probe("feed", True, now - 3 * DAY, 0.9997, 0),
            Probe("bundle", True, now - 9 * DAY, 1.0, 0),
        ),
        logs=(log(name, now),),
        orders=("rotate", "republish", "refresh", "quarantine", "prepare", "activate", "pause", "resume", "taint"),
    )


def log(name: str, now: int) -> Log:
    """A log that its hub has cosigned a minute ago."""
    return Log(
        f"trustfed/{name}/journal",
        18_204,
        18_204,
        18_180,
        now - 70_000,
        "uVq2zD0m3n0TgV1i0nq1T6i7v2m1f6jY3l1S5nq8WmE=",
        18_180,
        now - 65_000,
    )


def runway(now: int, identities: int, short: int) -> tuple[Expiry, ...]:
    """A day of ends, most of them in the next hour or two, because SVIDs live for one; half of them are renewed already."""
    first = now // HOUR * HOUR
    made = []
    for hour in range(24):
        ending = max(identities // (2 + 3 * hour) if hour < 12 else 2, short)
        made.append(Expiry(first + hour * HOUR, ending, max(ending // 2, short), short if hour < 4 else 0))
    return tuple(made)


def stuck_authorities(now: int) -> tuple[Authority, ...]:
    """A successor that everybody waits for: two nodes have not taken the bundle that names it."""
    return (
        Authority("5eed0001", "x509", "active", "ECDSA P-256", "transit", now - 3 * DAY, now + 5 * HOUR, now - 3 * DAY),
        Authority(
            "5eed0002",
            "x509",
            "prepared",
            "ECDSA P-256",
            "transit",
            now - 8 * HOUR,
            now + 3 * DAY,
            now - 8 * HOUR,
            now + 2 * HOUR,
            ("node-3", "node-9", "ledger-us.example"),
            3,
        ),
        Authority("5eed0003", "jwt", "active", "ES256", "file", now - DAY, now + DAY, now - DAY),
        Authority(
            "5eed0004",
            "external",
            "distributed",
            "RSA 3072",
            "istiod",
            now - DAY,
            now + 300 * DAY,
            now - DAY,
            paused=True,
        ),
    )


def stuck_alarms(now: int) -> tuple[Alarm, ...]:
    """What is raised for it."""
    says = "its successor cannot be activated: 3 consumers lack the bundle; last safe moment in 2 h"
    return (Alarm("rollover_stuck", "ticket", "5eed0002", says, now - 6 * HOUR, "trustfed authority status"),)


def tainted_authorities(now: int) -> tuple[Authority, ...]:
    """A compromise that is being cleaned up."""
    return (
        Authority(
            "dead0001",
            "x509",
            "tainted",
            "RSA 2048",
            "file",
            now - 9 * DAY,
            now + 9 * DAY,
            now - 50 * MINUTE,
            0,
            ("legacy-vm-1", "legacy-vm-2"),
            2,
        ),
        Authority("dead0002", "x509", "active", "ECDSA P-256", "file", now - DAY, now + 6 * DAY, now - 48 * MINUTE),
        Authority("dead0003", "x509", "removed", "RSA 2048", "file", now - 40 * DAY, now - 2 * DAY, now - 2 * DAY),
    )


def lint() -> tuple[Finding, ...]:
    """Lifetimes that do not nest."""
    return (
        Finding(
            "ttl.leaf_outlives_authority",
            "entry web",
            "SVIDs of 24 h are asked of an authority that ends in 20 h",
            "a shorter --ttl, or prepare its successor",
        ),
        Finding(
            "ttl.hint_beyond_overlap",
            "bundle",
            "the refresh hint of 2 h is longer than the overlap of 1 h",
            "lower refresh_hint in cluster.toml",
        ),
    )


def old_algorithms() -> tuple[Algorithm, ...]:
    """What should not be there any more."""
    return (
        Algorithm("x509-svid", "ECDSA P-256", 128, False, 160, "agent memory"),
        Algorithm("x509-svid", "RSA 2048", 112, False, 20, "istio-proxy"),
        Algorithm("authority", "RSA 2048", 112, False, 1, "file"),
        Algorithm("jwt", "RS256", 112, False, 1, "file"),
        Algorithm("log", "Ed25519", 128, False, 1, "file"),
        Algorithm("bundle signature", "ML-DSA-65", 192, True, 1, "pkcs11"),
    )


def serial(number: int | str) -> str:
    """A serial as the ledger has them."""
    return hashlib.sha256(f"{number}".encode()).hexdigest()[:32]
