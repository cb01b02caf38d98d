"""Deltas of one stream become whole states: nothing counts before its digest fits. Pure.

A batch is messages up to one with a digest. What the digest covers is what the cluster says that we hold: a resource that was
refused here counts in it with the version that was sent, so that one bad resource never looks like a lost message.

A refused resource is left out alone: what was held under its key stays, until it is removed or replaced by a good one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trustfed.errors import Conflict, Invalid, TrustfedError
from trustfed.federation.mesh_digest import digest
from trustfed.feed.resources import MAX_BYTES, MAX_RESOURCES, Resource, accept, check_key
from trustfed.proto import mesh_pb2 as pb
from trustfed.spiffe.ids import shown


@dataclass(frozen=True)
class State:
    """What a feed serves: good resources by key, why others were left out, when the hub last confirmed it (Unix ms)."""

    resources: Mapping[str, Resource] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    confirmed_ms: int = 0

    @property
    def versions(self) -> dict[str, str]:
        """The version of each good resource."""
        return {key: resource.version for key, resource in self.resources.items()}

    def changed(self, earlier: State) -> frozenset[str]:
        """The keys under which something else is served than in `earlier`."""
        keys = self.resources.keys() | earlier.resources.keys()
        return frozenset(key for key in keys if self.resources.get(key) != earlier.resources.get(key))


class Intake:
    """One stream's messages, on top of what is held; `anew`: the cluster was told that nothing is held."""

    def __init__(self, held: State, *, anew: bool) -> None:
        self._held, self._anew = held, anew
        self._resources = {} if anew else dict(held.resources)
        self._claimed = {} if anew else held.versions
        self._rejected: dict[str, str] = {}

    def take(self, said: pb.Resources) -> State | None:
        """The state at the end of a batch, None within one.

        Raises Conflict when what we have is not what the cluster says that we have, Invalid beyond the bounds.
        """
        for key in said.remove:
            for table in (self._resources, self._claimed, self._rejected):
                table.pop(key, None)
        for resource in said.upsert:
            self._upsert(resource)
        if len(self._claimed) > MAX_RESOURCES:
            raise Invalid(f"the cluster sent more than {MAX_RESOURCES} resources")
        if not said.digest:
            return None
        if sum(len(resource.manifest) for resource in self._resources.values()) > MAX_BYTES:
            raise Invalid(f"the cluster sent more than {MAX_BYTES >> 20} MiB of resources")
        if digest(self._claimed) != said.digest:
            raise Conflict("what is held is not what the cluster says that is held", hint="everything is asked anew")
        return State(dict(self._resources), dict(self._rejected), max(said.confirmed_ms, 0))

    def _upsert(self, said: pb.Resource) -> None:
        try:
            check_key(said.key)
        except TrustfedError as error:
            # Under no key of ours: nothing can be held under it, but the cluster counts it.
            self._reject(said, error)
            return
        try:
            resource = accept(said.key, said.version, said.created_ms, said.manifest)
        except TrustfedError as error:
            self._reject(said, error)
            earlier = self._held.resources.get(said.key) if self._anew else None
            if earlier is not None:
                self._resources.setdefault(said.key, earlier)
            return
        self._resources[said.key], self._claimed[said.key] = resource, resource.version
        self._rejected.pop(said.key, None)

    def _reject(self, said: pb.Resource, error: TrustfedError) -> None:
        self._claimed[said.key] = said.version
        self._rejected[said.key] = shown(error.message)[:300]
