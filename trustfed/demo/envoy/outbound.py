"""The client's sidecar: ServiceEntries and DestinationRules as listeners and clusters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trustfed.demo.envoy.gateway import sni
from trustfed.demo.envoy.manifests import Document, named, of_kind, only
from trustfed.demo.envoy.resources import (
    HTTP2_PROTOCOLS,
    HTTP_PROTOCOLS,
    LISTENER,
    Resource,
    Resources,
    Secrets,
    address,
    cluster,
    endpoint,
    http_manager,
    http_options,
    tcp_proxy,
    typed,
)
from trustfed.errors import Invalid

# istiod's default retries. What died under a request is tried elsewhere only if nothing of it was sent.
RETRIES: Mapping[str, object] = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,reset-before-request,retriable-status-codes",
    "retriable_status_codes": [503],
    "num_retries": 2,
    "host_selection_retry_max_attempts": "5",
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
}
_ENTRY = (
    "hosts", "location", "resolution", "ports", "subjectAltNames", "endpoints", "addresses", "exportTo",
)  # fmt: skip
_TLS_MODE = "security.istio.io/tlsMode"
_POLICY = ("tls", "outlierDetection", "loadBalancer", "connectionPool")


def outbound(
    documents: Iterable[Document], listens: Mapping[tuple[str, int], str], secrets: Secrets, locality: str = ""
) -> Resources:
    """A listener and a cluster for each (host, port number) that is imported and that `listens` gives an address.

    `locality` is where this proxy runs: nearer gateways come first. Raises Invalid where a rule would let anybody answer.
    """
    documents = list(documents)
    rules = of_kind(documents, "DestinationRule")
    made = Resources()
    for entry in of_kind(documents, "ServiceEntry"):
        only(entry["spec"], _ENTRY, named(entry))
        if entry["spec"].get("resolution") != "STATIC":
            raise Invalid(f"{named(entry)} has endpoints that are no addresses")
        for host in entry["spec"]["hosts"]:
            policy: Mapping[str, Any] = next(
                (rule["spec"].get("trafficPolicy", {}) for rule in rules if rule["spec"]["host"] == host), {}
            )
            only(policy, _POLICY, f"the DestinationRule for {host}")
            for port in entry["spec"]["ports"]:
                if (listen := listens.get((host, port["number"]))) is not None:
                    made += _one(entry, policy, host, port, listen, secrets, locality)
    return made


def _one(
    entry: Document,
    policy: Mapping[str, Any],
    host: str,
    port: Mapping[str, Any],
    listen: str,
    secrets: Secrets,
    locality: str,
) -> Resources:
    name = f"outbound|{port['number']}||{host}"
    tls = policy.get("tls", {})
    endpoints = entry["spec"].get("endpoints", ())
    # Without a rule that says so, istiod does the same for endpoints that are known to have a sidecar (auto mTLS).
    sidecars = all(one.get("labels", {}).get(_TLS_MODE) == "istio" for one in endpoints)
    if tls.get("mode", "ISTIO_MUTUAL" if sidecars and endpoints else "") != "ISTIO_MUTUAL":
        raise Invalid(f"nothing asks for mTLS to {host}")
    names = tls.get("subjectAltNames") or entry["spec"].get("subjectAltNames") or ()
    if not names:
        raise Invalid(f"anybody may answer for {host}: neither its ServiceEntry nor its DestinationRule names who may")
    longest = policy.get("connectionPool", {}).get("tcp", {}).get("maxConnectionDuration")
    longest = None if longest is None else seconds(longest)
    http = port["protocol"] in HTTP_PROTOCOLS
    panic = policy.get("outlierDetection", {}).get("minHealthPercent", 0)  # as istiod has it
    fields: Resource = {
        "transport_socket": _client_tls(secrets, sni(host, port["number"]), names, port["protocol"]),
        "common_lb_config": {"healthy_panic_threshold": {"value": panic}, "locality_weighted_lb_config": {}},
    }
    if http:
        http2 = port["protocol"] in HTTP2_PROTOCOLS
        fields["typed_extension_protocol_options"] = http_options(http2=http2, max_connection_duration=longest)
    if outlier := policy.get("outlierDetection"):
        fields["outlier_detection"] = _outlier(outlier)
    failover = policy.get("loadBalancer", {}).get("localityLbSetting", {})
    first = http_manager(name, {"retry_policy": dict(RETRIES)}) if http else tcp_proxy(name, longest)
    listener = {
        "@type": LISTENER,
        "name": name,
        "address": address(listen),
        "filter_chains": [{"filters": [first]}],
    }
    localities = _localities(endpoints, port["name"], locality, failover, bool(outlier))
    return Resources([listener], [cluster(name, localities, **fields)])


def _client_tls(secrets: Secrets, server_name: str, names: Sequence[str], protocol: str) -> Resource:
    if protocol in HTTP2_PROTOCOLS:
        alpn = ["istio-h2", "istio", "h2"]
    elif protocol in HTTP_PROTOCOLS:
        alpn = ["istio-http/1.1", "istio", "http/1.1"]
    else:
        alpn = ["istio-peer-exchange", "istio"]
    common = {
        "alpn_protocols": alpn,
        # As istiod does; Envoy's clients would stop at 1.2 otherwise.
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [secrets.named("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_subject_alt_names": [{"exact": name} for name in names]},
            "validation_context_sds_secret_config": secrets.named("ROOTCA"),
        },
    }
    return typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        sni=server_name,
        common_tls_context=common,
    )


def _localities(
    endpoints: Sequence[Mapping[str, Any]],
    port_name: str,
    own: str,
    setting: Mapping[str, Any],
    outlier: bool,
) -> list[Resource]:
    """Endpoints by locality; with outlier detection (istiod needs it for that) the nearer localities come first."""
    by_locality: dict[str, list[Resource]] = {}
    for one in endpoints:
        where = f"{one['address']}:{one['ports'][port_name]}"
        by_locality.setdefault(one.get("locality", ""), []).append(endpoint(where, one.get("weight", 1)))
    ranks = dict.fromkeys(by_locality, 0)
    if outlier and setting.get("enabled", True) and own:
        ranks = {place: distance(own, place, setting.get("failover", ())) for place in by_locality}
    order = sorted(set(ranks.values()))
    found = []
    for place, members in sorted(by_locality.items()):
        parts = dict(zip(("region", "zone", "sub_zone"), place.split("/"), strict=False)) if place else {}
        weight = sum(one["load_balancing_weight"] for one in members)
        found.append(
            {
                "locality": parts,
                "lb_endpoints": members,
                "load_balancing_weight": weight,
                "priority": order.index(ranks[place]),
            }
        )
    return found


def distance(own: str, other: str, failover: Sequence[Mapping[str, str]]) -> int:
    """How far a locality is, as istiod counts: same subzone 0, zone 1, region 2, the region that failover names 3, else 4."""
    mine, theirs = (text.split("/") for text in (own, other))
    if mine[0] != theirs[0]:
        return 3 if any(one["from"] == mine[0] and one["to"] == theirs[0] for one in failover) else 4
    if mine[1:2] != theirs[1:2]:
        return 2
    return 0 if mine[2:3] == theirs[2:3] else 1


def _outlier(found: Mapping[str, Any]) -> Resource:
    only(
        found,
        (
            "consecutive5xxErrors",
            "consecutiveGatewayErrors",
            "interval",
            "baseEjectionTime",
            "maxEjectionPercent",
            "minHealthPercent",
        ),
        "outlierDetection",
    )
    made: Resource = {"enforcing_success_rate": 0}
    if "consecutive5xxErrors" in found:
        made |= {"consecutive_5xx": found["consecutive5xxErrors"], "enforcing_consecutive_5xx": 100}
    if "consecutiveGatewayErrors" in found:
        errors = found["consecutiveGatewayErrors"]
        made |= {"consecutive_gateway_failure": errors, "enforcing_consecutive_gateway_failure": 100}
    for theirs, ours in (("interval", "interval"), ("baseEjectionTime", "base_ejection_time")):
        if theirs in found:
            made[ours] = seconds(found[theirs])
    if "maxEjectionPercent" in found:
        made["max_ejection_percent"] = found["maxEjectionPercent"]
    return made


def seconds(text: str) -> str:
    """A Kubernetes duration (`1h`, `500ms`, `1h30m`) as protobuf's JSON has it. Raises Invalid."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    total, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((one for one in units if rest[digits:].startswith(one)), None)
        if not digits or unit is None:
            raise Invalid(f"{text} is no duration")
        total += float(rest[:digits]) * units[unit]
        rest = rest[digits + len(unit) :]
    return f"{total:g}s"
