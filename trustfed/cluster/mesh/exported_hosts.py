"""One own export: who may call it now, and what this cluster's istiod is told of it. Pure.

A caller is admitted while the grants with its domain stand. The gateways pass a host on only while somebody may call it;
its DENY policy stands as long as the export does. Both or neither: a host without its policy is not passed on.
"""

from __future__ import annotations

from bundle_publisher.istio import exported
from bundle_publisher.istio.exported import Exported
from trustfed.cluster.mesh.outcomes import Outcome, View
from trustfed.cluster.mesh.reasons import Reason, because
from trustfed.errors import Invalid
from trustfed.federation.mesh import Export, caller_domain

MAX_BESIDE = 20


def decide(view: View, host: str) -> Outcome:
    """What this own export comes to; nothing when it is none."""
    found = view.own_export(host)
    if found is None:
        return Outcome()
    own, export = found
    one = Exported(export, own.created_at, admitted(view, export))
    beside = []
    reasons: list[Reason] = []
    for name in view.workloads.above(host):
        other = view.own_export(name)
        if other is not None:
            callers = admitted(view, other[1])
            beside.append(Exported(other[1], other[0].created_at, callers))
            if len(reasons) < MAX_BESIDE:
                extra = [caller for caller in callers if caller not in one.callers]
                reasons += [because("caller-beside", caller=caller, other=name, host=host) for caller in extra[:5]]
    try:
        resources = [exported.workload_policy(one, beside, view.settings)]
        if one.callers:
            resources.append(exported.gateway(one, view.settings))
    except Invalid as error:
        return Outcome(reasons=(because("invalid", host=host, why=error.message),))
    code = "exported" if one.callers else "export-closed"
    callers_shown = ", ".join(one.callers[:5]) + (f" and {len(one.callers) - 5} more" if len(one.callers) > 5 else "")
    domains = ", ".join((view.settings.trust_domain, *view.settings.aliases))
    first = because(code, own=view.own, host=host, callers=callers_shown, domains=domains)
    refused = [caller for caller in export.callers if caller not in one.callers]
    for caller in refused[:20]:
        domain = caller_domain(caller).name
        reasons.append(because("caller-without-grant", domain, caller=caller, own=view.own))
    names = tuple(resource.key for resource in resources)
    return Outcome(tuple(resources), (first, *reasons), (), own.created_at, names, one.callers)


def admitted(view: View, export: Export) -> tuple[str, ...]:
    """The callers that are named and whose grants stand, in order."""
    # Callers of an Export are SPIFFE IDs; they are not parsed again, since exports that share pods look at each other's.
    return tuple(sorted(one for one in export.callers if one.split("/")[2] in view.standing.admitted))
