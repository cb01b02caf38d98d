"""AuthorizationPolicies as Envoy's RBAC filters. Pure.

What istiod renders (pilot/pkg/security/authz): a principal of a policy is a SPIFFE ID without its scheme, compared with the URI
SAN of the certificate that the handshake proved; `*` is any authenticated peer, so a plain-text caller is matched by
no principal; `PREFIX*` and `*SUFFIX` are what they look like. A rule of sources becomes: one of `principals`, and none of
`notPrincipals`. Several DENY policies of one workload: any of them denies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from trustfed.demo.envoy.manifests import Document, named, of_kind, only
from trustfed.demo.envoy.resources import Resource, typed
from trustfed.errors import Invalid

SCHEME = "spiffe://"


def applying(
    documents: Iterable[Document], namespace: str, labels: Mapping[str, str], root_namespace: str
) -> list[Document]:
    """The policies that hold for a workload: of its namespace and of the root namespace, all that select its labels."""
    found = []
    for policy in of_kind(documents, "AuthorizationPolicy"):
        spec = policy["spec"]
        only(spec, ("selector", "action", "rules"), named(policy))
        if policy["metadata"].get("namespace") not in (namespace, root_namespace):
            continue
        wanted = spec.get("selector", {}).get("matchLabels", {})
        if all(labels.get(key) == value for key, value in wanted.items()):
            found.append(policy)
    return found


def filters(policies: Sequence[Document], *, http: bool) -> list[Resource]:
    """One filter with the rules of all DENY policies; none where there is none. Raises Invalid for other actions."""
    rules: dict[str, Resource] = {}
    for policy in policies:
        if policy["spec"].get("action") != "DENY":
            raise Invalid(f"{named(policy)} is no DENY policy", hint="trustfed renders no other")
        metadata = policy["metadata"]
        for number, rule in enumerate(policy["spec"].get("rules", ())):
            name = f"ns[{metadata.get('namespace', '')}]-policy[{metadata['name']}]-rule[{number}]"
            rules[name] = {
                "permissions": [_conditions(rule, named(policy))],
                "principals": _sources(rule, named(policy)),
            }
    if not rules:
        return []
    config = {"action": "DENY", "policies": rules}
    if http:
        return [typed("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC", rules=config)]
    network = "envoy.extensions.filters.network.rbac.v3.RBAC"
    return [typed("envoy.filters.network.rbac", network, rules=config, stat_prefix="tcp.")]


def _sources(rule: Mapping[str, object], what: str) -> list[Resource]:
    only(rule, ("from", "when"), what)
    found: list[Resource] = []
    sources = rule.get("from", ())
    assert isinstance(sources, list)
    for one in sources:
        source = one["source"]
        only(source, ("principals", "notPrincipals"), what)
        ids: list[Resource] = []
        if source.get("principals"):
            ids.append({"or_ids": {"ids": [_principal(text) for text in source["principals"]]}})
        if source.get("notPrincipals"):
            without = {"or_ids": {"ids": [_principal(text) for text in source["notPrincipals"]]}}
            ids.append({"not_id": without})
        if not ids:
            raise Invalid(f"{what} has a source that names nobody")
        found.append({"and_ids": {"ids": ids}})
    found = found or [{"any": True}]
    for also in _whens(rule, "source.principal"):
        among = {"or_ids": {"ids": [_principal(text) for text in also["values"]]}}
        found = [{"and_ids": {"ids": [one, among]}} for one in found]
    return found


def _whens(rule: Mapping[str, object], key: str) -> list[Mapping[str, Sequence[str]]]:
    conditions = rule.get("when", ())
    assert isinstance(conditions, Sequence)
    return [one for one in conditions if one["key"] == key]


def _conditions(rule: Mapping[str, object], what: str) -> Resource:
    """What else holds of a connection that a rule speaks of: that its SNI is one of some names, or none of others."""
    conditions = rule.get("when", ())
    assert isinstance(conditions, Sequence)
    for one in conditions:
        only(one, ("key", "values", "notValues" if one["key"] == "connection.sni" else "values"), what)
        if one["key"] not in ("connection.sni", "source.principal"):
            raise Invalid(
                f"{what} has a condition on {one['key']}", hint="connection.sni and source.principal are known"
            )
    found: list[Resource] = []
    for one in _whens(rule, "connection.sni"):
        among, without = ([_server_name(name) for name in one.get(key, ())] for key in ("values", "notValues"))
        found += [{"or_rules": {"rules": among}}] if among else []
        found += [{"not_rule": {"or_rules": {"rules": without}}}] if without else []
    return {"and_rules": {"rules": found}} if found else {"any": True}


def _server_name(text: str) -> Resource:
    return {"requested_server_name": {"prefix": text[:-1]} if text.endswith("*") else {"exact": text}}


def _principal(text: str) -> Resource:
    if text == "*":
        match: Resource = {"safe_regex": {"regex": ".+"}}
    elif text.startswith("*"):
        match = {"safe_regex": {"regex": SCHEME + ".*" + re.escape(text[1:])}}
    elif text.endswith("*"):
        match = {"prefix": SCHEME + text[:-1]}
    else:
        match = {"exact": SCHEME + text}
    return {"authenticated": {"principal_name": match}}
