"""What an action would touch, counted from what the hub knows now: its own journal, and what clusters last told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

import msgspec

from trustfed.errors import NotFound, TrustfedError, Unavailable
from trustfed.hub import domains
from trustfed.hub.dashboard import figures
from trustfed.hub.dashboard.actions.action import Blast, Fact, Values
from trustfed.hub.dashboard.actions.fields import authorities
from trustfed.hub.dashboard.frame import PREFIX
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.hub.evidence.views import DomainRow
from trustfed.runtime.timestamps import to_ms

SHOWN = 10
"""Names that a list of what is touched shows."""


_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _OnNode(msgspec.Struct, frozen=True):
    certificates: _Count
    identities: _Count
    spiffe_ids: tuple[Annotated[str, msgspec.Meta(max_length=2_048)], ...]


def domain_row(parts: DashboardParts, name: str) -> DomainRow | None:
    """What is known of a domain's cluster; None before it was heard of."""
    try:
        return parts.fleet.domain(name)
    except NotFound:
        return None


def domain(parts: DashboardParts, values: Values, more: Sequence[Fact] = (), warnings: Sequence[str] = ()) -> Blast:
    """All of one trust domain, and who trusts it."""
    name = values["domain"]
    record, row = domains.enrolled(parts.hub.operations.state, name), domain_row(parts, name)
    importers = parts.hub.operations.state.importers_of(name)
    facts = [
        Fact("Trust domain", name, f"{PREFIX}/domain?name={name}"),
        Fact("Owner", record.owner),
        Fact("Trust domains that accept its identities", figures.number(len(importers))),
    ]
    if row is not None and row.age.as_of_ms:
        facts += [
            Fact("Identities in use", figures.number(row.identities)),
            Fact("Nodes", f"{figures.number(row.nodes)}, of which {figures.number(row.nodes_live)} are live"),
            Fact("Open rotations", f"{figures.number(row.open_obligations)}, {figures.number(row.overdue)} overdue"),
        ]
    said = [*warnings]
    if row is None or not row.age.as_of_ms:
        said.append("Its cluster has told nothing yet: how many identities this touches is not known.")
    elif row.age.state != "live":
        said.append(f"Its cluster was last heard {figures.span(row.age.age_ms)} ago: the figures are of then.")
    as_of = row.age.as_of_ms if row is not None and row.age.as_of_ms else None
    return Blast([*facts, *more], said, as_of_ms=as_of)


def ordered(kind: str, parts: DashboardParts, values: Values, more: Sequence[Fact] = ()) -> Blast:
    """The same for what a cluster is ordered: it must take such orders."""
    found, name = domain(parts, values, more), values["domain"]
    row = domain_row(parts, name)
    standing = parts.fleet.standing(name) if row is not None else None
    if parts.orders is None:
        return Blast(found.facts, found.warnings, "This hub gives no orders to clusters.", found.as_of_ms)
    if standing is not None and kind not in standing.orders:
        refused = f"The cluster of {name} takes no orders of this kind: its own [evidence] orders does not name {kind}."
        return Blast(found.facts, found.warnings, refused, found.as_of_ms)
    warnings = list(found.warnings)
    if row is None or not row.connected:
        warnings.append("Its cluster is not connected: the order waits for it, for an hour at most.")
    return Blast(found.facts, warnings, "", found.as_of_ms)


def authority(kind: str, parts: DashboardParts, values: Values) -> Blast:
    """One authority of a domain, and who has not got it yet."""
    found = next(one for one in authorities(parts, values["domain"]) if one.id == values["authority"])
    waits = found.waiting_count
    more = [
        Fact("Authority", f"{found.id} ({found.kind}, {found.algorithm}, kept in {found.custodian})"),
        Fact("State", f"{found.state} since {figures.stamp(found.since_ms)}"),
        Fact("Readers that have not confirmed it", figures.number(waits), f"{PREFIX}/domain?name={values['domain']}"),
    ]
    blast = ordered(kind, parts, values, more)
    warnings = list(blast.warnings)
    if kind == "activate" and waits:
        warnings.append(f"{figures.plural(waits, 'reader')} would not be able to verify what it signs.")
    if kind == "taint":
        warnings.append("Everything that it signed must be replaced: every identity below it rotates at once.")
    return Blast(blast.facts, warnings, blast.blocked, blast.as_of_ms)


def node(parts: DashboardParts, values: Values) -> Blast:
    """One node; what runs on it is asked of its cluster (`on_node`)."""
    silent = next((held for held in parts.fleet.silent(values["domain"]) if held.what.node == values["node"]), None)
    state = f"silent since {figures.stamp(silent.what.since_ms)}" if silent else "not known to be silent"
    blast = ordered("quarantine", parts, values, [Fact("Node", f"{values['node']}, {state}")])
    warning = "Nothing is issued to this node any more, and its identities end when their certificates do."
    return Blast(blast.facts, [*blast.warnings, warning], blast.blocked, blast.as_of_ms)


async def on_node(parts: DashboardParts, values: Values) -> Blast:
    """Which workloads of a node lose their identity, and who loses them: its cluster knows, the hub does not."""
    name = values["domain"]
    try:
        if parts.questions is None:
            raise Unavailable("this hub asks clusters nothing")
        told = (await parts.questions.ask(name, "node", {"node": values["node"]})).json
        found = msgspec.convert(told, _OnNode)
    except (TrustfedError, msgspec.ValidationError) as error:
        why = error.message if isinstance(error, TrustfedError) else f"{name} answered with something else"
        return Blast([Fact("Identities on that node", "not known")], [f"What runs there is not known here: {why}."])
    facts = [
        Fact(
            "Identities that end",
            f"{figures.number(found.identities)}, of {figures.plural(found.certificates, 'certificate')}",
        ),
    ]
    facts += [
        Fact("One of them", each, f"{PREFIX}/identity?{urlencode({'id': each})}") for each in found.spiffe_ids[:SHOWN]
    ]
    if found.identities > SHOWN:
        facts.append(Fact("And more", figures.number(found.identities - SHOWN)))
    losing = ", ".join([name, *sorted(parts.hub.operations.state.importers_of(name))[:SHOWN]])
    facts.append(Fact("Their callers lose them in", losing))
    if not found.certificates:
        return Blast([Fact("Identities that end", "none")], ["Nothing that lives was issued to a node of this name."])
    return Blast(facts)


def sent_again(parts: DashboardParts, values: Values) -> Blast:
    """What one cluster is sent once more."""
    state, name = parts.hub.operations.state, values["domain"]
    imports = [one for one in state.grants_with(name) if one.importer == name and one.status == "accepted"]
    streams = len(parts.hub.relay.views(name))
    more = [
        Fact("Bundles that it is sent again", figures.number(len(imports))),
        Fact("Streams", figures.number(streams)),
    ]
    found = domain(parts, values, more)
    blocked = "" if streams else "Its cluster is not connected: it is sent everything when it comes back."
    return Blast(found.facts, found.warnings, blocked, found.as_of_ms)


def published_again(parts: DashboardParts, values: Values) -> Blast:
    """Which targets get one domain's bundle once more."""
    targets = parts.hub.publication.targets()
    found = domain(parts, values, [Fact("Targets of the publication", figures.number(len(targets)))])
    blocked = "" if targets else "This hub publishes to no target."
    return Blast(found.facts, found.warnings, blocked, found.as_of_ms)


def exception(parts: DashboardParts, values: Values) -> Blast:
    """What an exception is about, and how many there are already."""
    now = to_ms(parts.clock.now())
    held = parts.hub.operations.state.dashboard.exceptions.values()
    same = sum(1 for one in held if one.domain == values["domain"] and one.until_ms > now)
    warning = "It changes no figure: what failed still counts as failed, and the exception stands beside it."
    more = [Fact("About", values.get("subject") or "the whole trust domain"), Fact("Open exceptions here", str(same))]
    return domain(parts, values, more, [warning])


def owner(parts: DashboardParts, values: Values) -> Blast:
    """Who answers for a domain now, and who will."""
    return domain(parts, values, [Fact("New owner", values["owner"])])
