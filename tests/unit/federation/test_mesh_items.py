"""Gateways, exports and imports: valid when made, one error for what may not be, and one spelling there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustfed.errors import Denied, Invalid
from trustfed.federation.mesh import (
    KINDS,
    MAX_BYTES,
    MAX_CALLERS,
    MAX_IDS,
    MAX_PORTS,
    Export,
    Gateway,
    Import,
    Item,
    ServicePort,
    Unfit,
    body_of,
    caller_domain,
    check_host,
    check_own,
    item_of,
    kind_of,
    read_item,
    write_item,
)
from trustfed.spiffe.ids import TrustDomain

WEST = TrustDomain("prod-us-west")
HOST = "payments.shop.svc.cluster.local"
GATEWAY = Gateway("west-1", "203.0.113.20", 15443, "prod-us-west", "us-west-2/us-west-2a", 3, "team-net")
EXPORT = Export(
    HOST,
    (ServicePort(8080, "http", "HTTP"), ServicePort(9090, "grpc", "GRPC")),
    ("spiffe://prod-us-west/ns/shop/sa/payments",),
    ("spiffe://prod-eu-central/ns/shop/sa/checkout", "spiffe://partner"),
    {"app": "payments", "example.com/tier": "gold"},
    ("v1", "v2"),
    "us-west-2",
    ("shop",),
    "team-pay",
)
IMPORT = Import("payments", "prod-us-west", host=HOST, owner="team-shop")
ITEMS: tuple[Item, ...] = (GATEWAY, EXPORT, IMPORT)
NAMES = ("", "-a", "a-", "A", "a.b", "a/b", "a b", "ä", "a\n", "a" * 64, "..", "%2e", "a\0b", "*")
HOSTS = (
    "", "payments", "payments.shop", "payments.shop.svc", "payments.shop.pod.cluster.local", "*.shop.svc.cluster.local",
    "payments.shop.svc.cluster.local.", ".shop.svc.cluster.local", "Payments.shop.svc.cluster.local",
    "payments..svc.cluster.local", "a_b.shop.svc.cluster.local", "payments.shop.svc.cluster.local\n",
    "pay%6dents.shop.svc.cluster.local", "a" * 64 + ".shop.svc.cluster.local", "a.b.svc." + ".".join(["c" * 60] * 5),
    "payments.shop.svc.cluster.local:8080", "../etc.shop.svc.local", "payments.shop.svc.3", "payments.shop.svc.local.10",
)  # fmt: skip


@pytest.mark.parametrize("item", ITEMS, ids=kind_of)
def test_there_and_back(item: Item) -> None:
    data = write_item(item)
    assert read_item(kind_of(item), data) == item
    assert write_item(read_item(kind_of(item), data)) == data
    assert kind_of(item) in KINDS
    check_own(WEST, item) if not isinstance(item, Import) else check_own(TrustDomain("prod-eu-central"), item)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names(name: str) -> None:
    """Names end up as names of Kubernetes objects, in keys and in paths."""
    for made in (lambda: replace(GATEWAY, name=name), lambda: replace(IMPORT, name=name)):
        with pytest.raises(Unfit) as raised:
            made()
        assert raised.value.member == "name"
    for member in ("subsets", "groups"):
        with pytest.raises(Unfit) as raised:
            replace(EXPORT, **{member: (name,)})
        assert raised.value.member == member
    if name:
        for member in ("namespace", "group"):
            with pytest.raises(Unfit):
                replace(IMPORT, host="", **{member: name})
    with pytest.raises(Unfit):
        ServicePort(80, name, "HTTP")
    if name not in ("", "A", "a.b"):  # a label's value may be these
        with pytest.raises(Unfit):
            replace(EXPORT, workload={"app": name})
    with pytest.raises(Unfit):
        replace(EXPORT, workload={name if name not in ("A", "a.b", "a/b") else "a//b": "x"})


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_are_full_names_of_services(host: str) -> None:
    with pytest.raises(Unfit, match="has the host"):
        check_host(host, "it")
    with pytest.raises(Unfit):
        replace(EXPORT, host=host)
    if host:
        with pytest.raises(Unfit):
            replace(IMPORT, host=host)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("address", "gateway.example"), ("address", "203.0.113.020"), ("address", "2001:DB8::1"), ("address", "0x7f.1"),
        ("address", "2001:db8::1%eth0"), ("address", "fe80::1%1"), ("address", ""), ("address", "203.0.113.20/32"),
        ("address", "203.0.113.20\n"), ("port", 0), ("port", 65_536), ("port", -1), ("port", True), ("port", "15443"),
        ("network", ""), ("network", "Prod"), ("network", "a b"), ("network", "a" * 256),
        ("locality", "a/b/c/d"), ("locality", "a//b"), ("locality", "a b"), ("locality", "/"),
        ("weight", 0), ("weight", 101), ("weight", True), ("owner", "a" * 129), ("owner", "a\nb"), ("owner", "\x1b[2J"),
    ],
)  # fmt: skip
def test_what_a_gateway_may_not_be(member: str, value: object) -> None:
    with pytest.raises(Unfit) as raised:
        replace(GATEWAY, **{member: value})
    assert raised.value.member == member
    assert "west-1" in str(raised.value) and "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


def test_addresses_have_one_spelling() -> None:
    assert replace(GATEWAY, address="2001:db8::1").address == "2001:db8::1"
    with pytest.raises(Unfit) as raised:
        replace(GATEWAY, address="2001:0db8::1")
    assert raised.value.hint == "write 2001:db8::1"


PORTS = tuple(ServicePort(1 + n, f"p{n}", "TCP") for n in range(MAX_PORTS + 1))
OF_WEST = tuple(f"spiffe://prod-us-west/ns/shop/sa/s{n}" for n in range(MAX_IDS + 1))
FAR = tuple(f"spiffe://prod-eu-central/ns/a/sa/s{n}" for n in range(MAX_CALLERS + 1))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("ports", ()), ("ports", PORTS), ("ports", (PORTS[0], replace(PORTS[1], number=1))),
        ("ports", (PORTS[0], replace(PORTS[1], name="p0"))),
        ("answers", ()), ("answers", OF_WEST), ("answers", OF_WEST[:1] * 2), ("answers", ("spiffe://prod-us-west",)),
        ("answers", (OF_WEST[0], "spiffe://other/x")), ("answers", ("spiffe://prod-us-west/trustfed/cluster",)),
        ("answers", ("spiffe://prod-us-west/ns/../sa/x",)), ("answers", ("SPIFFE://prod-us-west/x",)),
        ("answers", ("spiffe://prod-us-west/x,URI:spiffe://other/y",)), ("answers", ("spiffe://prod-us-west/%2e",)),
        ("callers", FAR), ("callers", FAR[:1] * 2), ("callers", (OF_WEST[0],)), ("callers", ("spiffe://prod-us-west",)),
        ("callers", ("prod-eu-central",)), ("callers", ("*",)), ("callers", ("spiffe://prod-eu-central/",)),
        ("callers", ("spiffe://Prod",)), ("callers", ("spiffe://a@b/x",)),
        ("workload", {}), ("workload", {f"k{n}": "v" for n in range(9)}), ("workload", {"app": "a b"}),
        ("workload", {"a//b": "x"}), ("workload", {"app": "x" * 64}),
        ("subsets", tuple(f"v{n}" for n in range(33))), ("subsets", ("v1", "v1")),
        ("groups", tuple(f"g{n}" for n in range(17))), ("groups", ("shop", "shop")), ("locality", "a/b/c/d"),
        ("owner", "\0"),
    ],
)  # fmt: skip
def test_what_an_export_may_not_be(member: str, value: object) -> None:
    with pytest.raises(Unfit) as raised:
        replace(EXPORT, **{member: value})
    assert raised.value.member == member


@pytest.mark.parametrize(
    "members",
    [
        {}, {"host": HOST, "group": "shop"}, {"host": HOST, "namespace": "shop"},
        {"host": HOST, "namespace": "shop", "group": "shop"},
    ],
)  # fmt: skip
def test_an_import_names_exactly_one_thing(members: dict[str, str]) -> None:
    with pytest.raises(Unfit, match="exactly one of host"):
        Import("payments", "prod-us-west", **members)


@pytest.mark.parametrize("exporter", ["", "spiffe://prod-us-west", "Prod", "a/b", "a b", "..", "a" * 256])
def test_an_exporter_is_a_trust_domain_s_bare_name(exporter: str) -> None:
    """Also not spiffe://NAME, which no route would ever match, nor the check that it is another domain."""
    with pytest.raises(Unfit) as raised:
        Import("payments", exporter, host=HOST)
    assert raised.value.member == "exporter"


def test_what_an_import_wants() -> None:
    by = {"host": HOST, "namespace": "shop", "group": "shop"}
    for member, value in by.items():
        wanted = Import("i", "prod-us-west", **{member: value})  # type: ignore[arg-type]
        assert wanted.wants("prod-us-west", EXPORT)
        assert not wanted.wants("prod-us-east", EXPORT)
    other = replace(EXPORT, host="stock.depot.svc.cluster.local", groups=())
    assert not any(Import("i", "prod-us-west", **{m: v}).wants("prod-us-west", other) for m, v in by.items())  # type: ignore[arg-type]


def test_nobody_exports_for_another_domain_or_imports_from_itself() -> None:
    for item, word in ((EXPORT, "only its own"), (Import("i", "prod-eu-central", group="shop"), "itself")):
        with pytest.raises(Denied) as raised:
            check_own(TrustDomain("prod-eu-central"), item)
        assert word in f"{raised.value} {raised.value.hint}"
    check_own(WEST, GATEWAY)


def test_whose_a_caller_is() -> None:
    assert caller_domain("spiffe://partner") == caller_domain("spiffe://partner/ns/a/sa/b") == TrustDomain("partner")
    for bad in ("partner", "spiffe:partner", "https://partner/x", "spiffe:///x"):
        with pytest.raises(Invalid):
            caller_domain(bad)


@pytest.mark.parametrize("item", ITEMS, ids=kind_of)
def test_unknown_missing_and_mistyped_members(item: Item) -> None:
    """A kind's own members only, each of its type, all that are needed."""
    body, kind = body_of(item), kind_of(item)
    with pytest.raises(Unfit, match="unknown member 'because'") as raised:
        item_of(kind, {**body, "because": "x"})
    assert raised.value.member == "because"
    needed = {"gateway": ("name", "address", "port", "network"), "import": ("name", "exporter")}.get(
        kind, ("host", "ports", "answers", "workload")
    )
    for member in needed:
        with pytest.raises(Unfit, match=f"lacks {member}"):
            item_of(kind, {name: value for name, value in body.items() if name != member})
    for member in body:
        for value in (None, 1.5, True, [1], {"a": 1}, [["x"]]):
            with pytest.raises(Unfit) as raised:
                item_of(kind, {**body, member: value})
            assert raised.value.member == member


def test_ports_are_objects_of_their_own_members() -> None:
    body: dict[str, Any] = body_of(EXPORT)
    for ports in (["8080"], [{"number": 1, "name": "a"}], [{**body["ports"][0], "targetPort": 1}], [[]], [1]):
        with pytest.raises(Unfit) as raised:
            item_of("export", {**body, "ports": ports})
        assert raised.value.member == "ports"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"name":1,"name":2}', b"\xff", b" " * (MAX_BYTES + 1)])
def test_what_is_no_document(data: bytes) -> None:
    for kind in (*KINDS, "route"):
        with pytest.raises(Invalid):
            read_item(kind, data)


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(Invalid, match="no kind of a mesh statement"):
        item_of("route", {})


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
ID = st.builds("/ns/{}/sa/{}".format, LABEL, LABEL)
LOCALITY = st.just("") | st.builds("{}/{}".format, LABEL, LABEL)
NUMBER = st.integers(1, 65_535)
OWNER = st.text(st.characters(codec="utf-8", categories=("L", "N")), max_size=20)
GATEWAYS = st.builds(
    Gateway,
    LABEL,
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    NUMBER,
    LABEL,
    LOCALITY,
    st.integers(1, 100),
    OWNER,
)
EXPORTS = st.builds(
    Export,
    st.builds("{}.{}.svc.cluster.local".format, LABEL, LABEL),
    st.lists(
        st.builds(ServicePort, NUMBER, LABEL, st.sampled_from(["HTTP", "TCP", "GRPC"])),
        min_size=1,
        max_size=4,
        unique_by=(lambda port: port.number, lambda port: port.name),
    ).map(tuple),
    st.lists(ID.map("spiffe://prod-us-west{}".format), min_size=1, max_size=3, unique=True).map(tuple),
    st.lists(ID.map("spiffe://prod-eu-central{}".format), max_size=3, unique=True).map(tuple),
    st.dictionaries(LABEL, LABEL, min_size=1, max_size=4),
    st.lists(LABEL, max_size=3, unique=True).map(tuple),
    LOCALITY,
    st.lists(LABEL, max_size=3, unique=True).map(tuple),
    OWNER,
)
IMPORTS = st.builds(
    lambda name, of, exporter, owner: Import(name, exporter, **of, owner=owner),
    LABEL,
    st.one_of(LABEL.map(lambda n: {"group": n}), LABEL.map(lambda n: {"namespace": n}), st.just({"host": HOST})),
    LABEL,
    OWNER,
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(GATEWAYS, EXPORTS, IMPORTS))
def test_every_valid_item_has_one_spelling(item: Item) -> None:
    data = write_item(item)
    again = read_item(kind_of(item), data)
    assert again == item and write_item(again) == data


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.dictionaries(
        st.sampled_from([*body_of(EXPORT), *body_of(GATEWAY), *body_of(IMPORT), "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda s: st.lists(s, max_size=2)
        ),
    ),
)
def test_any_document_is_an_item_or_invalid(kind: str, body: dict[str, Any]) -> None:
    """Nothing but Invalid ever comes out."""
    try:
        item_of(kind, body)
    except Invalid as error:
        assert len(error.message) < 500 and "\n" not in error.message
