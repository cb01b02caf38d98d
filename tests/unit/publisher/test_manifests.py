"""The file of manifests: its form, its order, its bounds, and what plain readers get of it."""

from __future__ import annotations

import hashlib
import zlib

import pytest
import yaml

from bundle_publisher import manifests
from bundle_publisher.documents import check_continues
from trustfed.errors import Denied, Invalid
from trustfed.spiffe.ids import TrustDomain

DOMAIN = TrustDomain("prod-us-west")
LINES = [
    b'{"kind":"Gateway","metadata":{"name":"trustfed-a"}}',
    b'{"kind":"ServiceEntry","metadata":{"name":"trustfed-b"}}',
]


def test_it_is_yaml_of_every_resource_and_comes_back_packed() -> None:
    data = manifests.write(DOMAIN, 17, LINES)
    assert [one["metadata"]["name"] for one in yaml.safe_load_all(data)] == ["trustfed-a", "trustfed-b"]
    assert manifests.read_version(data, DOMAIN) == 17
    assert manifests.unpack(manifests.pack(data)) == data
    assert list(yaml.safe_load_all(manifests.write(DOMAIN, 18, []))) in ([], [None])


def test_no_older_file_takes_the_place_of_a_newer_one() -> None:
    old, new = (manifests.write(DOMAIN, version, LINES[:version]) for version in (1, 2))
    check_continues(manifests.document(DOMAIN, new), old)
    for made in (manifests.document, manifests.digest_document):
        with pytest.raises(Denied, match="go back"):
            check_continues(made(DOMAIN, old), made(DOMAIN, new).data)


def test_the_digest_beside_it_is_one_that_sha256sum_reads() -> None:
    data = manifests.write(DOMAIN, 3, LINES)
    document = manifests.digest_document(DOMAIN, data)
    assert document.name == "routes/prod-us-west.yaml.sha256"
    assert document.data.splitlines()[-1].decode() == f"{hashlib.sha256(data).hexdigest()}  prod-us-west.yaml"
    assert manifests.trust_domain_of(document.name) == manifests.trust_domain_of("routes/prod-us-west.yaml") == DOMAIN
    assert manifests.trust_domain_of("bundles/prod-us-west") is None


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"no zlib",
        zlib.compress(b"x")[:-1],
        zlib.compress(b"x") + b"y",
        zlib.compress(bytes(manifests.MAX_BYTES + 1)),
    ],
    ids=["empty", "garbage", "cut", "more behind it", "a bomb"],
)
def test_what_is_no_packed_file_is_refused(packed: bytes) -> None:
    with pytest.raises(Invalid, match="damaged or too long"):
        manifests.unpack(packed)


@pytest.mark.parametrize("data", [b"", b"# trustfed: mesh of other, version 1, 0 resources\n", b"---\n{}\n"])
def test_what_is_no_file_of_this_domain_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="prod-us-west"):
        manifests.read_version(data, DOMAIN)


def test_what_is_too_long_is_not_published() -> None:
    with pytest.raises(Invalid, match="bytes"):
        manifests.write(DOMAIN, 1, [bytes(manifests.MAX_BYTES)])
