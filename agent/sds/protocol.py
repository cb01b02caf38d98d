"""The two xDS conversations about secrets, one object per stream: requests in, the next response out. Pure.

State of the world (StreamSecrets):
1. The first request subscribes, whatever nonce it bears.
2. A request that answers another response than the last one is stale, and says nothing.
3. One with `error_detail` refuses what it answers (NACK); without it, it accepts it (ACK).
4. Its names replace those before; a response has all that are there and is sent when one of them, or the set, changed.
5. What was refused is not sent again until it changes.

Incremental (DeltaSecrets): 3 and 5 as above, and
6. names are added and taken away; one that is added again is sent again
7. what the peer says it holds (`initial_resource_versions`) is not sent at that version
8. a certificate that it holds and may have no more is named in `removed_resources`; a validation context never is: Envoy would
   go on believing it, and forget that it has it, so that it could not be replaced any more
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.sds.config import SdsConfig
from agent.sds.names import MAX_NAMES, SECRET_TYPE, check_names, check_type, names_identity
from agent.sds.secrets import Prepared
from trustfed.errors import Invalid
from trustfed.proto import envoy_pb2 as pb

MAX_PROXY = 128
MAX_ERROR = 500
_MOST_UNANSWERED = 32


class Answered(NamedTuple):
    """What a peer said of secrets that it was sent: it uses them, or refuses them with `error`."""

    secrets: tuple[Prepared, ...]
    error: str | None


class StateOfTheWorld:
    """One StreamSecrets."""

    def __init__(self, config: SdsConfig) -> None:
        self._config = config
        self.proxy = ""
        self.names: tuple[str, ...] = ()
        self._begun = False
        self._held = False
        self._count = 0
        self._sent: dict[str, Prepared] = {}
        self._sent_names: tuple[str, ...] | None = None
        self._open = False

    def had(self, name: str) -> bool:
        """Whether the peer holds a secret of this name, of this stream or of one before it."""
        return self._held or name in self._sent

    def lost(self, name: str) -> bool:
        """Whether only the end of this stream can tell the peer that it may have this no more."""
        return name in self._sent

    def take(self, request: pb.DiscoveryRequest) -> Answered | None:
        """Hear one request. Raises Invalid."""
        check_type(request.type_url)
        names = tuple(dict.fromkeys(request.resource_names))
        answered = None
        if not self._begun:  # 1
            self._begun, self._held = True, bool(request.version_info)
            self.proxy = printable(request.node.id, MAX_PROXY)
        elif request.response_nonce:
            if request.response_nonce != str(self._count):  # 2
                return None
            if self._open:  # 3
                self._open = False
                answered = Answered(tuple(self._sent.values()), refusal(request.error_detail, request))
        check_names(names, self._config)
        self.names = names  # 4
        return answered

    def offer(self, found: Mapping[str, Prepared | None]) -> bytes | None:
        """The next response, of all names that have a secret; None if the peer was sent just that."""
        present = {name: found[name] for name in self.names}
        there = {name: one for name, one in present.items() if one is not None}
        changed = any(name not in self._sent or self._sent[name].version != one.version for name, one in there.items())
        if not there or not (changed or self._sent_names != self.names):
            return None
        self._sent, self._sent_names, self._open = there, self.names, True
        self._count += 1
        head = pb.DiscoveryResponse(version_info=_together(there), type_url=SECRET_TYPE, nonce=str(self._count))
        return b"".join([head.SerializeToString(), *(one.resource for one in there.values())])


class Incremental:
    """One DeltaSecrets."""

    def __init__(self, config: SdsConfig) -> None:
        self._config = config
        self.proxy = ""
        self.names: tuple[str, ...] = ()
        self._begun = False
        self._count = 0
        self._holds: dict[str, str] = {}  # name → version that it was sent, or came with; "" to send it again
        self._unanswered: dict[str, tuple[Prepared, ...]] = {}

    def had(self, name: str) -> bool:
        """Whether the peer holds a secret of this name, of this stream or of one before it."""
        return name in self._holds

    def lost(self, name: str) -> bool:
        """Whether only the end of this stream can tell the peer that it may have this no more: 8 tells it."""
        return False

    def take(self, request: pb.DeltaDiscoveryRequest) -> Answered | None:
        """Hear one request. Raises Invalid."""
        check_type(request.type_url)
        answered = None
        if not self._begun:
            self._begun = True
            self.proxy = printable(request.node.id, MAX_PROXY)
            if len(request.initial_resource_versions) > MAX_NAMES:
                raise Invalid(f"{len(request.initial_resource_versions)} initial versions", hint=f"at most {MAX_NAMES}")
            named = set(request.resource_names_subscribe)
            self._holds = {at: one[:64] for at, one in request.initial_resource_versions.items() if at in named}  # 7
        elif request.response_nonce:
            secrets = self._unanswered.pop(request.response_nonce, None)
            if secrets:
                answered = Answered(secrets, refusal(request.error_detail, request))
        if self._count:
            self._again(request.resource_names_subscribe)
        left = set(request.resource_names_unsubscribe)
        wanted = dict.fromkeys((*self.names, *request.resource_names_subscribe))
        names = tuple(name for name in wanted if name not in left)
        check_names(names, self._config)
        self.names = names
        for name in left:
            self._holds.pop(name, None)
        return answered

    def _again(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._holds:  # 6
                self._holds[name] = ""

    def offer(self, found: Mapping[str, Prepared | None]) -> bytes | None:
        """The next response: what changed, and what is gone; None if nothing did."""
        there = [
            one for name in self.names if (one := found[name]) is not None and self._holds.get(name) != one.version
        ]
        lost = [name for name in self.names if found[name] is None and name in self._holds]
        gone = [name for name in lost if names_identity(name, self._config)]  # 8
        if not there and not gone:
            return None
        for one in there:
            self._holds[one.name] = one.version
        for name in gone:
            del self._holds[name]
        self._count += 1
        nonce = str(self._count)
        self._unanswered[nonce] = tuple(there)
        if len(self._unanswered) > _MOST_UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]
        head = pb.DeltaDiscoveryResponse(type_url=SECRET_TYPE, nonce=nonce, removed_resources=gone)
        return b"".join([head.SerializeToString(), *(one.delta for one in there)])


def printable(text: str, longest: int) -> str:
    """What somebody else wrote, fit for a log: one line of printable characters, bounded."""
    return "".join(one if one.isprintable() else " " for one in text[:longest]).strip()


def refusal(status: pb.Status, request: pb.DiscoveryRequest | pb.DeltaDiscoveryRequest) -> str | None:
    """Why a request refuses what it answers; None if it accepts it."""
    if not request.HasField("error_detail"):
        return None
    return printable(status.message, MAX_ERROR) or f"no reason given (code {status.code})"


def _together(secrets: Mapping[str, Prepared]) -> str:
    """One version for several secrets, by content."""
    versions = [one.version for one in secrets.values()]
    return versions[0] if len(versions) == 1 else hashlib.sha256("".join(versions).encode()).hexdigest()[:32]
