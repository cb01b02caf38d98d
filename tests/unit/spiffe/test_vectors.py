"""The committed vectors: each is judged as its index says, and the index is what the generator makes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.vectors import forge
from tests.vectors.generate import HERE, KINDS, files, load
from tests.vectors.make_jwtsvid import AUDIENCE
from trustfed.errors import Denied, Invalid, NotFound
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

HOME = TrustDomain(forge.HOME)
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a fault that a vector has


def judge_spiffeid(vector: forge.Vector) -> None:
    text = vector.files[".txt"].decode()
    assert str(SpiffeId.parse(text)) == text


def judge_x509svid(vector: forge.Vector) -> None:
    chain = forge.unpem(vector.files[".pem"])
    bundle = Bundle(HOME, tuple(forge.unpem(vector.files[".authorities.pem"])))
    assert verify_x509_svid(chain, bundle, forge.NOW).chain == tuple(chain)


def judge_jwtsvid(vector: forge.Vector) -> None:
    bundles = BundleMap.parse((HERE / "jwtsvid" / "bundles.json").read_bytes())
    token = vector.files[".jwt"].decode()
    assert jwtsvid.verify(token, bundles, AUDIENCE, forge.NOW).token == token


def judge_bundle(vector: forge.Vector) -> None:
    data = vector.files[".json"]
    if vector.name.startswith("map"):
        bundles = BundleMap.parse(data)
        assert BundleMap.parse(bundles.marshal()).marshal() == bundles.marshal()
    else:
        bundle = Bundle.parse(HOME, data)
        assert Bundle.parse(HOME, bundle.marshal()) == bundle


JUDGES: dict[str, Callable[[forge.Vector], None]] = {
    "spiffeid": judge_spiffeid,
    "x509svid": judge_x509svid,
    "jwtsvid": judge_jwtsvid,
    "bundle": judge_bundle,
}


@pytest.mark.parametrize(
    ("kind", "vector"), [pytest.param(kind, v, id=f"{kind}-{v.name}") for kind in KINDS for v in load(kind)]
)
def test_vector_is_judged_as_the_index_says(kind: str, vector: forge.Vector) -> None:
    if not vector.error:
        JUDGES[kind](vector)
        return
    with pytest.raises((Invalid, Denied, NotFound)) as refusal:
        JUDGES[kind](vector)
    assert vector.error in refusal.value.message
    assert len(refusal.value.message) < 2600
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize("kind", KINDS)
def test_committed_vectors_are_what_the_generator_makes(kind: str) -> None:
    committed = {path.name: path.read_bytes() for path in (HERE / kind).iterdir()}
    made = files(kind)
    assert sorted(committed) == sorted(made)
    assert [name for name in made if committed[name] != made[name]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_good_vectors_and_named_faults(kind: str) -> None:
    vectors = load(kind)
    assert any(not vector.error for vector in vectors)
    assert all(vector.fault for vector in vectors)
    assert len({vector.name for vector in vectors}) == len(vectors)
