"""Why a service is reachable from here, or is not, in words: what `trustfed route list` and `route explain` say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any

from trustfed.cluster.mesh.outcomes import Outcome
from trustfed.cluster.mesh.reasons import Reason, because
from trustfed.cluster.mesh.routes import Held, Routes
from trustfed.errors import Conflict, NotFound
from trustfed.federation.mesh import caller_domain, check_host
from trustfed.runtime.clock import Clock
from trustfed.spiffe.ids import TrustDomain, shown

MAX_REFUSED = 20
MAX_COMPARED = 1_000
RENDERED = frozenset({"rendered", "rendered-beside-rule"})


@dataclass(frozen=True)
class Hub:
    """How the hub stands: whether it is there, when it last was, and what it refused of this domain's own.

    `unbelieved`: what came from it that this cluster refused, by `KIND NAME of DOMAIN` (trustfed.cluster.mesh.hearing).
    """

    connected: bool
    heard_at: datetime | None
    refused: Mapping[tuple[str, str], str]
    unbelieved: Mapping[str, str] = field(default_factory=dict)


class Explain:
    """Answers about hosts, from the table and its reasons."""

    def __init__(self, fold: Held, routes: Routes, hub: Callable[[], Hub], clock: Clock) -> None:
        self._fold, self._routes, self._hub, self._clock = fold, routes, hub, clock

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every host that is imported, offered or exported here, with its state and its age."""
        return (self._row(host) for host in self._routes.hosts())

    def explained(self, service: str, caller: str = "") -> dict[str, Any]:
        """All reasons for one service, a full host or NAME.NAMESPACE.

        `caller` is the domain that calls, this one if empty; another one's calls are explained as far as they are decided here.
        Raises NotFound with what is spelled alike, and Conflict for what only another cluster knows.
        """
        own = self._fold.state.trust_domain
        caller = TrustDomain.parse(caller).name if caller else own
        host = self._host(service)
        out = self._routes.exported(host)
        if caller != own and out is None:
            raise Conflict(
                f"this is the cluster of {own}: whether {caller} reaches {host} is decided by others",
                hint=f"ask {caller}: trustfed route explain {service} --socket the admin socket of its cluster",
            )
        hub = self._hub()
        inward = self._routes.imported(host) if caller == own else None
        reasons = [*(self._with_refusals(host, inward, hub) if inward is not None else ())]
        reasons += self._outward(out, caller) if out is not None else []
        if (refused := hub.refused.get(("export", host))) is not None:
            reasons.append(because("hub-refused", own=own, what=f"the export {host}", why=refused))
        if not hub.connected and hub.heard_at is not None:
            ago = age(self._clock.now() - hub.heard_at)
            reasons.append(because("hub-away", when=f"{ago} ago"))
        found = {
            "host": host,
            "cluster": own,
            "from": caller,
            "state": _state(inward) if inward is not None else _out_state(out),
            "reasons": [reason.shown() for reason in reasons],
            "resources": sorted(one.key for part in (inward, out) if part is not None for one in part.resources),
        }
        if caller != own:
            found["ask"] = f"{caller} knows the rest: trustfed route explain {host} at its cluster's admin socket"
        return found

    def patches(self, service: str) -> dict[str, Any]:
        """What owners' rules have to become before a host is rendered. Raises NotFound when no rule waits."""
        host = self._host(service)
        found = self._routes.imported(host).patches
        if not found:
            raise NotFound(
                f"no rule of an owner keeps {host} from being rendered", hint=f"trustfed route explain {host}"
            )
        listed = [{"namespace": one.namespace, "name": one.name, "new": one.new, "rule": one.rule} for one in found]
        return {"host": host, "patches": listed}

    def _row(self, host: str) -> dict[str, Any]:
        inward, out = self._routes.imported(host), self._routes.exported(host)
        exporters = sorted({reason.exporter for reason in inward.reasons if reason.exporter})
        since = inward.since or (out.since if out is not None else None)
        wanted = bool(exporters) or bool(self._routes.index.wanting(host))
        return {
            "host": host,
            "exporters": exporters,
            "state": _state(inward) if wanted or out is None else "not imported",
            "exported": _out_state(out) if out is not None else "",
            "reasons": [reason.code for reason in inward.reasons] if wanted or out is None else [],
            "since": since.isoformat() if since is not None else None,
            "age": age(self._clock.now() - since) if since is not None else None,
            "confirmed_at": at.isoformat() if (at := self._hub().heard_at) is not None else None,
        }

    def _with_refusals(self, host: str, inward: Outcome, hub: Hub) -> list[Reason]:
        own = self._fold.state.trust_domain
        refused = [
            because("hub-refused", one.exporter, own=own, what=f"the import {one.name}", why=why)
            for one in self._routes.index.wanting(host)
            if (why := hub.refused.get(("import", one.name))) is not None
        ]
        exporters = {
            *(one.exporter for one in inward.reasons),
            *(one.exporter for one in self._routes.index.wanting(host)),
        }
        for what, why in hub.unbelieved.items():
            kind, _, rest = what.partition(" ")
            name, _, exporter = rest.partition(" of ")
            if exporter in exporters and (kind == "gateway" or (kind, name) == ("export", host)):
                refused.append(because("not-believed", exporter, what=f"{kind} {name}", why=why))
        return [*inward.reasons, *refused[:MAX_REFUSED]]

    def _outward(self, out: Outcome, caller: str) -> list[Reason]:
        own = self._fold.state.trust_domain
        if caller == own:
            return list(out.reasons)
        found = [one for one in out.reasons if one.exporter == caller]
        if (why := self._routes.standing.why_not(caller)) is not None:
            found.insert(0, why)
        admitted = [one for one in out.callers if caller_domain(one).name == caller]
        general = [one for one in out.reasons if one.code in ("exported", "export-closed", "invalid")]
        if not admitted and why is None:
            found.append(because("caller-not-named", caller, own=own))
        return [*found, *general]

    def _host(self, service: str) -> str:
        known: list[str] = sorted({*self._routes.hosts(), *self._fold.state.mesh.local})
        if service in known:
            return service
        matching = [host for host in known if service.count(".") == 1 and host.startswith(f"{service}.svc.")]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise Conflict(f"{service} may be {' or '.join(matching[:5])}", hint="say the full host")
        alike = _alike(service, known)
        hint = f"did you mean {' or '.join(alike)}?" if alike else "trustfed route list"
        if service.count(".") < 2:
            raise NotFound(f"nothing is known of the service {shown(service)}", hint=hint)
        check_host(service, "the service")
        if alike:
            raise NotFound(f"nothing is known of {service}", hint=hint)
        return service


def _alike(service: str, known: Sequence[str]) -> list[str]:
    """Hosts that are spelled alike; of very many only those that begin with the same letter are compared."""
    near = known if len(known) <= MAX_COMPARED else [host for host in known if host[:1] == service[:1]]
    near = near[:MAX_COMPARED]
    short = {".".join(host.split(".")[:2]): host for host in near}
    names = get_close_matches(service[:253], [*near, *short], n=3, cutoff=0.6)
    return list(dict.fromkeys(short.get(name, name) for name in names))


def age(length: timedelta) -> str:
    """A length of time for people, in its largest unit: 12 s, 3 min, 5 h, 2 d."""
    seconds = max(int(length.total_seconds()), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _state(inward: Outcome) -> str:
    codes = {reason.code for reason in inward.reasons}
    if codes & RENDERED:
        return "rendered"
    return "not imported" if codes == {"no-import"} else "waiting"


def _out_state(out: Outcome | None) -> str:
    if out is None:
        return ""
    codes = {reason.code for reason in out.reasons}
    return "exported" if "exported" in codes else "closed" if "export-closed" in codes else "refused"
