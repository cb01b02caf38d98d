"""One imported host: whether it may be rendered here, from whom, and why not. Pure.

For each exporter, in the order in which its export came: 1 this domain wants it · 2 both grants stand, and it was signed with
the key that is pinned now · 3 it names callers of this domain · 4 it has a gateway, signed likewise, that this cluster may be
sent to · 5 a Service of the same name here has its ports. Of those that are left: 5 ports agree with the first's. For the
host: 6 what is inside this cluster is known and bears mTLS · 7 rules of owners that apply hold what it needs · 8 what is
rendered passes validation. Any doubt renders nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from bundle_publisher.istio import imported, owners
from bundle_publisher.istio.imported import Entrance, Imported, Remote
from bundle_publisher.istio.owners import Patch, Rule
from trustfed.cluster.mesh.outcomes import Outcome, View
from trustfed.cluster.mesh.reasons import Reason, because
from trustfed.cluster.mesh.route_index import item
from trustfed.cluster.mesh.state import Route, key
from trustfed.errors import Denied, Invalid
from trustfed.federation.mesh import Export, Gateway, caller_domain
from trustfed.runtime.reach import Reach


def decide(view: View, host: str) -> Outcome:
    """What this host comes to."""
    remotes: list[Remote] = []
    reasons: list[Reason] = []
    for route in _exports(view, host):
        found = _remote(view, route)
        if isinstance(found, Remote):
            found = _other_ports(view, host, found) or found
        if isinstance(found, Reason):
            reasons.append(found)
        else:
            remotes.append(found)
    agreeing = [one for one in remotes if _ports(one) == _ports(remotes[0])]  # 5
    for one in remotes:
        if one not in agreeing:
            keeper = f"{remotes[0].exporter}, whose export of it came first and keeps it"
            reasons.append(because("ports-conflict", one.exporter, host=host, keeper=keeper))
    if not agreeing:
        return Outcome(reasons=tuple(reasons))
    return _inside(view, host, agreeing, reasons)


def wanted_but_absent(view: View, host: str) -> list[Reason]:
    """Why a host of which no export came is not here."""
    found = []
    for exporter in dict.fromkeys(one.exporter for one in view.index.wanting(host)):
        why = view.standing.why_not(exporter)
        found.append(why or because("not-exported", exporter, own=view.own, host=host))
    return found or [because("no-import", own=view.own, host=host)]


def _exports(view: View, host: str) -> list[Route]:
    routes = [view.mesh.routes.get(key(name, "export", host)) for name in view.index.exporters_of(host)]
    return sorted((one for one in routes if one is not None), key=lambda one: (one.created_at, one.exporter))


def _remote(view: View, route: Route) -> Remote | Reason:
    """Steps 1 to 4: what this exporter contributes."""
    export = item("export", route.item)
    if not isinstance(export, Export):
        return because("invalid", route.exporter, host=route.name, why=str(export))
    exporter, own, host = route.exporter, view.own, export.host
    if not view.index.imports(exporter, export):
        return because("no-import", exporter, own=own, host=host)
    if (why := view.standing.why_not(exporter)) is not None:
        return why
    if route.key != view.standing.pinned.get(exporter):
        return because("key-replaced", exporter)
    if not any(caller_domain(caller).name == own for caller in export.callers):
        return because("no-callers", exporter, own=own, host=host)
    gateways = _gateways(view, exporter)
    if not gateways:
        return because("no-gateway", exporter)
    allowed = [gateway for gateway in gateways if _may(view.reach, gateway.address)]
    if not allowed:
        return because("gateways-refused", exporter, gateways=_listed(one.address for one in gateways))
    return Remote(exporter, export, route.created_at, _open(view, exporter, host, allowed))


def _gateways(view: View, exporter: str) -> list[Gateway]:
    found = []
    for name in view.index.gateways_of(exporter):
        route = view.mesh.routes.get(key(exporter, "gateway", name))
        if route is not None and route.key == view.standing.pinned.get(exporter):
            gateway = item("gateway", route.item)
            found += [gateway] if isinstance(gateway, Gateway) else []
    return found


@lru_cache(16_384)
def _may(reach: Reach, address: str) -> bool:
    try:
        reach.check(address)
    except Denied:
        return False
    return True


def _open(view: View, exporter: str, host: str, gateways: list[Gateway]) -> tuple[Entrance, ...]:
    """The gateways that are judged up, for this host too; the last one never leaves because of what was judged."""
    mesh = view.mesh
    ranked = []
    for gateway in gateways:
        judged = mesh.gateways.get(key(exporter, gateway.name))
        served = mesh.services.get(key(exporter, host, gateway.name))
        up = (judged is None or judged.up, served is None or served.up)
        last_up = max((one.at for one in (judged, served) if one is not None), default=None)
        entrance = Entrance(gateway, judged.weight if judged is not None else imported.FULL)
        ranked.append((up, "" if last_up is None else last_up.isoformat(), gateway.name, entrance))
    both = [entrance for up, _, _, entrance in ranked if all(up)]
    return tuple(both) or (max(ranked, key=lambda one: one[:3])[3],)


def _ports(remote: Remote) -> tuple[tuple[int, str, str], ...]:
    return tuple(sorted((port.number, port.name, port.protocol) for port in remote.export.ports))


def _other_ports(view: View, host: str, remote: Remote) -> Reason | None:
    """Step 5: endpoints join those of a Service here by port number and name, and a port that it lacks leads nowhere."""
    local = view.mesh.local.get(host)
    if local is None or local.sidecars != "all":
        return None
    if not local.ports:  # a person may not have said; Kubernetes always knows
        unknown = local.source == "kubernetes"
        return because("local-ports-unknown", remote.exporter, own=view.own, host=host) if unknown else None
    if all(f"{port.number}:{port.name}" in local.ports for port in remote.export.ports):
        return None
    keeper = f"the Service here ({_listed(local.ports)})"
    return because("ports-conflict", remote.exporter, host=host, keeper=keeper)


def _inside(view: View, host: str, remotes: list[Remote], reasons: list[Reason]) -> Outcome:
    """Steps 6 to 8."""
    local, own = view.mesh.local.get(host), view.own

    def nothing(*why: Reason, patches: Iterable[Patch] = ()) -> Outcome:
        return Outcome(reasons=(*reasons, *why), patches=tuple(patches))

    if local is None:
        return nothing(because("local-unknown", own=own, host=host))
    if local.sidecars not in ("absent", "all"):
        return nothing(because("local-without-sidecars", own=own, host=host, sidecars=local.sidecars))
    exported = view.own_export(host)
    answers = {*local.answers, *(exported[1].answers if exported is not None else ())}
    if local.sidecars == "all" and not answers:
        return nothing(because("local-answers-unknown", own=own, host=host))
    present = local.sidecars == "all"
    whole = Imported(host, tuple(remotes), present, tuple(sorted(answers)), view.regions)
    try:
        rules = owners.read(local.rules or b"[]", host)
    except Invalid as error:
        return nothing(because("rules-unreadable", own=own, host=host, why=error.message))
    root = view.settings.root_namespace
    if some := owners.partial(owners.counted(rules, host, root, whole.since), host, root):
        named = _listed(f"{rule['metadata']['namespace']}/{rule['metadata']['name']}" for rule in some)
        return nothing(because("rule-for-some", own=own, host=host, rule=named))
    lacking = _patches(view, rules, whole)
    ready = [one for one in remotes if not _waits(view, rules, replace(whole, remotes=(one,)))]  # 7
    waiting = [
        because("waits-for-rule", one.exporter, host=host, rule=_listed(f"{p.namespace}/{p.name}" for p in lacking))
        for one in remotes
        if one not in ready
    ]
    if not ready:
        return nothing(*waiting, patches=lacking)
    if lacking and not waiting:
        named = _listed(f"{p.namespace}/{p.name}" for p in lacking)
        waiting.append(because("hidden-by-later-rule", host=host, rule=named))
    return _rendered(view, replace(whole, remotes=tuple(ready)), rules, [*reasons, *waiting], lacking)


def _waits(view: View, rules: list[Rule], whole: Imported) -> bool:
    """Whether rules that were there before these remotes lack what they need."""
    return bool(_patches(view, owners.counted(rules, whole.host, view.settings.root_namespace, whole.since), whole))


def _patches(view: View, rules: list[Rule], whole: Imported) -> list[Patch]:
    return owners.patches(rules, whole.host, imported.traffic_policy(whole, view.settings)) if rules else []


def _rendered(view: View, whole: Imported, rules: list[Rule], reasons: list[Reason], lacking: list[Patch]) -> Outcome:
    host, own = whole.host, view.own
    governed = owners.in_the_way(rules, host, view.settings.root_namespace)
    try:
        resources = [imported.service_entry(whole, view.settings)]
        if not governed:
            resources.append(imported.destination_rule(whole, view.settings))
    except Invalid as error:  # 8
        return Outcome(reasons=(*reasons, because("invalid", host=host, why=error.message)), patches=tuple(lacking))
    named = _listed(f"{rule['metadata']['namespace']}/{rule['metadata']['name']}" for rule in rules)
    code = "rendered-beside-rule" if governed else "rendered"
    done = [
        because(
            code, one.exporter, own=own, host=host, gateways=_listed(e.gateway.name for e in one.entrances), rule=named
        )
        for one in whole.remotes
    ]
    local = view.mesh.local.get(host)
    if whole.present and local is not None and not local.ports:
        done.append(because("local-ports-assumed", own=own, host=host))
    names = (*(one.key for one in resources), *imported.listeners(whole))
    return Outcome(tuple(resources), (*done, *reasons), tuple(lacking), whole.since, names)


def _listed(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
