"""How a cluster gets into the federation: one token, once; the same keys may ask again until it expires.

1. keys: the publication key and the first authorities exist and are journalled before anything leaves
2. roots: fetched from whoever answers, believed only by the hash in the token, then walked to the newest
3. server: TLS to those roots, and exactly the SPIFFE ID in the token
4. request: the first envelope and a CSR, signed as a whole by the publication key
5. answer: the intermediate must be this authority's; then one command journals it all
"""

from __future__ import annotations

import asyncio
import base64
from uuid import uuid4

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority import make_authority_csr
from ca.keys.port import KeyStore
from ca.lifecycle import Kind, Status
from trustfed.cluster import events as e
from trustfed.cluster.authorities import Authorities
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.federation import enrolment, roots
from trustfed.federation.token import EnrolmentToken
from trustfed.journal.fold import Fold
from trustfed.runtime import https_client
from trustfed.runtime.clock import Clock
from trustfed.runtime.https_client import Server, exactly
from trustfed.runtime.tls import client_context
from trustfed.spiffe.ids import TrustDomain

PUBLICATION_KEY = "publication"


async def enrol(
    fold: Fold[ClusterState], keys: KeyStore, authorities: Authorities, token: EnrolmentToken, clock: Clock
) -> None:
    """Enrol this cluster with the hub that the token names. Safe to run again after a crash at any moment."""
    trust_domain = TrustDomain.parse(token.newcomer)
    await make_keys(fold, keys, authorities, trust_domain, clock)  # 1
    documents = await asyncio.to_thread(https_client.root_documents, token.host, token.port)  # 2
    root_set = roots.pinned(documents, token.root_version, token.root_hash, clock.now())
    server = Server(token.host, token.port, client_context(None, root_set.roots), exactly(token.server_id))  # 3
    request, authority = await _request(fold, keys, token)  # 4
    answer = await asyncio.to_thread(https_client.post, server, "/v1/enrol", request)
    await _adopt(fold, authorities, answer, authority, token, documents, root_set, clock)  # 5


async def make_keys(
    fold: Fold[ClusterState], keys: KeyStore, authorities: Authorities, trust_domain: TrustDomain, clock: Clock
) -> None:
    """Have the publication key and the first authorities, journalled (1). Raises Conflict for another domain's journal."""
    domain = fold.state.domain
    if domain is not None and domain.trust_domain != trust_domain.name:
        raise Conflict(
            f"this data directory belongs to trust domain {domain.trust_domain}, the token to {trust_domain}",
            hint="use another data_dir",
        )
    if domain is None:
        try:
            public = await keys.public_key(PUBLICATION_KEY)
        except NotFound:
            public = await keys.create(PUBLICATION_KEY)
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        keyed = e.Keyed(uuid4().hex, trust_domain.name, PUBLICATION_KEY, spki, clock.now())
        await fold.execute(
            lambda s: [] if s.domain else [keyed], command_id=uuid4().hex, actor="cluster", now=clock.now()
        )
    for kind in (Kind.X509, Kind.JWT):
        if not any(authority.kind is kind for authority in fold.state.authorities.values()):
            await authorities.prepare(kind, "the first of its domain")
    # The first authorities have nobody to wait for: they are activated and published before the first reader exists.
    while await authorities.advance(()):
        pass


async def _request(fold: Fold[ClusterState], keys: KeyStore, token: EnrolmentToken) -> tuple[dict[str, str], str]:
    state = fold.state
    assert state.domain is not None
    authority = next(a for a in state.authorities.values() if a.kind is Kind.X509 and a.status is Status.ACTIVE)
    domain = TrustDomain.parse(state.trust_domain)
    document = {
        "token": token.encode(),
        "publication_key": enrolment.text(state.domain.publication_key),
        "authority_id": authority.id,
        "csr": enrolment.text(await make_authority_csr(domain, authority.id, authority.key_name, keys)),
        "envelope": enrolment.text(state.envelope),
    }
    (proof,) = await keys.sign(state.domain.publication_key_name, [enrolment.proof_input(enrolment.ENROL, document)])
    return {**document, "proof": enrolment.text(proof)}, authority.id


async def _adopt(
    fold: Fold[ClusterState],
    authorities: Authorities,
    answer: dict[str, object],
    authority: str,
    token: EnrolmentToken,
    documents: tuple[bytes, ...],
    root_set: roots.RootSet,
    clock: Clock,
) -> None:
    try:
        hub, suffixes = answer["hub"], answer["suffixes"]
        assert isinstance(hub, dict) and isinstance(suffixes, list)
        grpc, intermediate = str(hub["grpc"]), base64.b64decode(str(answer["intermediate"]), validate=True)
        names = tuple(str(suffix) for suffix in suffixes)
    except (KeyError, ValueError, AssertionError):
        raise Invalid("the hub's answer to the enrolment is malformed", hint="is it a trustfed hub?") from None
    await authorities.adopt_intermediate(authority, intermediate, root_set, names)
    enrolled = e.Enrolled(token.name.name, str(token.server_id), grpc, token.address, names, documents, clock.now())
    await fold.execute(
        lambda s: [] if s.hub else [enrolled],
        command_id=uuid4().hex,
        actor="cluster",
        reason="enrolled by token",
        now=clock.now(),
    )
