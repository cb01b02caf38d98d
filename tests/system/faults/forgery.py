"""Identities of one trust domain that the authorities of another have signed, in earnest: nobody may ever believe them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from ca.keys.open import close_keys, open_keys
from tests.system.faults.invariants import Forgeries
from tests.system.faults.observers import AUDIENCE
from tests.system.stack import Cluster
from trustfed.cluster.config import ClusterConfig
from trustfed.demo import forge
from trustfed.runtime.config import load
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.ids import SpiffeId

FORGED_FOR = timedelta(hours=1)


def forge_in_name_of(victim: Cluster, thief: Cluster, config: Path, forgeries: Forgeries) -> None:
    """An X509-SVID and a JWT-SVID of the victim, signed with the keys that the thief's configuration names."""
    held = thief.admin.get("/authorities")["authorities"]
    active = {one["kind"]: one["id"] for one in held if one["status"] == "active"}
    bundle = thief.admin.get(f"/bundles/{thief.name}")
    twin = next(one for one in forge.authorities(bundle) if active["x509"] in one.subject.rfc4514_string())
    name = f"spiffe://{victim.name}/work"
    forged = forge.forge(config, active["x509"], twin, name, FORGED_FOR)
    x509.load_der_x509_certificate(forged.chain[0]).verify_directly_issued_by(twin)
    forgeries.chains[victim.name, thief.name] = forged.chain
    token = asyncio.run(_token(load(config, ClusterConfig), active["jwt"], SpiffeId.parse(name)))
    forgeries.tokens[victim.name, thief.name] = token


async def _token(config: ClusterConfig, authority: str, id_: SpiffeId) -> str:
    now = datetime.now(UTC)
    text = jwtsvid.signing_input(id_, AUDIENCE, now, now + FORGED_FOR, authority)
    keys = open_keys(config.keys.within(config.data_dir))
    try:
        (der,) = await keys.sign(f"jwt-{authority}", [text])
    finally:
        await close_keys(keys)
    return jwtsvid.assemble(text, der)
