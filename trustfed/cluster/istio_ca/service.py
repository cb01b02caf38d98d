"""IstioCertificateService/CreateCertificate: certificates for the workloads of this domain's own mesh, and for nobody else.

1. one bearer token, of a cluster that is served; who shows none that is believed is paced by address, before it is verified
2. whose token it is (Reviewer)
3. the rate of this caller, and that its account is not kept out: from here on refusals are its own, and nobody's at its address
4. for a ztunnel: that the account it asks for has a pod on its own node
5. the key of the request, and that its holder signed it; the identity is the account's, by rule
6. the life that was asked for, within bounds; issued by the domain's authority, the serial on record first
7. the answer: the leaf, and as last element the anchors of this domain alone
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import grpc

from ca.issuance import LeafRequest
from trustfed.cluster.config import Policy
from trustfed.cluster.issuance import Issuance
from trustfed.cluster.istio_ca import requests
from trustfed.cluster.istio_ca.accounts import Account, account_in, excluded, id_of
from trustfed.cluster.istio_ca.config import IstioCaConfig
from trustfed.cluster.istio_ca.service_tokens import Reviewer
from trustfed.cluster.istio_ca.unread import Unread
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.proto import istio_ca_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_server import answering
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.x509svid import pem

log = logs.get("cluster.istio_ca")

SERVICE = "istio.v1.auth.IstioCertificateService"
METHOD = "CreateCertificate"
RULE = "istio-ca"
"""What stands in the ledger as entry and slot of these certificates."""
CALL_SECONDS = 20.0
FAILED_BURST, FAILED_SECONDS = 20, 1.0
"""Failures of one address: so many at once, then one in a while."""
MAX_REMEMBERED = 20_000


class Pods(Protocol):
    """Which pods run where."""

    async def node_of(self, caller: Account) -> str:
        """The node of the pod that the caller's token is bound to. Raises Denied, Unavailable."""
        ...

    async def runs_on(self, node: str, namespace: str, name: str) -> bool:
        """Whether a pod of this service account is on the node. Raises Unavailable."""
        ...


class IstioCa:
    """Answers the agents and ztunnels of one mesh."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        issuance: Issuance,
        anchors: Callable[[], tuple[bytes, ...]],
        reviewer: Reviewer,
        pods: Pods | None,
        config: IstioCaConfig,
        policy: Policy,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._domain, self._issuance, self._anchors = trust_domain, issuance, anchors
        self._reviewer, self._pods, self._config, self._clock = reviewer, pods, config, clock
        self._ttl = int(policy.svid_ttl.total_seconds())
        self._ttl_max = int((config.ttl_max or policy.svid_ttl_max) / timedelta(seconds=1))
        self._paces = Paces(config.rate_burst, config.rate_interval.total_seconds())
        self._ztunnels = Paces(config.ztunnel_rate_burst, config.ztunnel_rate_interval.total_seconds())
        self._failures = Paces(FAILED_BURST, FAILED_SECONDS)
        self._unread = Unread(clock.monotonic)
        self._last: OrderedDict[str, str] = OrderedDict()  # instance → serial of its last certificate
        self._asked = registry.counter(
            "cluster_istio_ca_requests_total", "certificate requests of Istio's protocol", labels=("outcome",)
        )

    def handlers(self) -> Any:
        """The service, for `Server.add_generic_rpc_handlers`."""
        # On the wire a unary call: this way it is ours to say how long its request may take to come.
        method = grpc.stream_unary_rpc_method_handler(
            self._create,
            request_deserializer=pb.IstioCertificateRequest.FromString,
            response_serializer=pb.IstioCertificateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    @answering
    async def _create(self, messages: Any, context: Any) -> pb.IstioCertificateResponse:
        said = [(name.lower(), value) for name, value in context.invocation_metadata() or ()]
        address = context.peer().rpartition(":")[0]
        request = await self._unread.request(messages, address)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self.create(said, request, address)
        except TimeoutError:
            self._asked.add(outcome="unavailable")
            raise Unavailable("the certificate was not issued in time", hint="ask again") from None

    async def create(
        self, metadata: list[tuple[str, str | bytes]], request: pb.IstioCertificateRequest, address: str
    ) -> pb.IstioCertificateResponse:
        """One certificate. Raises Invalid, Denied, Unavailable; nothing of the token is ever repeated."""
        now = self._clock.monotonic()
        if self._failures.wait(address, now) > 0:  # 1
            self._asked.add(outcome="paced")
            raise Unavailable("too many refused requests came from this address", hint="ask again in a minute")
        believed = False
        try:
            caller = await self._caller(metadata)
            believed = True
            response, account = await self._answer(caller, request)
        except (Invalid, Denied) as error:
            if not believed:
                self._failures.take(address, now)
            self._asked.add(outcome="refused")
            log.warning("certificate request refused", error=error.message, address=address)
            raise
        except TrustfedError:
            self._asked.add(outcome="unavailable")
            raise
        self._asked.add(outcome="issued")
        log.debug("certificate issued", account=account.key)
        return response

    async def _caller(self, metadata: list[tuple[str, str | bytes]]) -> Account:
        token = _bearer(metadata)
        self._check_cluster(metadata)
        return await self._reviewer.review(token)  # 2

    async def _answer(
        self, caller: Account, request: pb.IstioCertificateRequest
    ) -> tuple[pb.IstioCertificateResponse, Account]:
        asked = requests.impersonated(request)
        pace = self._ztunnels if asked and caller.key in self._config.ztunnel else self._paces
        if not pace.take(caller.caller, self._clock.monotonic()):  # 3
            raise Unavailable(
                f"{caller.key} asks for certificates too often", hint="istio_ca.rate_burst, rate_interval"
            )
        self._check_account(caller)
        account = await self._for_whom(caller, asked)  # 4
        self._check_account(account)
        given = id_of(self._domain, self._config.rule, account.namespace, account.name)
        spki, names = requests.possessed_key(request.csr)  # 5
        requests.check_names(names, given)
        instance = f"{RULE}/{account.key}/{account.pod or account.node}"
        issued = await self._issuance.workload(
            LeafRequest(  # 6
                given,
                spki,
                self._life(request.validity_duration),
                entry=RULE,
                node=account.node,
                instance=instance,
                slot=RULE,
                predecessor=self._last.get(instance, ""),
            )
        )
        self._remember(instance, issued.serial)
        chain = [pem([issued.chain[0]]).decode(), pem(self._anchors()).decode()]  # 7
        return pb.IstioCertificateResponse(cert_chain=chain), account

    def _check_cluster(self, metadata: list[tuple[str, str | bytes]]) -> None:
        if self._config.cluster_ids:
            said = [value for name, value in metadata if name == "clusterid"]
            if len(said) != 1 or said[0] not in self._config.cluster_ids:
                raise Denied(
                    "the caller's cluster is not served here", hint="istio_ca.cluster_ids names those that are"
                )

    def _check_account(self, account: Account) -> None:
        if excluded(account, self._config.exclude, self._config.allow):
            raise Denied(f"no certificates are issued for {account.key}", hint="istio_ca.exclude and istio_ca.allow")

    async def _for_whom(self, caller: Account, asked: str) -> Account:
        """The account whose identity is given: the caller's, or for a ztunnel one with a pod on its node (4)."""
        if not asked:
            return caller
        if caller.key not in self._config.ztunnel:
            raise Denied(f"{caller.key} may not ask for another identity", hint="istio_ca.ztunnel names who may")
        if self._pods is None:
            raise Denied(
                "which pods run on a ztunnel's node is not known here",
                hint="[istio_ca.kubernetes] names the API server",
            )
        wanted = SpiffeId.parse(asked)
        if wanted.trust_domain != self._domain:
            raise Denied(f"{wanted} is not of this trust domain", hint=f"IDs here begin with {self._domain.id}/")
        account = account_in(wanted, self._config.rule)
        node = await self._pods.node_of(caller)
        if not await self._pods.runs_on(node, account.namespace, account.name):
            raise Denied(f"no pod of {account.key} runs on the node of the ztunnel that asks")
        return Account(account.namespace, account.name, node=node)

    def _life(self, asked: int) -> int:
        """Seconds: what was asked for within the bound; what was not asked for is policy's."""
        if asked < 0:
            raise Invalid(f"a life of {asked} s is none", hint="leave validity_duration out")
        return min(asked or self._ttl, self._ttl_max)

    def _remember(self, instance: str, serial: str) -> None:
        self._last[instance] = serial
        self._last.move_to_end(instance)
        if len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)


def _bearer(metadata: list[tuple[str, str | bytes]]) -> str:
    said = [value for name, value in metadata if name == "authorization"]
    scheme, _, token = said[0].partition(" ") if len(said) == 1 and isinstance(said[0], str) else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Denied("the caller presented no service-account token", hint="authorization: Bearer TOKEN, once")
    return token.strip()
