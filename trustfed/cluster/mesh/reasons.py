"""Why a host is rendered here or is not: one code and one sentence each. Pure.

A code is what scripts and tests compare; the sentence is what a person reads, and the hint what they can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CODES: Mapping[str, str] = {
    # The sentence of each; {} are filled by name.
    "rendered": "calls from {own} reach {host} in {exporter} through {gateways}",
    "rendered-beside-rule": "calls from {own} reach {host} in {exporter} through {gateways}; the rule {rule} of its owner governs"
    " them",
    "no-import": "{own} does not import {host}",
    "not-exported": "{own} imports {host} from {exporter}, but the hub has passed no such export of it on",
    "hub-refused": "the hub refused {what} of {own}: {why}",
    "not-believed": "what came as {what} of {exporter} is refused here: {why}",
    "no-grant": "no grant stands between {own} and {exporter}",
    "grant-one-way": "{accepting} accepts identities of {accepted}, but not the other way round: a call needs both",
    "grant-not-begun": "the grant by which {accepting} accepts identities of {accepted} begins at {when}",
    "grant-ended": "the grant by which {accepting} accepted identities of {accepted} ended at {when}",
    "no-callers": "{exporter} exports {host}, but names no caller of {own}",
    "no-gateway": "{exporter} has told of no gateway that leads into it",
    "gateways-refused": "every gateway of {exporter} has an address that this cluster must not be sent to: {gateways}",
    "ports-conflict": "{exporter} exports {host} with other ports than {keeper}",
    "key-replaced": "what came of {exporter} was signed with a key that is no longer the pinned one",
    "local-ports-unknown": "{host} exists inside {own}, but not which ports it has there: those of {exporter} may be others",
    "local-ports-assumed": "{host} exists inside {own}, and nobody said which ports it has there: they are taken to be the same",
    "local-unknown": "it is not known what {host} is inside {own}: a Service without sidecars there would break",
    "local-without-sidecars": "{sidecars} of the endpoints of {host} inside {own} have a sidecar: mTLS would break the others",
    "local-answers-unknown": "{host} exists inside {own}, but not which identities answer it there: they would be refused",
    "rules-unreadable": "the DestinationRules that are known for {host} cannot be read: {why}",
    "rule-for-some": "the DestinationRule {rule} of its owner holds for some callers of {host} only (exportTo, workloadSelector):"
    " calls of others would have no rule, and go anywhere",
    "waits-for-rule": "the DestinationRule {rule} of its owner applies to {host} and does not hold what endpoints in {exporter}"
    " need",
    "hidden-by-later-rule": "callers in the namespace of the DestinationRule {rule}, which is younger than the import of {host},"
    " have that rule and not ours",
    "invalid": "what was rendered for {host} did not pass validation: {why}",
    "name-taken": "{other} has the name, or the address and port, that {host} would need in this cluster",
    "too-many": "this cluster has as many resources as its feeds take: {host} has to wait",
    "exported": "{own} exports {host}: its gateways pass it on, and {callers} may call; whoever else is of another"
    " domain than {domains} is refused in the whole mesh",
    "export-closed": "{own} exports {host}, but its gateways pass it on to nobody: no caller whose grants stand is named",
    "caller-without-grant": "{caller} is named as a caller, and refused until the grants between {own} and {exporter} stand",
    "caller-not-named": "none of the callers that {own} names is of {exporter}",
    "caller-beside": "{caller} may call {other}, whose pods {host} shares: it is not refused there either",
    "callers-cut": "{callers} callers more than one policy holds are refused",
    "hub-away": "the hub is away: what is here was last confirmed {when}",
}
HINTS: Mapping[str, str] = {
    "no-import": "trustfed import add --help",
    "not-exported": "ask its owner for an export of it: trustfed export add --help; trustfed domain list shows who is there",
    "no-grant": "trustfed grant offer {exporter} ...; both owners accept: trustfed grant list",
    "grant-one-way": "an agreement is two grants: trustfed grant list",
    "grant-not-begun": "wait, or ask for one that begins earlier",
    "grant-ended": "trustfed grant offer makes a new one",
    "no-callers": "its owner names you with --caller spiffe://{own} or an exact SPIFFE ID",
    "no-gateway": "its owner says where: trustfed gateway add --help",
    "gateways-refused": "mesh.allow_networks in the cluster's configuration names exceptions",
    "ports-conflict": "the owners agree on the same port numbers, names and protocols",
    "key-replaced": "wait until the hub has passed on what its new key signed; trustfed grant list",
    "local-ports-unknown": "the ports of the Service are read as soon as mesh.kubernetes looks at it",
    "local-ports-assumed": "trustfed mesh local --help says how to name them",
    "local-unknown": "trustfed mesh local {host} --sidecars absent|all|some|none; or let mesh.kubernetes look",
    "local-without-sidecars": "give all of its pods a sidecar, then say so: trustfed mesh local {host} --sidecars all ...",
    "local-answers-unknown": "name them: trustfed mesh local {host} --sidecars all --local-answers spiffe://{own}/ns/...",
    "rules-unreadable": "say anew what applies: trustfed mesh local {host} --sidecars ... --local-rules FILE",
    "rule-for-some": "its owner lets it hold for all, without exportTo and workloadSelector",
    "waits-for-rule": "trustfed route patch {host} prints what its owner adds",
    "hidden-by-later-rule": "trustfed route patch {host} prints what its owner adds",
    "exported": "mesh.own_domains in the cluster's configuration names further domains that are not refused",
    "export-closed": "trustfed export list; trustfed grant list",
    "caller-without-grant": "trustfed grant list",
    "caller-not-named": "trustfed export add HOST ... --caller spiffe://{exporter} or an exact SPIFFE ID",
    "hub-away": "the last routes stay; trustfed cluster status",
}


@dataclass(frozen=True)
class Reason:
    """`exporter` is the domain that it speaks of, "" for all."""

    code: str
    sentence: str
    hint: str = ""
    exporter: str = ""

    def shown(self) -> dict[str, str]:
        """As JSON; empty members left out."""
        found = {"code": self.code, "exporter": self.exporter, "sentence": self.sentence, "hint": self.hint}
        return {name: text for name, text in found.items() if text}


def because(code: str, exporter: str = "", **words: object) -> Reason:
    """The reason with this code, its sentence filled in."""
    known = {"exporter": exporter, **words}
    hint = HINTS.get(code, "")
    return Reason(code, CODES[code].format(**known), hint.format(**known) if hint else "", exporter)
