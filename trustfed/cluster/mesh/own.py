"""What this domain says of its own mesh, and what it knows of hosts inside: decisions. Pure.

An item belongs to the source that put it: a person's command, the directory of desired state, or Kubernetes. Another
source may not change it, so that two of them never undo each other's work; a person may take an item over, in so many
words. What is said already makes no event.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh.state import key
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation.mesh import MAX_IDS, Gateway, Item, check_host, check_own, kind_of, write_item
from trustfed.federation.mesh_statement import check_size
from trustfed.journal.events import TypedEvent
from trustfed.runtime.reach import Reach
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

COMMAND, DIRECTORY, KUBERNETES = SOURCES = ("command", "directory", "kubernetes")
LIMITS: Mapping[str, int] = {"gateway": 64, "export": 5_000, "import": 1_000}
LOCAL = "local"
MAX_LOCAL = 10_000
MAX_RULES = 32
MAX_RULES_BYTES = 65_536
MAX_LOCAL_PORTS = 128
_PORT = re.compile(r"([1-9]\d{0,4}):([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?", re.ASCII)
SIDECARS = ("absent", "all", "some", "none")
CHANGE_HINTS: Mapping[str, str] = {
    COMMAND: "change it by command, or put it with --take-over",
    DIRECTORY: "change its document in the directory of desired state, or put it anew with --take-over",
    KUBERNETES: "change the annotations of its Kubernetes Service, or put it anew with --take-over",
}


class Draft:
    """One decision about any number of things, each named at most once; `done()` is what it comes to.

    `reach` says which addresses a gateway may have; `take` takes items over from other sources.
    """

    def __init__(
        self, state: ClusterState, source: str, now: datetime, *, reach: Reach | None = None, take: bool = False
    ) -> None:
        if source not in SOURCES:
            raise Invalid(f"{shown(source)} is no source of mesh items", hint=f"one of {', '.join(SOURCES)}")
        self._mesh, self._source, self._now, self._take = state.mesh, source, now, take
        self._domain = TrustDomain.parse(state.trust_domain)
        self._reach = Reach() if reach is None else reach
        self._sequence = state.mesh.sequence
        self._more: Counter[str] = Counter()
        self._events: list[TypedEvent] = []

    def done(self) -> list[TypedEvent]:
        """The events. Raises Conflict if there would be too many of a kind, after all that is put and dropped."""
        for kind, more in self._more.items():
            if more <= 0:
                continue
            held = len(self._mesh.local) if kind == LOCAL else sum(1 for _ in self._mesh.of_kind(kind))
            limit = MAX_LOCAL if kind == LOCAL else LIMITS[kind]
            if held + more > limit:
                noun = "hosts are" if kind == LOCAL else f"{kind}s are"
                raise Conflict(f"at most {limit} {noun} kept here; there would be {held + more}", hint="remove others")
        return self._events

    def put(self, item: Item) -> None:
        """Say what a gateway, an export or an import is.

        Raises Denied (another domain's, or an address that a gateway may not have), Conflict (another source's), Invalid
        (too large to be told to others).
        """
        kind, data = kind_of(item), write_item(item)
        what = f"{kind} {item.name}"
        check_own(self._domain, item)
        if isinstance(item, Gateway):
            check_address(item, self._reach)
        check_size(self._domain, item)
        held = self._mesh.own.get(key(kind, item.name))
        if held is not None:
            self._check_source(held.source, what)
            if (held.item, held.source) == (data, self._source):
                return
        else:
            self._more[kind] += 1
        self._sequence += 1
        self._events.append(e.MeshPut(kind, item.name, data, self._sequence, self._source, self._now))

    def drop(self, kind: str, name: str) -> None:
        """Take a gateway, an export or an import back. Raises NotFound, Conflict (another source's)."""
        held = self._mesh.own.get(key(kind, name))
        if held is None:
            raise NotFound(f"there is no {kind} {shown(name)}", hint=f"trustfed {kind} list")
        if held.source != self._source:  # a source that drops what it never put would only see it put again
            raise _foreign(held.source, f"{kind} {name}")
        self._more[kind] -= 1
        self._sequence += 1
        self._events.append(e.MeshDropped(kind, name, self._sequence, self._now))

    def local(
        self,
        host: str,
        sidecars: str,
        answers: Sequence[str],
        rules: Sequence[Mapping[str, object]],
        ports: Sequence[str] = (),
    ) -> None:
        """Say what is known of a host inside this cluster.

        `rules` are DestinationRules as Kubernetes objects, `ports` those of its Service as NUMBER:NAME (none: not known).
        Raises Invalid, Denied (an identity of another domain), Conflict (another source's).
        """
        what = f"the local knowledge of {shown(host)}"
        check_host(host, what)
        found = e.LocalSeen(
            host,
            _sidecars(sidecars, answers, what),
            self._answers(answers, what),
            rules_of(rules, what),
            self._source,
            self._now,
            ports_of(ports, what),
        )
        held = self._mesh.local.get(host)
        if held is not None:
            self._check_source(held.source, what)
            said = ("sidecars", "answers", "rules", "ports", "source")
            if all(getattr(held, one) == getattr(found, one) for one in said):
                return
        else:
            self._more[LOCAL] += 1
        self._events.append(found)

    def forget(self, host: str) -> None:
        """Know nothing of a host any more: imports of it wait. Raises NotFound, Conflict (another source's)."""
        held = self._mesh.local.get(host)
        if held is None:
            raise NotFound(f"nothing is known of the host {shown(host)}", hint="trustfed mesh local")
        if held.source != self._source:
            raise _foreign(held.source, f"the local knowledge of {host}")
        self._more[LOCAL] -= 1
        self._events.append(e.LocalForgotten(host, self._now))

    def _check_source(self, source: str, what: str) -> None:
        if source != self._source and not self._take:
            raise _foreign(source, what)

    def _answers(self, answers: Sequence[str], what: str) -> tuple[str, ...]:
        if len(answers) > MAX_IDS:
            raise Invalid(f"{what} names {len(answers)} answering identities", hint=f"at most {MAX_IDS}")
        for answer in answers:
            if SpiffeId.parse(answer).trust_domain != self._domain:
                raise Denied(
                    f"{what} names {answer}, which is not of {self._domain}", hint="who answers here is of this domain"
                )
        return tuple(sorted(set(answers)))


def put(
    state: ClusterState, item: Item, source: str, now: datetime, *, reach: Reach | None = None, take: bool = False
) -> list[TypedEvent]:
    """Say what one gateway, export or import is: see `Draft.put`."""
    draft = Draft(state, source, now, reach=reach, take=take)
    draft.put(item)
    return draft.done()


def drop(state: ClusterState, kind: str, name: str, source: str, now: datetime) -> list[TypedEvent]:
    """Take one gateway, export or import back: see `Draft.drop`."""
    draft = Draft(state, source, now)
    draft.drop(kind, name)
    return draft.done()


def local(
    state: ClusterState,
    host: str,
    sidecars: str,
    answers: Sequence[str],
    rules: Sequence[Mapping[str, object]],
    source: str,
    now: datetime,
    *,
    take: bool = False,
    ports: Sequence[str] = (),
) -> list[TypedEvent]:
    """Say what is known of one host inside this cluster: see `Draft.local`."""
    draft = Draft(state, source, now, take=take)
    draft.local(host, sidecars, answers, rules, ports)
    return draft.done()


def forget(state: ClusterState, host: str, source: str, now: datetime) -> list[TypedEvent]:
    """Know nothing of one host any more: see `Draft.forget`."""
    draft = Draft(state, source, now)
    draft.forget(host)
    return draft.done()


def check_address(gateway: Gateway, reach: Reach) -> None:
    """Raise Denied for an address at which no gateway of another cluster can be. Zones and mapped addresses too."""
    try:
        reach.check(gateway.address)
    except Denied as refused:
        fault = refused.message.split(": this process")[0]
        raise Denied(
            f"gateway {gateway.name}: {fault}, where no other cluster finds it",
            hint="mesh.allow_networks in the cluster's configuration names exceptions",
        ) from None


def _foreign(source: str, what: str) -> Conflict:
    names = {COMMAND: "a command", DIRECTORY: "the directory of desired state", KUBERNETES: "Kubernetes"}
    return Conflict(f"{what} was put by {names[source]}", hint=CHANGE_HINTS[source])


def _sidecars(sidecars: str, answers: Sequence[str], what: str) -> str:
    if sidecars not in SIDECARS:
        raise Invalid(f"{what} has the sidecars {shown(sidecars)}", hint=f"one of {', '.join(SIDECARS)}")
    if sidecars == "absent" and answers:
        raise Invalid(f"{what} is that no such service is here, and yet it names who answers")
    if sidecars == "all" and not answers:
        # The rendered rule lists who may answer: without the local ones it would cut local callers off.
        raise Invalid(f"{what} does not name who answers it here", hint="--local-answers spiffe://...")
    return sidecars


def ports_of(ports: Sequence[str], what: str) -> tuple[str, ...]:
    """The ports of a Service, NUMBER:NAME, by number; a Service's only port may be without a name. Raises Invalid."""
    if len(ports) > MAX_LOCAL_PORTS:
        raise Invalid(f"{what} has {len(ports)} ports", hint=f"at most {MAX_LOCAL_PORTS}")
    found: dict[int, str] = {}
    for port in ports:
        read = _PORT.fullmatch(port)
        if read is None or int(read[1]) > 65_535:
            raise Invalid(f"{what} has the port {shown(port)}", hint="NUMBER:NAME as in its Service, such as 8080:http")
        if found.setdefault(int(read[1]), port) != port:
            raise Invalid(f"{what} has two names for port {read[1]}", hint="each number once")
    return tuple(found[number] for number in sorted(found))


def rules_of(rules: Sequence[Mapping[str, object]], what: str) -> bytes:
    """The DestinationRules as canonical JSON, with of their metadata only what tells them apart and their age."""
    if len(rules) > MAX_RULES:
        raise Invalid(f"{what} has {len(rules)} rules", hint=f"at most {MAX_RULES}")
    kept = []
    for rule in rules:
        metadata, spec = rule.get("metadata"), rule.get("spec")
        named = isinstance(metadata, Mapping) and all(type(metadata.get(n)) is str for n in ("name", "namespace"))
        if rule.get("kind") != "DestinationRule" or not named or not isinstance(spec, Mapping):
            raise Invalid(
                f"{what} has a rule that is no DestinationRule",
                hint="kubectl get destinationrule NAME -o yaml: kind, metadata with name and namespace, spec",
            )
        assert isinstance(metadata, Mapping)
        of_it = {name: metadata[name] for name in ("creationTimestamp", "name", "namespace") if name in metadata}
        kept.append(
            {
                "apiVersion": rule.get("apiVersion", "networking.istio.io/v1"),
                "kind": "DestinationRule",
                "metadata": of_it,
                "spec": spec,
            }
        )
    kept.sort(key=lambda rule: (rule["metadata"]["namespace"], rule["metadata"]["name"]))  # type: ignore[index]
    try:
        data = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise Invalid(f"{what} has a rule that is not plain JSON") from None
    if len(data) > MAX_RULES_BYTES:
        raise Invalid(f"the rules of {what} are {len(data)} bytes", hint=f"at most {MAX_RULES_BYTES}")
    return data
