"""What a resource must be before an istiod is given it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from bundle_publisher.istio.resource import seal
from tests.fakes.routes import CREATED, destination_rule, policy, service_entry
from trustfed.errors import Invalid
from trustfed.feed.resources import MAX_MANIFEST, accept

GOOD = service_entry("payments")


def sealed(manifest: bytes, key: str = GOOD.key, version: str = "") -> tuple[str, str, int, bytes]:
    return key, version or hashlib.sha256(manifest).hexdigest(), 1, manifest


def changed(change: Callable[[dict[str, Any]], object], key: str = GOOD.key) -> tuple[str, str, int, bytes]:
    document = json.loads(GOOD.manifest)
    change(document)
    return sealed(json.dumps(document).encode(), key)


def test_what_the_cluster_renders_is_taken() -> None:
    for resource in (GOOD, destination_rule("payments"), policy("payments")):
        taken = accept(resource.key, resource.version, 5, resource.manifest)
        assert (taken.kind, taken.place) == (resource.kind, f"{resource.namespace}/{resource.name}")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (sealed(GOOD.manifest, version="0" * 64), "SHA-256"),
        (sealed(GOOD.manifest, version="A" * 64), "SHA-256"),
        (sealed(GOOD.manifest, "ServiceEntry/other/trustfed-payments"), "its manifest says that it is"),
        (sealed(GOOD.manifest, "DestinationRule/ns/trustfed-payments"), "its manifest says that it is"),
        (sealed(GOOD.manifest, "Secret/ns/trustfed-payments"), "is none of"),
        (sealed(GOOD.manifest, "ServiceEntry/ns/payments"), "not allowed"),
        (sealed(GOOD.manifest, "ServiceEntry/ns/trustfed-../../etc"), "not allowed"),
        (sealed(GOOD.manifest, "ServiceEntry/n.s/trustfed-a"), "not allowed"),
        (sealed(GOOD.manifest, "ServiceEntry/ns/trustfed-a\n"), "not allowed"),
        (sealed(b"not json"), "not JSON"),
        (sealed(b"a: &a [*a, *a]"), "not JSON"),
        (sealed(b"[" * 100_000), "nested"),
        (sealed(GOOD.manifest[:-1] + b',"kind":"ServiceEntry"}'), "twice"),
        (sealed(b" " * (MAX_MANIFEST + 1)), "bytes"),
        (sealed(GOOD.manifest.replace(b"net-0", b"net-\x7f")), "printable ASCII"),
        (sealed(GOOD.manifest.replace(b"net-0", "net-\ufffe".encode())), "printable ASCII"),
        (sealed(GOOD.manifest.replace(b"net-0", "net-\u00e9".encode())), "printable ASCII"),
        (sealed(GOOD.manifest.replace(b"net-0", rb"net-\ud83d\ude00")), "printable ASCII"),
        (sealed(GOOD.manifest.replace(b",", b",\n\t", 1)), "printable ASCII"),
        (changed(lambda d: d.update(status={})), "nothing else"),
        (changed(lambda d: d["spec"].update(surprise=1)), "no ServiceEntry"),
        (changed(lambda d: d["spec"].update(hosts="payments")), "no ServiceEntry"),
        (changed(lambda d: d["spec"]["ports"][0].update(number=-1)), "no ServiceEntry"),
        (changed(lambda d: d["metadata"].pop("labels")), "lacks the label"),
        (changed(lambda d: d["metadata"]["labels"].update(a=1)), "not all texts"),
        (changed(lambda d: d.update(kind="Secret")), "its manifest says that it is"),
        (changed(lambda d: d.update(apiVersion="v1")), "its manifest says that it is"),
        ((GOOD.key, GOOD.version, -1, GOOD.manifest), "not a time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused_with_one_sentence(said: tuple[str, str, int, bytes], what: str) -> None:
    with pytest.raises(Invalid, match=what):
        accept(*said)


def test_what_the_feed_would_refuse_for_its_characters_is_not_rendered() -> None:
    def spec(text: str) -> dict[str, Any]:
        return {"hosts": ["a.ns"], "endpoints": [{"network": text}]}

    for text in ("net-\x7f", "net-\ufffe"):  # written as an escape of one character
        made = seal("ServiceEntry", "ns", "trustfed-a", CREATED, spec(text))
        assert accept(made.key, made.version, 1, made.manifest).version == made.version
    with pytest.raises(Invalid, match="characters"):
        seal("ServiceEntry", "ns", "trustfed-a", CREATED, spec("net-\U0001f600"))
