"""Messages of a stream become whole states, or nothing."""

from __future__ import annotations

import pytest

from bundle_publisher.istio.resource import Resource
from tests.fakes.routes import FakeRoutes, service_entry
from trustfed.errors import Conflict, Invalid
from trustfed.federation.mesh_digest import digest
from trustfed.feed import intake as taking
from trustfed.feed.intake import Intake, State
from trustfed.feed.resources import accept
from trustfed.proto import mesh_pb2 as pb

A, B, C = (service_entry(name) for name in ("a", "b", "c"))


def wire(resource: Resource, **other: object) -> pb.Resource:
    said = pb.Resource(key=resource.key, version=resource.version, created_ms=1, manifest=resource.manifest)
    for name, value in other.items():
        setattr(said, name, value)
    return said


def state(*resources: Resource) -> State:
    return State({r.key: accept(r.key, r.version, 1, r.manifest) for r in resources}, {}, 1)


def test_a_batch_counts_when_its_digest_fits_and_not_before() -> None:
    intake = Intake(state(A), anew=False)
    assert intake.take(pb.Resources(upsert=[wire(B)])) is None
    found = intake.take(
        pb.Resources(upsert=[wire(C)], remove=[A.key], digest=FakeRoutes(B, C).digest(), confirmed_ms=9)
    )
    assert found is not None and set(found.resources) == {B.key, C.key} and found.confirmed_ms == 9
    assert found.changed(state(A)) == {A.key, B.key, C.key} and not found.changed(found)


def test_a_digest_that_does_not_fit_changes_nothing() -> None:
    """Everything removed at once by a message is believed only with the digest of nothing."""
    held = state(A, B)
    with pytest.raises(Conflict, match="not what the cluster says"):
        Intake(held, anew=False).take(pb.Resources(remove=[A.key, B.key], digest=FakeRoutes(A, B).digest()))
    with pytest.raises(Conflict):
        Intake(held, anew=True).take(pb.Resources(digest=FakeRoutes(A, B).digest()))
    assert set(held.resources) == {A.key, B.key}
    emptied = Intake(held, anew=False).take(pb.Resources(remove=[A.key, B.key], digest=digest({})))
    assert emptied is not None and not emptied.resources


def test_one_bad_resource_is_left_out_alone_and_what_was_good_under_its_key_stays() -> None:
    worse = pb.Resource(key=A.key, version="f" * 64, manifest=b"{}")
    strange = pb.Resource(key="Secret/ns/x", version="e" * 64, manifest=b"{}")
    whole = digest({A.key: "f" * 64, "Secret/ns/x": "e" * 64, B.key: B.version})
    for anew in (False, True):
        intake = Intake(state(A), anew=anew)
        found = intake.take(pb.Resources(upsert=[worse, strange, wire(B)], digest=whole))
        assert found is not None
        assert found.resources[A.key].manifest == A.manifest and B.key in found.resources
        assert set(found.rejected) == {A.key, "Secret/ns/x"}
        mended = intake.take(pb.Resources(upsert=[wire(A)], remove=["Secret/ns/x"], digest=FakeRoutes(A, B).digest()))
        assert mended is not None and not mended.rejected


def test_asked_anew_what_is_not_sent_is_gone() -> None:
    found = Intake(state(A, B), anew=True).take(pb.Resources(upsert=[wire(B)], digest=FakeRoutes(B).digest()))
    assert found is not None and set(found.resources) == {B.key}


def test_more_than_can_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "MAX_RESOURCES", 2)
    with pytest.raises(Invalid, match="more than 2 resources"):
        Intake(State(), anew=False).take(pb.Resources(upsert=[wire(A), wire(B), wire(C)]))
    monkeypatch.setattr(taking, "MAX_BYTES", 100)
    with pytest.raises(Invalid, match="MiB"):
        Intake(State(), anew=False).take(pb.Resources(upsert=[wire(A)], digest=FakeRoutes(A).digest()))
