"""What this room asks of an API server: lists that are whole, and watches that continue them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from trustfed.errors import Unavailable

Object: TypeAlias = Mapping[str, Any]
"""A Kubernetes object as parsed JSON; nothing of it is believed to have any shape."""
Name: TypeAlias = tuple[str, str]
"""Namespace and name."""
Kept = TypeVar("Kept")
MAX_OBJECTS = 50_000
"""Of one collection. A list with more is refused: what is known stays, and the status says so."""


class Gone(Unavailable):
    """The server no longer knows what happened since this version: list again (410)."""


@dataclass(frozen=True)
class Collection:
    """One kind of object, in all namespaces or in one."""

    prefix: str  # /api/v1 or /apis/GROUP/VERSION
    plural: str
    kind: str
    namespace: str = ""

    @property
    def path(self) -> str:
        """The path of its lists and watches."""
        inside = f"namespaces/{self.namespace}/" if self.namespace else ""
        return f"{self.prefix}/{inside}{self.plural}"

    @property
    def group(self) -> str:
        """The API group; "" for the core."""
        return self.prefix.split("/")[2] if self.prefix.startswith("/apis/") else ""

    def __str__(self) -> str:
        return self.plural + (f" of {self.namespace}" if self.namespace else "")


SERVICES = Collection("/api/v1", "services", "Service")
RULES = Collection("/apis/networking.istio.io/v1", "destinationrules", "DestinationRule")
POLICIES = Collection("/apis/security.istio.io/v1", "peerauthentications", "PeerAuthentication")


def pods_of(namespace: str) -> Collection:
    """The pods of one namespace."""
    return Collection("/api/v1", "pods", "Pod", namespace)


@dataclass(frozen=True)
class Listed(Generic[Kept]):
    """Everything there is of a collection at one version."""

    items: Mapping[Name, Kept]
    version: str  # "": the server has no such API group, and says so


@dataclass(frozen=True)
class Change:
    """One object that came, changed or went; None with a bookmark. `version` is where a later watch begins."""

    version: str
    item: Object | None
    gone: bool = False


class ApiServer(Protocol):
    """The driver is trustfed.cluster.mesh.kubernetes.driver."""

    async def list(self, of: Collection, keep: Callable[[Object], Kept | None]) -> Listed[Kept]:
        """What `keep`, called in any thread, keeps of all of it (None: nothing).

        Raises Unavailable if it is not whole, and Gone when it changed too much between two pages.
        """
        ...

    def watch(self, of: Collection, version: str) -> AsyncGenerator[tuple[Change, ...], None]:
        """What happened since, until the server or a minute or so ends it; nothing happened shows that it is open.

        Raises Gone, Unavailable.
        """
        ...


def name_of(item: Object) -> Name | None:
    """Namespace and name of an object, if it has both."""
    metadata = item.get("metadata")
    if not isinstance(metadata, dict):
        return None
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not isinstance(namespace, str) or not isinstance(name, str) or not namespace or not name:
        return None
    return namespace, name
