"""A node that begins with nothing but the address of a store, its root, and whoever it is in AWS (or a token).

1. key: the node's key is on disk before anything leaves
2. store: read in a process of its own, which is gone afterwards; it verifies by the pinned root, and the domain's own role
3. pin: the publication key is the one in the configuration or in the token, when there is one
4. envelope and cluster document are the home domain's: anchors, and where to knock
5. from here on as with a token (agent.enrolment): who answers must be the cluster, known by that key
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

from agent import enrolment, reader_ahead
from agent.config import AgentConfig
from agent.identity import NodeIdentity, public_bytes
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.federation import cluster_document
from trustfed.federation.envelope import PublicationKey, open_envelope
from trustfed.federation.names import cluster_id, node_id
from trustfed.federation.token import EnrolmentToken
from trustfed.reading import launch
from trustfed.reading.config import StoreConfig
from trustfed.reading.order import Order, SignIdentity, Wanted
from trustfed.runtime import logs
from trustfed.runtime.sockets import parse_address
from trustfed.spiffe.ids import TrustDomain

log = logs.get("agent.bootstrap")


def possible(config: AgentConfig) -> bool:
    """Whether this node can enrol without a token."""
    return config.store is not None and config.attest.kind != "join_token"


async def enrol(config: AgentConfig, token: EnrolmentToken | None, now: datetime) -> NodeIdentity:
    """Enrol this node by a token, by the store, or by both. Safe to run again after a crash at any moment.

    With a token its own address is tried first: the store helps when the cluster is no longer there.
    Raises Invalid, Denied, Conflict, NotFound, Unavailable.
    """
    folder, store = config.data_dir, config.store
    if token is not None:
        try:
            return await asyncio.to_thread(enrolment.enrol, folder, token, now)
        except Unavailable as error:
            if store is None:
                raise
            log.warning("the address in the token does not answer, asking the store", error=error.message)
    if store is None:
        raise Invalid("there is neither a token nor a store to begin with")
    invited = await _invited(config, store, token, now)
    return await asyncio.to_thread(enrolment.join, folder, invited, now)


async def _invited(
    config: AgentConfig, store: StoreConfig, token: EnrolmentToken | None, now: datetime
) -> enrolment.Invitation:
    domain = token.name if token is not None else TrustDomain.parse(store.trust_domain)
    order = await asyncio.to_thread(_order, config.data_dir, store, domain, token is None, now)  # 1
    reader = reader_ahead.take() or launch.start(aws=launch.needs_aws(order))
    try:
        answer = await asyncio.to_thread(launch.read, order, reader)  # 2
    finally:
        reader.kill()  # it has ended, unless this was cancelled
    found = answer.one(domain.name)
    key = PublicationKey(found.publication_key)
    _check_pin(key, store, token)  # 3
    held = open_envelope(found.envelope, domain, key)  # 4
    document = cluster_document.read(found.cluster, domain)
    attestor = config.attest.kind if token is None else "join_token"
    if attestor not in document.attestors:
        raise Denied(
            f"trust domain {domain} does not attest nodes by {attestor}",
            hint=f"it says: {', '.join(document.attestors) or 'none'}; configure the cluster's [attestation]",
        )
    log.info(
        "store read",
        trust_domain=str(domain),
        sequence=held.level.sequence,
        signed_at=found.signed_at.isoformat(),
        stale_seconds=int(answer.stale.total_seconds()),
    )
    return enrolment.Invitation(
        domain,
        key,
        tuple(parse_address(address) for address in document.https_addresses),
        attestor,
        answer.identity if token is None else token.encode(),
        None if token is None else node_id(domain, token.newcomer),
        held,
    )


def _order(folder: Path, store: StoreConfig, domain: TrustDomain, sign: bool, now: datetime) -> Order:
    key = enrolment.enrolment_key(folder)
    who = SignIdentity(str(cluster_id(domain)), public_bytes(key)) if sign else None
    try:
        return store.order(folder, now, (Wanted(domain.name),), sign=who)
    except TrustfedError as error:
        raise Invalid(f"the store's root_file: {error.message}", hint=error.hint) from None


def _check_pin(key: PublicationKey, store: StoreConfig, token: EnrolmentToken | None) -> None:
    pinned = token.pinned().fingerprint if token is not None else store.publication_key
    if pinned and key.fingerprint != pinned:
        raise Denied(
            f"the store names {key.fingerprint} as this domain's publication key, but {pinned} is pinned",
            hint="ask who runs the domain: either it has a new key, or the store is not to be believed",
        )
