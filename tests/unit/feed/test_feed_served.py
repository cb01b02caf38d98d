"""What is served, where disks and outputs fail; and who the feed is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fakes.clocks import ManualClock
from tests.fakes.routes import service_entry
from tests.fakes.world import DomainWorld
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.feed.identity import certificates, read
from trustfed.feed.intake import State
from trustfed.feed.resources import accept
from trustfed.feed.served import Served
from trustfed.feed.state_file import StateFile
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import SpiffeId


class Shown:
    """An output that remembers, and fails when it is told to."""

    name = "shown"
    readers = 0

    def __init__(self) -> None:
        self.calls: list[frozenset[str] | None] = []
        self.broken = False

    async def publish(self, state: State, changed: frozenset[str] | None) -> Mapping[str, str]:
        self.calls.append(changed)
        if self.broken:
            raise Unavailable("the volume is gone")
        return {}


class FullDisk(StateFile):
    """A disk that is full until `room`."""

    room = False

    def save(self, state: State) -> None:
        if not self.room:
            raise Unavailable("cannot write: no space left on device", hint="the disk is full: make room")
        super().save(state)


def state(*names: str, confirmed_ms: int = 1) -> State:
    made = [service_entry(name) for name in names]
    return State({r.key: accept(r.key, r.version, 1, r.manifest) for r in made}, {}, confirmed_ms)


async def test_nothing_is_handed_over_before_a_state_is_known(tmp_path: Path) -> None:
    shown = Shown()
    served = Served(StateFile(tmp_path, "west"), [shown], ManualClock(), Registry())
    await served.load()
    await served.mend()
    assert served.state is None and not shown.calls
    (tmp_path / "routes.jsonl").write_bytes(b"damaged")
    await served.load()
    assert served.state is None and not shown.calls and "damaged" in served.trouble["state"]
    await served.take(state("a"))
    assert shown.calls == [None] and "state" not in served.trouble


async def test_a_full_disk_does_not_keep_routes_from_istiod_and_is_tried_again(tmp_path: Path) -> None:
    file, shown = FullDisk(tmp_path, "west"), Shown()
    served = Served(file, [shown], ManualClock(), Registry())
    await served.take(state("a"))
    assert shown.calls == [None] and "no space left" in served.trouble["state"] and file.load() is None
    FullDisk.room = True
    await served.mend()
    assert not served.trouble and file.load() == state("a")


async def test_a_full_disk_does_not_bring_withdrawn_routes_back_after_a_restart(tmp_path: Path) -> None:
    """What is kept is removed as soon as something of it is withdrawn, or replaced, that cannot be saved."""
    FullDisk.room = True
    file, registry = FullDisk(tmp_path, "west"), Registry()
    served = Served(file, [Shown()], ManualClock(), registry)
    await served.take(state("a", "b"))
    assert served.saved
    FullDisk.room = False
    await served.take(state("a", "b", "c"))  # nothing of what is kept has gone: it may come back
    assert not served.saved and file.load() == state("a", "b")
    assert "trustfed_feed_routes_saved 0" in registry.exposition().decode()
    await served.take(state("a", "c"))
    restarted = Served(file, [shown := Shown()], ManualClock(), Registry())
    await restarted.load()
    assert restarted.state is None and not shown.calls  # nothing is known, so nothing is handed over
    await served.mend()
    assert not served.saved
    FullDisk.room = True
    await served.mend()
    assert served.saved and file.load() == state("a", "c")


async def test_a_replaced_route_is_not_kept_either_and_a_disk_that_removes_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FullDisk, "room", True)
    file = FullDisk(tmp_path, "west")
    served = Served(file, [Shown()], ManualClock(), Registry())
    await served.take(state("a"))
    monkeypatch.setattr(FullDisk, "room", False)
    newer = service_entry("a", weight=5)
    changed = State({newer.key: accept(newer.key, newer.version, 1, newer.manifest)}, {}, 1)
    (tmp_path / "routes.jsonl").unlink()
    (tmp_path / "routes.jsonl").mkdir()
    await served.take(changed)
    assert "a restart would bring back" in caplog.text
    (tmp_path / "routes.jsonl").rmdir()
    await served.mend()
    assert "were removed" in caplog.text and file.load() is None


async def test_an_output_that_fails_gets_everything_once_it_is_back(tmp_path: Path) -> None:
    good, bad = Shown(), Shown()
    bad.name = "bad"
    served = Served(StateFile(tmp_path, "west"), [bad, good], ManualClock(), Registry())
    await served.take(state("a"))
    bad.broken = True
    await served.take(state("a", "b"))
    assert served.trouble == {"bad": "the volume is gone"} and len(good.calls) == 2
    bad.broken = False
    await served.take(state("a", "b", "c"))
    assert bad.calls[-1] is None and good.calls[-1] == {service_entry("c").key} and not served.trouble


async def test_confirmations_are_kept_without_writing_the_routes_again(tmp_path: Path) -> None:
    served = Served(StateFile(tmp_path, "west"), [Shown()], ManualClock(), Registry())
    await served.take(state("a"))
    before = (tmp_path / "routes.jsonl").stat().st_ino
    served.confirmed(77)
    served.confirmed(5)  # an older cluster instance knows less
    await served.mend()
    assert (tmp_path / "routes.jsonl").stat().st_ino == before
    assert json.loads((tmp_path / "confirmed.json").read_bytes()) == {"confirmed_ms": 77}
    again = Served(StateFile(tmp_path, "west"), [Shown()], ManualClock(), Registry())
    await again.load()
    assert again.confirmed_ms == 77


async def test_a_clock_that_was_ahead_does_not_make_routes_look_fresh(tmp_path: Path) -> None:
    clock, file = ManualClock(), StateFile(tmp_path, "west")
    now = to_ms(clock.now())
    file.save(state("a", confirmed_ms=2**60))
    served = Served(file, [Shown()], clock, Registry())
    await served.load()
    assert served.confirmed_ms == now
    await clock.advance(60)
    served.confirmed(2**60)
    assert served.confirmed_ms == now + 60_000
    await served.take(state("b", confirmed_ms=2**60))
    await clock.advance(60)
    assert served.confirmed_ms == now + 60_000


async def test_the_identity_is_the_home_domains(tmp_path: Path) -> None:
    world = await DomainWorld.make("west")
    pair = await world.svid("/feed", chain="leaf")
    good = pb.X509SVID(
        spiffe_id="spiffe://west/feed", x509_svid=pair.chain[0], x509_svid_key=b"not a key", bundle=world.twin
    )
    with pytest.raises(Invalid, match="private key"):
        read(pb.X509SVIDResponse(svids=[good]), world.trust_domain, None)
    with pytest.raises(Denied, match="no SVID for this process"):
        read(pb.X509SVIDResponse(), world.trust_domain, None)
    with pytest.raises(Denied, match="no SVID spiffe://west/other"):
        read(pb.X509SVIDResponse(svids=[good]), world.trust_domain, SpiffeId.parse("spiffe://west/other"))
    other = await DomainWorld.make("east")
    with pytest.raises(Denied, match="agent is of west, the feed of east"):
        read(pb.X509SVIDResponse(svids=[good]), other.trust_domain, None)


async def test_certificates_one_after_the_other() -> None:
    world = await DomainWorld.make("west")
    chain = (await world.svid("/feed")).chain
    assert certificates(b"".join(chain)) == chain
    for data in (b"", b"\x30", chain[0][:-1], chain[0] + b"\x00", b"\x30\x84\xff\xff\xff\xff", b"0" * 5):
        with pytest.raises(Invalid):
            certificates(data)
