"""The cryptographic inventory: each certificate that lives, with its key, who holds it and what for (PCI DSS 4.2.1.1, DORA).

From the facts alone; whose an entry is (`owners`) is the cluster's to say. Strengths are bits of classical security (NIST SP
800-57 part 1, table 2, RFC 8032); what is quantum-safe follows FIPS 203 to 205.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from trustfed.evidence.engine import Engine
from trustfed.evidence.serials import Serial
from trustfed.evidence.standing import Algorithm

_STRENGTH = {"ec-p256": 128, "ec-p384": 192, "ec-p521": 256, "ed25519": 128, "ed448": 224}
_QUANTUM_SAFE = {"ml-dsa-44": 128, "ml-dsa-65": 192, "ml-dsa-87": 256, "slh-dsa-128": 128, "slh-dsa-256": 256}
_RSA = ((15360, 256), (7680, 192), (3072, 128), (2048, 112), (1024, 80))


class Certificate(msgspec.Struct, frozen=True):
    """One certificate that has not ended. `custodian` holds the private key: an agent of a node, or this cluster."""

    serial: str
    spiffe_id: str
    purpose: str  # x509-svid | node-svid | system-svid
    slot: str  # x509 | reserve | node | ...
    algorithm: str
    strength: int
    quantum_safe: bool
    issuer: str
    custodian: str
    instance: str
    entry: str
    owner: str
    not_before_ms: int
    not_after_ms: int
    sha256: str  # of the DER; "" while its signature is on its way
    in_use: bool  # it was delivered


def strength(algorithm: str) -> int:
    """Bits of classical security of an algorithm as the ledger names it; 0 if it is unknown."""
    if algorithm.startswith("rsa-"):
        bits = int(algorithm[4:]) if algorithm[4:].isdigit() else 0
        return next((level for least, level in _RSA if bits >= least), 0)
    return _STRENGTH.get(algorithm, 0) or _QUANTUM_SAFE.get(algorithm, 0)


def quantum_safe(algorithm: str) -> bool:
    """Whether no quantum computer is known to break it."""
    return algorithm in _QUANTUM_SAFE


def certificates(engine: Engine, owners: Mapping[str, str] | None = None) -> list[Certificate]:
    """All that live as of the engine's time, by serial. Blocks: some 2 µs each."""
    return [
        _certificate(one, owners or {}) for _, one in sorted(engine.live.items()) if one.not_after_ms > engine.as_of
    ]


def page(engine: Engine, after: str, limit: int, owners: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Up to `limit` certificates with serials above `after`, the sums over all of them, and where the next page begins."""
    serials = sorted(
        serial for serial, one in engine.live.items() if serial > after and one.not_after_ms > engine.as_of
    )
    chosen = [_certificate(engine.live[serial], owners or {}) for serial in serials[:limit]]
    return {
        "certificates": chosen,
        "algorithms": algorithms(engine),
        "next": serials[limit - 1] if len(serials) > limit else None,
    }


def algorithms(engine: Engine) -> tuple[Algorithm, ...]:
    """How many live certificates use which algorithm, by purpose and custodian."""
    counts = Counter(
        (one.purpose, one.algorithm, _custodian(one)[0])
        for one in engine.live.values()
        if one.not_after_ms > engine.as_of
    )
    return tuple(
        Algorithm(purpose, name, strength(name), quantum_safe(name), count, custodian)
        for (purpose, name, custodian), count in sorted(counts.items())
    )


def _custodian(one: Serial) -> tuple[str, str]:
    """Who holds the key: its kind, and by name."""
    return ("agent", f"agent on {one.node}") if one.node else ("cluster", "cluster")


def _certificate(one: Serial, owners: Mapping[str, str]) -> Certificate:
    return Certificate(
        serial=one.serial,
        spiffe_id=one.spiffe_id,
        purpose=one.purpose,
        slot=one.slot,
        algorithm=one.algorithm,
        strength=strength(one.algorithm),
        quantum_safe=quantum_safe(one.algorithm),
        issuer=one.authority,
        custodian=_custodian(one)[1],
        instance=one.instance,
        entry=one.entry,
        owner=owners.get(one.entry, ""),
        not_before_ms=one.not_before_ms,
        not_after_ms=one.not_after_ms,
        sha256=one.digest.hex(),
        in_use=one.delivered,
    )
