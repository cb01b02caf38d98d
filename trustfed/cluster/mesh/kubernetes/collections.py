"""What the API server has told, as one thing to look at: Services, owners' rules, policies, and pods by namespace."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from trustfed.cluster.mesh.kubernetes.follower import Follower
from trustfed.cluster.mesh.kubernetes.objects import Pod, Rule, Rules, Service, pod_of, rule_of, service_of
from trustfed.cluster.mesh.kubernetes.policies import Policies, Policy, policy_of
from trustfed.cluster.mesh.kubernetes.port import POLICIES, RULES, SERVICES, ApiServer, pods_of
from trustfed.runtime.clock import Clock

MAX_NAMESPACES = 64
"""Whose pods are followed: each is a connection."""
Changed = Callable[[set[str]], None]
"""Told the namespaces in which something changed; none: anything may have."""


class Collections:
    """Follows them; nothing of one is there before a whole list of it has come."""

    def __init__(
        self,
        api: ApiServer,
        cluster_domain: str,
        changed: Changed,
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
        *,
        root_namespace: str,
    ) -> None:
        self._api, self._suffix, self._changed = api, f".svc.{cluster_domain}", changed
        self._clock, self._uniform = clock, uniform
        self._services: Follower[Service] = Follower(api, SERVICES, service_of, changed, clock, uniform)
        keep = partial(rule_of, cluster_domain=cluster_domain)
        self._rules: Follower[Rule] = Follower(api, RULES, keep, self._rules_changed, clock, uniform)
        self._indexed: Rules | None = None
        self._root = root_namespace
        self._policies: Follower[Policy] = Follower(api, POLICIES, policy_of, self._policies_changed, clock, uniform)
        self._judging: Policies | None = None
        self._policies_came = False
        self._pods: dict[str, tuple[Follower[Pod], asyncio.Task[None]]] = {}

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [self._services.run(), self._rules.run(), self._policies.run()]

    @property
    def complete(self) -> bool:
        """Whether Services and rules have been read."""
        return self._services.complete and self._rules.complete

    @property
    def rules(self) -> Rules:
        """The owners' rules."""
        if self._indexed is None:
            self._indexed = Rules(self._rules.items.values())
        return self._indexed

    @property
    def policies(self) -> Policies | str:
        """The PeerAuthentications, or why they are not known."""
        if not self._policies.complete:
            return "the PeerAuthentications, which may turn mTLS off, have not been read"
        if self._judging is None:
            self._judging = Policies(self._policies.items.values(), self._root)
        return self._judging

    def annotated(self) -> dict[str, Service]:
        """The Services with annotations for us, by host."""
        return {
            f"{service.name}.{service.namespace}{self._suffix}": service
            for service in self._services.items.values()
            if service.annotations
        }

    def service(self, host: str) -> Service | None:
        """The Service with this host, if it is here."""
        name, namespace = host.split(".")[:2]
        here = host == f"{name}.{namespace}{self._suffix}"
        return self._services.items.get((namespace, name)) if here else None

    def pods(self, namespace: str) -> list[Pod] | str:
        """The pods of a namespace, or why they are not known."""
        held = self._pods.get(namespace)
        if held is None and len(self._pods) >= MAX_NAMESPACES:
            return f"the pods of more than {MAX_NAMESPACES} namespaces are not followed"
        if held is None or not held[0].complete:
            return f"the pods of {namespace} have not been read"
        return list(held[0].items.values())

    def follow_pods(self, namespaces: Iterable[str]) -> None:
        """Follow the pods of these namespaces, the first MAX_NAMESPACES of them, and of no others."""
        wanted = list(dict.fromkeys(namespaces))[:MAX_NAMESPACES]
        for namespace in [namespace for namespace in self._pods if namespace not in wanted]:
            self._pods.pop(namespace)[1].cancel()
        for namespace in wanted:
            if namespace not in self._pods:
                changed = partial(self._pods_changed, namespace)
                follower = Follower(self._api, pods_of(namespace), pod_of, changed, self._clock, self._uniform)
                self._pods[namespace] = (follower, asyncio.create_task(follower.run()))

    def followers(self) -> list[Follower[Any]]:
        """Everything that is followed."""
        return [self._services, self._rules, self._policies, *(follower for follower, _ in self._pods.values())]

    async def close(self) -> None:
        """Follow no pods any more."""
        tasks = [task for _, task in self._pods.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _rules_changed(self, _: set[str]) -> None:
        self._indexed = None
        self._changed(set())  # a rule may apply to hosts of any namespace

    def _policies_changed(self, namespaces: set[str]) -> None:
        self._judging = None
        everywhere = not self._policies_came or self._root in namespaces
        self._policies_came = True
        self._changed(set() if everywhere else namespaces)

    def _pods_changed(self, namespace: str, _: set[str]) -> None:
        self._changed({namespace})
