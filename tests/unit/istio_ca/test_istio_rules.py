"""Which account has which ID, and what configuration of Istio's CA protocol is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.istio_ca import accounts
from trustfed.cluster.istio_ca.config import local_names
from trustfed.errors import Denied, Invalid
from trustfed.runtime.config import build
from trustfed.spiffe.ids import SpiffeId, TrustDomain

TD = TrustDomain("prod-us-west")
GOOD: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "dns_names": ["trustfed-ca.istio-system.svc"],
    "jwks": {"issuer": "https://k.example", "url": "https://k.example/keys"},
}


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "ns/{namespace}/sa/{service_account}",
        "/ns/{namespace}",
        "/ns/{namespace}-{service_account}",
        "/ns/{namespace}/{namespace}/{service_account}",
        "/trustfed/{namespace}/{service_account}",
        "/{namespace}/{service_account}",
        "/ns//{namespace}/{service_account}",
        "/ns/../{namespace}/{service_account}",
        "/ns/%2e/{namespace}/{service_account}",
        "/ns/{namespace}/{service_account}/",
        "/ns/{pod}/{namespace}/{service_account}",
    ],
)
def test_a_rule_that_could_mix_identities_up_is_refused(rule: str) -> None:
    with pytest.raises(Invalid, match="rule"):
        accounts.check_rule(rule)


def test_ids_and_accounts_belong_together() -> None:
    given = accounts.id_of(TD, accounts.RULE, "shop", "web.v2")
    assert str(given) == "spiffe://prod-us-west/ns/shop/sa/web.v2"
    assert accounts.account_in(given, accounts.RULE).key == "shop/web.v2"
    for path in ("/ns/shop/sa", "/ns/shop/sa/web/x", "/sa/shop/ns/web", "/ns/Shop/sa/web", "/trustfed/cluster", "/ns"):
        with pytest.raises(Denied):
            accounts.account_in(SpiffeId.of(TD, path), accounts.RULE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"jwks": None}, "nobody to say"),
        ({"dns_names": []}, "must name this door"),
        ({"dns_names": ["*.svc"]}, "malformed"),
        ({"audiences": []}, "at least one audience"),
        ({"audiences": [""]}, "at least one audience"),
        ({"rule": "/{namespace}"}, "rule"),
        ({"exclude": ["Kube"]}, "istio_ca.exclude has"),
        ({"allow": ["a/b/c d"]}, "istio_ca.allow has"),
        ({"ztunnel": ["istio-system"]}, "istio_ca.ztunnel has"),
        ({"rate_burst": 0}, "burst"),
        ({"rate_interval": "0s"}, "interval"),
        ({"ttl_max": "48h"}, "above policy.svid_ttl_max"),
        ({"jwks": {"issuer": "", "file": "k"}}, "issuer is empty"),
        ({"jwks": {"issuer": "x"}}, "one source of keys"),
        ({"jwks": {"issuer": "x", "file": "k", "url": "https://k.example/"}}, "one source of keys"),
        ({"jwks": {"issuer": "x", "url": "http://k.example/"}}, "not an https"),
        ({"jwks": {"issuer": "x", "url": "https://k.example/", "allow_addresses": ["x"]}}, "no network"),
        ({"kubernetes": {"timeout": "1h"}}, "timeout"),
        ({"kubernetes": {"url": "http://api"}}, "not an https"),
        ({"listen": "nowhere"}, "HOST:PORT"),
        ({"audience": ["x"]}, "did you mean audiences"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_configuration_is_one_clear_error(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    def config(table: dict[str, Any]) -> ClusterConfig:
        given = {name: value for name, value in table.items() if value is not None}
        door = {"listen": "127.0.0.1:0"}
        whole = {"data_dir": "d", "grpc": door, "bundle_spiffe": door, "istio_ca": given}
        return build(whole, ClusterConfig, folder=tmp_path)

    assert config(GOOD).istio_ca is not None
    with pytest.raises(Invalid, match=said):
        config({**GOOD, **changes})


def test_the_doors_names_lead_nowhere_else() -> None:
    names = ("trustfed-ca.istio-system.svc", "ca.mesh.svc.cluster.local", "ca.us-west.example")
    assert local_names(names, ("us-west.example",)) == names[:2]
    for name in ("google.com", "svc", "x.svc", "ca.istio-system.svc.evil.example"):
        with pytest.raises(Invalid, match="neither a Kubernetes Service"):
            local_names((name,), ("us-west.example",))
