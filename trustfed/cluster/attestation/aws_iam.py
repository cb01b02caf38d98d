"""Attestation by an AWS identity: the node signs who it is, STS says whether that is so, rules say which node that is.

 1. the node's request is in the one form there is, for this cluster and for the key that attests (caller_identity)
 2. STS, at the configured address, says whose signature it is: an ARN
 3. exactly one rule has this ARN: a session of one exact role of one account, or one exact identity
 4. the node's name comes from the session's name (or the rule), as it is: what is no node's name is refused, never made one
 5. a name that another identity has taken, or that a token invites, is not taken over; the same identity may come back with
    a new key (a new disk)

STS is asked in this cluster's name, for whoever comes: so what it refused is not asked again, and an address whose requests are
refused has only so many.

Whoever may assume a role may choose the name of the session, so may be every node of that rule: so a rule's names have text
of their own, and entries for them are written for whoever has the role. See the threat model.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from trustfed.cluster.attestation.port import Admission
from trustfed.cluster.attestation.sts import ARN, Sts
from trustfed.cluster.nodes import MAX_GROUPS
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.federation import caller_identity
from trustfed.federation.names import check_name, cluster_id
from trustfed.runtime.bounded_http import Origin, tls_context
from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces
from trustfed.spiffe.ids import TrustDomain

MAX_RULES = 1000
_SESSION = "{session}"
_ROLE = re.compile(r"(?P<role>arn:aws[a-z-]{0,20}:sts::[0-9]{12}:assumed-role/[\w+=,.@-]{1,64}/)\*", re.ASCII)
_ASKED_AT_ONCE, _WAITING = 8, 64
_REMEMBERED = 10_000
_REFUSED_AT_ONCE, _REFUSED_SECONDS = 20, 6.0
"""So many requests of one address (of one IPv6 network) may be refused at once, or wait; then one in so many seconds."""


@dataclass(frozen=True)
class AwsIamRule:
    """Which identity is which node. Raises Invalid.

    `arn` is arn:aws:sts::ACCOUNT:assumed-role/ROLE/* (every session of that role; the node is named by the session), or
    one whole ARN of a session or a user. `node` is the node's name, in which "{session}" stands for the session's. For a
    whole role it has text of its own beside: the names that the sessions of this role may take, and no others.
    """

    arn: str
    node: str
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        open_ = _ROLE.fullmatch(self.arn)
        if open_ is None and not ARN.fullmatch(self.arn):
            raise Invalid(
                f"arn {self.arn[:200]!r} is neither arn:aws:sts::ACCOUNT:assumed-role/ROLE/* nor one whole ARN",
                hint="* stands for a whole session name at the end, and for nothing else",
            )
        before, found, after = self.node.partition(_SESSION)
        if open_ is not None and not found:
            raise Invalid(f"node {self.node[:80]!r} would be the same for every session of {self.arn}")
        if open_ is not None and not (before or after):
            raise Invalid(
                f"node {self.node!r} would let any session of {self.arn} take the name of any node",
                hint='give the names of this rule something of their own: node = "edge-{session}"',
            )
        if found and ":assumed-role/" not in self.arn:
            raise Invalid(f"{self.arn} has no session: name its node", hint='node = "edge-7"')
        check_name(f"{before}{'a' if found else ''}{after}", "node")
        if len(self.groups) > MAX_GROUPS:
            raise Invalid(f"{len(self.groups)} groups are too many", hint=f"at most {MAX_GROUPS}")
        for group in self.groups:
            check_name(group, "group")

    def admits(self, arn: str) -> bool:
        """Whether this rule is about that identity."""
        return arn == self.arn or (self.arn.endswith("/*") and arn.rpartition("/")[0] == self.arn[:-2])

    def name(self, arn: str) -> str:
        """The node's name. Raises Invalid when the session's name makes none."""
        return check_name(self.node.replace(_SESSION, arn.rpartition("/")[2]), "node")


@dataclass(frozen=True)
class AwsIamConfig:
    """The table [attestation.aws_iam]. `sts_endpoint` is the one STS that is asked; nodes sign for the same one."""

    sts_endpoint: str
    rules: tuple[AwsIamRule, ...] = ()
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if Origin.parse(self.sts_endpoint)[1] not in ("", "/"):
            raise Invalid("attestation.aws_iam.sts_endpoint is an address without a path")
        if not 1 <= len(self.rules) <= MAX_RULES:
            raise Invalid(f"attestation.aws_iam has {len(self.rules)} rules", hint=f"1 to {MAX_RULES} of [[rules]]")
        arns = [rule.arn for rule in self.rules]
        twice = next((arn for arn in arns if arns.count(arn) > 1), None)
        if twice is not None:
            raise Invalid(f"two rules are about {twice}")
        names = [rule.node for rule in self.rules if rule.arn.endswith("/*")]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise Invalid(f"two rules name their nodes {twice}", hint="let each role have names of its own")


@dataclass
class _Seen:
    """What STS said of requests that were shown lately: each is asked about once.

    A request is known by all of its headers: a signature alone, put under another binding, proves nothing. Refusals are
    remembered apart: whoever makes many must not make the others forgotten.
    """

    arns: OrderedDict[str, tuple[str, datetime]] = field(default_factory=OrderedDict)
    refused: OrderedDict[str, tuple[Denied, datetime]] = field(default_factory=OrderedDict)

    def get(self, request: str, now: datetime) -> str | None:
        """The ARN, None for what was not shown. Raises Denied as STS did."""
        refused = self.refused.get(request)
        if refused is not None and now < refused[1]:
            raise Denied(refused[0].message, hint=refused[0].hint)
        found = self.arns.get(request)
        return found[0] if found is not None and now < found[1] else None

    def put(self, request: str, arn: str, now: datetime) -> None:
        while len(self.arns) >= _REMEMBERED:
            self.arns.popitem(last=False)
        self.arns[request] = (arn, _end(now))

    def refuse(self, request: str, error: Denied, now: datetime) -> None:
        while len(self.refused) >= _REMEMBERED:
            self.refused.popitem(last=False)
        self.refused[request] = (error, _end(now))


def _end(now: datetime) -> datetime:
    return now + 2 * caller_identity.MAX_AGE + timedelta(seconds=1)


class AwsIam:
    """The attestor. `trust_domain` is this cluster's."""

    name = "aws_iam"

    def __init__(self, config: AwsIamConfig, trust_domain: TrustDomain, clock: Clock) -> None:
        origin, _ = Origin.parse(config.sts_endpoint)
        context = tls_context(str(config.ca_file or "")) if origin.scheme == "https" else None
        self._sts, self._rules, self._clock = Sts(origin, context), config.rules, clock
        self._server_id = str(cluster_id(trust_domain))
        # Threads of its own: an STS that does not answer must not take those that write the journal.
        self._threads = ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="sts")
        self._waiting = 0
        self._seen = _Seen()
        self._refusals = Paces(_REFUSED_AT_ONCE, _REFUSED_SECONDS)

    async def verify(self, payload: str, key_hash: str, peer: str = "") -> str:
        """The ARN that STS names. Raises Invalid, Denied, Unavailable (STS is away, or too many ask, or this peer too much)."""
        now = self._clock.now()
        signed = caller_identity.read(payload, self._server_id, key_hash, now)  # 1
        arn = self._seen.get(signed.digest, now)
        if arn is None:
            arn = await self._paced(signed, _network(peer))
        self._rule(arn)
        return arn

    def admit(self, state: ClusterState, evidence: str, key_hash: str, now: datetime) -> Admission:
        """The node that the ARN names; the key that it has, if it is that ARN's already. Raises Denied."""
        rule = self._rule(evidence)  # 3
        try:
            name = rule.name(evidence)  # 4
        except TrustfedError as error:
            raise Denied(f"{evidence} names no node: {error.message}", hint=error.hint) from None
        held = state.nodes.get(name)
        if held is not None and held.attestor == self.name and held.evidence != evidence:  # 5
            raise Denied(
                f"node {name} is {held.evidence}, not {evidence}", hint="give the two rules different node names"
            )
        if held is None and any(
            invited.name == name and not invited.key_hash and invited.expires_at > now
            for invited in state.invitations.values()
        ):
            raise Denied(
                f"node {name} was invited by a join token, which nobody has used yet",
                hint="give the session another name, or wait until the token has expired",
            )
        same = held is not None and held.evidence == evidence and held.key_hash == key_hash
        return Admission(name, rule.groups, evidence, key_hash if same else "")

    def _rule(self, arn: str) -> AwsIamRule:
        # One that names this very identity goes before one that is about its role.
        found = sorted((rule for rule in self._rules if rule.admits(arn)), key=lambda rule: rule.arn.endswith("/*"))
        if not found:
            raise Denied(
                f"no rule here admits {arn}", hint="[[attestation.aws_iam.rules]] in the cluster's configuration"
            )
        return found[0]

    async def _paced(self, signed: caller_identity.SignedIdentity, network: str) -> str:
        """Ask STS, unless too much from there was refused, or is being asked about."""
        if not self._refusals.take(network, self._clock.monotonic()):
            raise Unavailable(
                "too many requests from your address were refused, or wait for STS",
                hint="it is tried again in a minute",
            )
        try:
            arn = await self._ask(signed)  # 2
            self._seen.put(signed.digest, arn, self._clock.now())
            self._rule(arn)
        except Denied as error:
            self._seen.refuse(signed.digest, error, self._clock.now())
            raise
        except TrustfedError:
            self._refusals.give_back(network)
            raise
        self._refusals.give_back(network)
        return arn

    async def _ask(self, signed: caller_identity.SignedIdentity) -> str:
        if self._waiting >= _WAITING:
            raise Unavailable("too many nodes attest by aws_iam at once", hint="it is tried again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._sts.caller, signed.headers)
        finally:
            self._waiting -= 1


def _network(peer: str) -> str:
    """What one party surely has as a whole: an IPv4 address, a /64 of IPv6."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
