"""Documents of desired state: data only, each fault one error with file, line and field."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustfed.cluster.mesh.desired import tree, wanted
from trustfed.cluster.mesh.desired.files import File
from trustfed.cluster.mesh.desired.tree import documents
from trustfed.cluster.mesh.desired.wanted import Local, read_wanted
from trustfed.errors import Invalid
from trustfed.federation.mesh import Export, Gateway, Import, ServicePort

MESH = """\
# what the west says
apiVersion: trustfed/v1
kind: Gateway
metadata: {name: west-1, owner: team-net}
spec:
  address: 203.0.113.20
  port: 15443
  network: prod-us-west
  locality: us-west-2/us-west-2a
  weight: 3
---
apiVersion: trustfed/v1
kind: Export
metadata:
  name: payments.shop.svc.cluster.local
  owner: team-pay
spec:
  ports:
  - {number: 8080, name: http, protocol: HTTP}
  answers: ["spiffe://prod-us-west/ns/shop/sa/payments"]
  callers: ["spiffe://prod-eu-central/ns/shop/sa/checkout"]
  workload: {app: payments, version: "1"}
  subsets: [v1]
  groups: [shop]
---
---
{"apiVersion": "trustfed/v1", "kind": "Import", "metadata": {"name": "stock"},
 "spec": {"exporter": "prod-eu-central", "namespace": "depot"}}
---
apiVersion: trustfed/v1
kind: Local
metadata: {name: stock.depot.svc.cluster.local}
spec:
  sidecars: all
  answers: [spiffe://prod-us-west/ns/depot/sa/stock]
  rules:
  - kind: DestinationRule
    metadata: {name: stock, namespace: depot}
    spec: {host: stock}
  ports: [8080:http]
"""
HOST = "payments.shop.svc.cluster.local"


def read(text: str, path: str = "mesh.yaml") -> dict[tuple[str, str], Any]:
    return {name: one.value for name, one in read_wanted([File(path, text)]).items()}


def test_each_kind() -> None:
    found = read(MESH)
    assert found["gateway", "west-1"] == Gateway(
        "west-1", "203.0.113.20", 15443, "prod-us-west", "us-west-2/us-west-2a", 3, "team-net"
    )
    assert found["export", HOST] == Export(
        HOST,
        (ServicePort(8080, "http", "HTTP"),),
        ("spiffe://prod-us-west/ns/shop/sa/payments",),
        ("spiffe://prod-eu-central/ns/shop/sa/checkout",),
        {"app": "payments", "version": "1"},
        ("v1",),
        "",
        ("shop",),
        "team-pay",
    )
    assert found["import", "stock"] == Import("stock", "prod-eu-central", namespace="depot")
    rule = {"kind": "DestinationRule", "metadata": {"name": "stock", "namespace": "depot"}, "spec": {"host": "stock"}}
    host = "stock.depot.svc.cluster.local"
    assert found["local", host] == Local(
        host, "all", ("spiffe://prod-us-west/ns/depot/sa/stock",), (rule,), ("8080:http",)
    )
    where = {name: one.where for name, one in read_wanted([File("mesh.yaml", MESH)]).items()}
    assert (where["gateway", "west-1"], where["import", "stock"]) == ("mesh.yaml:2", "mesh.yaml:27")


def test_nothing_but_comments_is_nothing() -> None:
    assert read("") == read("# nothing\n---\n---\n# still nothing\n") == {}


FAULTS = {
    "kind: Gateway": [
        ("kind: Gatewy", 3, "kind is 'Gatewy'"), ("kind: [Gateway]", 3, "kind is"), ("kind:", 3, "kind is None"),
        ("kind: Gateway\nstatus: {}", 4, "the unknown field 'status'"), ("kind: Secret", 3, "kind is 'Secret'"),
    ],
    "apiVersion: trustfed/v1\nkind: Gateway": [
        ("apiVersion: v1\nkind: Gateway", 2, "apiVersion is 'v1'"), ("kind: Gateway", 2, "lacks apiVersion"),
        ("apiVersion: 1\nkind: Gateway", 2, "apiVersion is 1"),
    ],
    "metadata: {name: west-1, owner: team-net}": [
        ("metadata: {name: west-1, labels: {}}", 4, "the unknown field 'labels'"), ("metadata: {}", 4, "lacks name"),
        ("metadata: west-1", 4, "metadata is no mapping"), ("metadata: {name: 1}", 4, "metadata.name is no text"),
        ("metadata: {name: West}", 4, "metadata.name: the name of gateway 'West'"),
        ("metadata: {name: ../../etc}", 4, "metadata.name: the name"), ("metadata: {name: [a]}", 4, "no text"),
        ('metadata: {name: west-1, owner: "a\\nb"}', 4, "metadata.owner: the owner"),
        ("metadata: {name: west-1, name: west-2}", 4, "'name' occurs twice"),
    ],
    "  address: 203.0.113.20\n": [
        ("", 6, "spec.address: the 'gateway' lacks address"), ("  address: gateway.example\n", 6, "spec.address: gateway"),
        ("  address: 1\n", 6, "spec.address: address of"), ("  adress: 203.0.113.20\n", 6, "spec.adress: "),
        ("  address: [203.0.113.20]\n", 6, "spec.address"), ("  address: \n", 6, "spec.address"),
    ],
    "  port: 15443": [
        ("  port: '15443'", 7, "spec.port: port of"), ("  port: 0", 7, "spec.port: the port"),
        ("  port: 0x3c53", 7, "spec.port"), ("  port: 1:30", 7, "spec.port"), ("  port: 1e4", 7, "spec.port"),
        ("  port: 9999999999999999", 7, "a number of more than 15 digits"), ("  port: yes", 7, "spec.port"),
        ("  port: true", 7, "spec.port"), ("  port: 15443\n  port: 15443", 8, "'port' occurs twice"),
    ],
    "  weight: 3": [("  weight: 3\n  name: other", 11, "spec.name is not allowed"), ("  weight: 300", 10, "spec.weight")],
    "  - {number: 8080, name: http, protocol: HTTP}": [
        ("  - {number: 8080, name: http}", 19, "spec.ports: a port of the 'export' lacks protocol"),
        ("  - 8080", 19, "spec.ports"), ("  - {number: 8080, name: http, protocol: SMTP}", 19, "spec.ports"),
    ],
    '  answers: ["spiffe://prod-us-west/ns/shop/sa/payments"]': [
        ('  answers: ["spiffe://prod-us-west/%2e"]', 20, "spec.answers: SPIFFE ID"),
        ("  answers: []", 20, "spec.answers"), ("  answers: spiffe://a/b", 20, "spec.answers"),
    ],
    "  workload: {app: payments, version: \"1\"}": [
        ("  workload: {app: payments, version: 1}", 22, "spec.workload"),
        ("  workload: {app: {a: b}}", 22, "spec.workload"),
    ],
    "  sidecars: all": [
        ("  sidecars: true", 34, "spec.sidecars must say"), ("  side: all", 34, "the unknown field 'side'"),
        ("", 35, "spec.sidecars"),
    ],
    "  answers: [spiffe://prod-us-west/ns/depot/sa/stock]": [
        ("  answers: [1]", 35, "spec.answers is no list"), ("  answers: x", 35, "spec.answers is no list"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "instead", "line", "words"),
    [(what, *one) for what, several in FAULTS.items() for one in several],
)
def test_a_fault_is_named_with_file_line_and_field(what: str, instead: str, line: int, words: str) -> None:
    assert MESH.count(what) == 1
    with pytest.raises(Invalid) as raised:
        read(MESH.replace(what, instead), "west/mesh.yaml")
    message = raised.value.message
    assert message.startswith(f"west/mesh.yaml:{line}: "), message
    assert words in message and "\n" not in message and len(message) < 400, message


def test_one_name_twice_also_across_files() -> None:
    one = File("a.yaml", MESH.partition("---")[0])
    with pytest.raises(Invalid, match=r"b\.yaml:2: gateway west-1 is wanted twice") as raised:
        read_wanted([one, File("b.yaml", one.text)])
    assert raised.value.hint == "first at a.yaml:2"


BOMB = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(30))
HOSTILE = {
    "aliases that grow": (BOMB, "an anchor or an alias"),
    "an alias of itself": ("a: &a [*a]", "an anchor or an alias"),
    "an anchor alone": ("a: &a x", "an anchor"),
    "a merge": ("a: {<<: *b}", "an anchor or an alias"),
    "an object of Python": ("a: !!python/object/apply:os.system ['id']", "the tag"),
    "a tag of YAML": ("a: !!binary aGk=", "the tag"),
    "a tag of one's own": ("a: !secret b", "the tag"),
    "the empty tag": ("a: ! b", "the tag"),
    "a set": ("!!set {a, b}", "the tag"),
    "a directive": ("%YAML 1.1\n---\na: b", "a directive"),
    "a handle": ("%TAG ! tag:example.com,2000:\n---\na: b", "a directive"),
    "depth": ("[" * 5_000, "nested deeper"),
    "depth in braces": ("{a: " * 3_000, "nested deeper"),
    "depth in dashes": ("- " * 5_000 + "x", "nested deeper"),
    "a list as a name": ("? [a]\n: b", "name is no text"),
    "a mapping as a name": ("? {a: b}\n: c", "name is no text"),
    "one name twice": ("a: 1\na: 2", "occurs twice"),
    "one name in two spellings": ("'a': 1\na: 2", "occurs twice"),
    "a lone surrogate": ('a: "\\ud800"', "surrogate|not YAML"),
    "a NUL": ("a: b\0", "not YAML"),
    "a tab": ("a:\n\t- b", "not YAML"),
    "no end": ("a: [", "not YAML"),
    "a quote without end": ('a: "b', "not YAML"),
    "a template": ("a: {{ .Values.name }}", "name is no text|not YAML"),
    "conflict marks": ("<<<<<<< HEAD\na: b\n=======\n", "not YAML|is no mapping"),
    "a text": ("just words", "is no mapping"),
    "a list": ("- a", "is no mapping"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents(name: str) -> None:
    text, words = HOSTILE[name]
    began = time.monotonic()
    with pytest.raises(Invalid, match=words) as raised:
        read(text, "x.yaml")
    assert raised.value.message.startswith("x.yaml") and len(raised.value.message) < 400
    assert "\n" not in raised.value.message
    assert time.monotonic() < began + 30  # they are refused where they begin, not when they are done


def test_numbers_of_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_NODES", 100)
    with pytest.raises(Invalid, match="more than 100 values"):
        list(documents("x.yaml", "- a\n" * 101))
    monkeypatch.setattr(wanted, "MAX_DOCUMENTS", 2)
    monkeypatch.setattr(tree, "MAX_NODES", 10_000)
    with pytest.raises(Invalid, match="more than 2 documents"):
        read(MESH)
    monkeypatch.setattr(wanted, "MAX_BYTES", 10)
    with pytest.raises(Invalid, match="larger than"):
        read(MESH)


def test_plain_scalars_are_what_is_written() -> None:
    """What YAML 1.1 would turn into something else stays text."""
    text = "[no, yes, on, 1.5, 1:30, 012, 0x1f, 1_000, 2026-01-01, .inf, null, ~, true, false, -7, '7', NULL, True, =]"
    (node,) = documents("x.yaml", text)
    assert node.plain() == [
        "no", "yes", "on", "1.5", "1:30", "012", "0x1f", "1_000", "2026-01-01", ".inf", None, None, True, False, -7, "7",
        "NULL", "True", "=",
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab:-?[]{}#&*!|>'\"%@,. \n\t~<=\\0\u00e9\U0001f600"), max_size=60))
def test_any_text_is_documents_or_invalid(text: str) -> None:
    try:
        read(text)
    except Invalid as error:
        assert "\n" not in error.message
