"""Each of TUF's attacks, and those of who holds the hub's online keys, against our reader: refused, and the state kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata  # type: ignore[attr-defined]

from bundle_publisher.tuf import delegated
from tests.fakes.cluster import Domain
from tests.fakes.tuf_store import TIMESTAMP_LIFE, signed, tuf_key
from tests.unit.reading.reading_parts import HOUR, NOW, MemorySource, Reader, made
from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from trustfed.federation.envelope import open_envelope
from trustfed.reading import reader as reading
from trustfed.reading.location import Location
from trustfed.reading.order import Order, Wanted
from trustfed.runtime.bounded_http import endless
from trustfed.runtime.files import DirectoryLock


def test_what_is_published_is_read(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    answer = reader.read("west.test")
    west, found = store.domains["west.test"], answer.one("west.test")
    assert open_envelope(found.envelope, west.trust_domain, west.publication_key).level.sequence == 1
    assert (found.publication_key, found.signed_at) == (west.publication_key.spki, NOW)
    assert (answer.root_version, answer.stale) == (1, timedelta(0))
    assert [one.trust_domain for one in reader.read().found] == ["west.test", "east.test"]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_the_signing_time_is_read_as_the_publisher_means_it() -> None:
    assert reading.ROLE_LIFE == delegated.LIFE


def test_what_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    first = reader.read("west.test").one("west.test")
    assert len(reader.source.asked) == 7
    reader.read("west.test")
    assert reader.source.asked == ["tuf/2.root.json", "tuf/timestamp.json"]
    held = hashlib.sha256(first.envelope).hexdigest()
    assert reader.read(Wanted("west.test", held=held)).one("west.test").envelope == b""


def test_a_domain_that_is_not_there_spoils_no_other(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    answer = reader.read("nowhere.test", "west.test")
    assert answer.one("west.test").envelope
    with pytest.raises(NotFound, match=r"nothing of trust domain nowhere\.test"):
        answer.one("nowhere.test")


def test_a_file_that_cannot_be_had_keeps_no_other_domain_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reader = made(tmp_path)
    whole, cut = MemorySource.parts, {"west.test"}

    def parts(self: MemorySource, name: str, limit: int) -> Iterator[bytes]:
        if any(domain in name for domain in cut):
            raise Unavailable(f"{name}: slow retrieval refused")
        yield from whole(self, name, limit)

    monkeypatch.setattr(MemorySource, "parts", parts)
    answer = reader.read("west.test", "east.test")
    assert answer.one("east.test").envelope
    with pytest.raises(Unavailable, match="slow retrieval"):
        answer.one("west.test")
    cut.add("east.test")
    with pytest.raises(Unavailable, match="slow retrieval"):
        Reader(reader.store, tmp_path / "other").read("west.test", "east.test")


# Rollback.


def test_rollback_of_the_timestamp(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    old = dict(store.files)
    store.publish()
    reader.read("west.test")
    with pytest.raises(Denied, match="rollback refused"):
        reader.read("west.test", files=old)
    assert reader.read("west.test").found, "the last good state is kept"


def test_rollback_of_the_snapshot_by_the_timestamp_key(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    store.publish()
    reader.read("west.test")
    store.publish_timestamp(NOW, snapshot=1)
    with pytest.raises(Denied, match="rollback refused"):
        reader.read("west.test")


def test_rollback_of_targets_by_the_snapshot_and_timestamp_keys(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    store.publish()
    reader.read("west.test")
    store.publish_snapshot(NOW, targets=1)
    with pytest.raises(Denied, match="rollback refused"):
        reader.read("west.test")


def test_rollback_of_a_role_by_all_of_the_hubs_keys(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    store.domains["west.test"].sequence = 2
    store.sign("west.test")
    store.publish()
    reader.read("west.test")
    store.publish_snapshot(NOW, west_test=1)
    with pytest.raises(Denied, match="rollback refused"):
        reader.read("west.test")


def test_a_role_that_is_dropped_from_the_snapshot(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    reader.read("west.test")
    del store.roles["west.test"]
    store.publish()
    with pytest.raises(Denied, match=r"missing info for 'west\.test"):
        reader.read("west.test")


# Freeze.


def test_an_expired_timestamp(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    with pytest.raises(Denied, match=r"freeze refused: the store's timestamp expired 1:00:00 ago"):
        reader.read("west.test", now=NOW + 2 * HOUR)


def test_an_expired_timestamp_is_accepted_when_asked_for_and_says_how_old(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    late = NOW + TIMESTAMP_LIFE + HOUR
    answer = reader.read("west.test", now=late, accept_stale=HOUR)
    assert answer.stale == HOUR and answer.one("west.test").signed_at == NOW
    with pytest.raises(Denied, match="freeze refused"):
        reader.read("west.test", now=late + timedelta(seconds=1), accept_stale=HOUR)


@pytest.mark.parametrize(("hours", "refused"), [(0, False), (1, False), (2, True), (24 * 365 * 10, True)])
def test_a_role_signed_for_longer_than_a_role_lives(tmp_path: Path, hours: int, refused: bool) -> None:
    """Signed once, by a clock that is ahead or a thief of the key, it would freeze the domain and be fresh at each visit."""
    store, reader = made(tmp_path)
    store.sign("west.test", now=NOW + timedelta(hours=hours))
    store.publish()
    answer = reader.read("west.test", "east.test")
    assert answer.one("east.test").signed_at == NOW
    if refused:
        with pytest.raises(Denied, match="beyond the 30 days that a role lives"):
            answer.one("west.test")
    else:
        assert answer.one("west.test").signed_at == NOW, "never later than now"


def test_the_replay_of_an_old_timestamp_that_has_not_expired(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    old = store.files["tuf/timestamp.json"]
    store.sign("west.test")
    store.publish(NOW + timedelta(minutes=10))
    reader.read("west.test", now=NOW + timedelta(minutes=11))
    with pytest.raises(Denied, match="rollback refused"):
        reader.read("west.test", now=NOW + timedelta(minutes=12), files={**store.files, "tuf/timestamp.json": old})


def test_accepting_what_is_stale_is_no_way_back(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    old = dict(store.files)
    store.publish(NOW + 2 * HOUR)
    reader.read("west.test", now=NOW + 2 * HOUR)
    with pytest.raises(Denied, match="rollback refused"):
        reader.read("west.test", now=NOW + 2 * HOUR, files=old, accept_stale=100 * HOUR)


def test_a_role_that_its_domain_no_longer_signs(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    later = NOW + timedelta(days=31)
    store.sign("east.test", now=later)
    store.publish(later)
    answer = reader.read("west.test", "east.test", now=later)
    assert answer.one("east.test").signed_at == later
    with pytest.raises(Denied, match="freeze refused"):
        answer.one("west.test")


def test_an_expired_root(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    later = NOW + timedelta(days=366)
    store.publish(later)
    with pytest.raises(Denied, match="freeze refused"):
        reader.read("west.test", now=later, accept_stale=timedelta(days=1000))


# Mix-and-match, tampering.


def test_mix_and_match_of_two_snapshots(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    first = store.files["tuf/1.snapshot.json"]
    store.publish()
    store.files["tuf/2.snapshot.json"] = first
    with pytest.raises((Denied, Invalid), match=r"mix-and-match refused|endless data refused"):
        reader.read("west.test")


def test_mix_and_match_of_two_targets(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    first = store.files["tuf/1.targets.json"]
    store.publish()
    store.files["tuf/2.targets.json"] = first
    with pytest.raises((Denied, Invalid), match=r"mix-and-match refused|endless data refused"):
        reader.read("west.test")


def test_a_role_of_another_moment(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    first = store.files["tuf/1.west.test.json"]
    store.sign("west.test")
    store.publish()
    store.files["tuf/2.west.test.json"] = first
    with pytest.raises((Denied, Invalid), match=r"mix-and-match refused|endless data refused"):
        reader.read("west.test").one("west.test")


@pytest.mark.parametrize("which", [0, 1], ids=["envelope", "cluster document"])
def test_a_tampered_target(tmp_path: Path, which: int) -> None:
    store, reader = made(tmp_path)
    name = store.roles["west.test"].files[which]
    good = store.files[name]
    store.files[name] = good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]
    with pytest.raises(Denied, match="tampering or mix-and-match refused"):
        reader.read("west.test").one("west.test")
    store.files[name] = good
    assert reader.read("west.test").one("west.test").envelope


def test_a_cached_target_that_was_changed_on_disk_is_read_again(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    good = reader.read("west.test").one("west.test").envelope
    for file in (tmp_path / "state" / "targets").iterdir():
        file.write_bytes(b"other")
    assert reader.read("west.test").one("west.test").envelope == good


@pytest.mark.parametrize("name", ["tuf/timestamp.json", "tuf/1.snapshot.json", "tuf/1.targets.json"])
def test_metadata_that_nobody_signed(tmp_path: Path, name: str) -> None:
    store, reader = made(tmp_path)
    metadata = Metadata.from_bytes(store.files[name])
    metadata.signed.version += 5
    store.files[name] = metadata.to_bytes()
    with pytest.raises(Denied, match="refused"):
        reader.read("west.test")


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"signed": 1, "signatures": []}'])
def test_what_is_no_metadata(tmp_path: Path, data: bytes) -> None:
    store, reader = made(tmp_path)
    store.files["tuf/timestamp.json"] = data[:16_000]
    with pytest.raises(Denied, match="malformed or incomplete metadata refused"):
        reader.read("west.test")


# Endless data.


class Endless(MemorySource):
    """Gives the file `name`, and never an end of it."""

    def __init__(self, files: dict[str, bytes], name: str) -> None:
        super().__init__(files)
        self.name, self.given = name, 0

    def parts(self, name: str, limit: int) -> Iterator[bytes]:
        yield from super().parts(name, limit)
        while name == self.name:
            self.given += 65_536
            if self.given > limit:
                raise endless(name, limit)
            yield bytes(65_536)


@pytest.mark.parametrize("which", ["timestamp", "snapshot", "role", "envelope", "root"])
def test_endless_data(tmp_path: Path, which: str) -> None:
    store, reader = made(tmp_path)
    if which == "root":
        store.rotate_root()
    name = {
        "timestamp": "tuf/timestamp.json",
        "snapshot": "tuf/1.snapshot.json",
        "role": "tuf/1.west.test.json",
        "envelope": store.roles["west.test"].files[0],
        "root": "tuf/2.root.json",
    }[which]
    source = Endless(store.files, name)
    order = Order(Location("memory"), reader.root, reader.state, NOW, (Wanted("west.test"),))
    with pytest.raises(Invalid, match="endless data refused"):
        reading.read(order, source).one("west.test")
    assert source.given < 6_000_000


def test_more_in_all_than_was_allowed(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    with pytest.raises(Invalid, match="endless data refused"):
        reader.read("west.test", max_bytes=2_000)


# Who holds the hub's online keys.


def stolen(name: str, thief: Domain, **change: object) -> Delegations:
    key = tuf_key(thief.publication)
    fields: dict[str, object] = {
        "name": name,
        "keyids": [key.keyid],
        "threshold": 1,
        "terminating": True,
        "paths": [f"clusters/{name}", f"envelopes/{name}"],
        **change,
    }
    return Delegations({key.keyid: key}, {name: DelegatedRole(**fields)})  # type: ignore[arg-type]


def test_a_stolen_delegation_is_refused_by_the_pinned_key(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    honest = store.domains["west.test"].publication_key
    assert reader.read(Wanted("west.test", honest.spki)).one("west.test").envelope
    thief = store.domains["west.test"] = Domain("west.test")
    store.sign("west.test")
    store.publish_targets(stolen("west.test", thief), NOW)
    answer = reader.read(Wanted("west.test", honest.spki))
    with pytest.raises(Denied, match=r"stolen delegation refused: .* is pinned"):
        answer.one("west.test")
    # Who pins nothing has only the delegation to go by (decision 0008).
    assert reader.read("west.test").one("west.test").publication_key == thief.publication_key.spki


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ["*"]},
        {"paths": ["envelopes/west.test"]},
        {"threshold": 2},
        {"path_hash_prefixes": ["00"], "paths": None},
        {"paths": ["clusters/west.test", "envelopes/east.test"]},
    ],
    ids=str,
)
def test_a_delegation_in_another_form(tmp_path: Path, change: dict[str, object]) -> None:
    store, reader = made(tmp_path)
    store.publish_targets(stolen("west.test", store.domains["west.test"], **change), NOW)
    with pytest.raises(Denied, match="in another way than to one key"):
        reader.read("west.test").one("west.test")


def test_a_delegation_to_a_second_key_beside_the_pinned_one(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    west, thief = store.domains["west.test"], Domain("west.test")
    keys = [tuf_key(west.publication), tuf_key(thief.publication)]
    role = DelegatedRole("west.test", [k.keyid for k in keys], 1, True, ["clusters/west.test", "envelopes/west.test"])
    store.publish_targets(Delegations({k.keyid: k for k in keys}, {"west.test": role}), NOW)
    with pytest.raises(Denied, match="in another way than to one key"):
        reader.read(Wanted("west.test", west.publication_key.spki)).one("west.test")


def test_another_domains_envelope_under_a_role(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    store.sign("west.test", data=store.domains["east.test"].envelope().data)
    store.publish()
    with pytest.raises(Denied, match=r"the envelope of west\.test is signed by"):
        reader.read("west.test").one("west.test")


def test_another_domains_envelope_signed_by_this_domains_key(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    forged = Domain("east.test", publication=store.domains["west.test"].publication)
    store.sign("west.test", data=forged.envelope().data)
    store.publish()
    with pytest.raises(Denied, match="speaks of another trust domain"):
        reader.read("west.test").one("west.test")


def test_a_file_outside_of_the_store(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    role = Metadata.from_bytes(store.files["tuf/1.west.test.json"])
    role.signed.targets["envelopes/west.test"].hashes = {"sha256": "../../etc/passwd"}
    store.files["tuf/1.west.test.json"] = signed(role.signed, store.domains["west.test"].publication)
    store.publish_snapshot(NOW)
    with pytest.raises(Denied, match="outside of any store"):
        reader.read("west.test").one("west.test")
    assert not any("etc" in name for name in reader.source.asked)


# The root.


def test_a_rotated_root_is_followed(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    reader.read("west.test")
    store.rotate_root(new=("root", "targets", "snapshot", "timestamp"))
    store.rotate_root()
    store.publish()
    assert reader.read("west.test").root_version == 3


def test_a_root_that_the_last_one_did_not_sign(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    store.rotate_root(by=(), new=("root",))
    store.publish()
    with pytest.raises(Denied, match="refused"):
        reader.read("west.test")


def test_a_root_signed_below_its_threshold(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    store.rotate_root(by=(store.root_keys[0],), new=("root",))
    store.publish()
    with pytest.raises(Denied, match="refused"):
        reader.read("west.test")


def test_root_rollback_to_keys_that_were_replaced(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    old = dict(store.files)
    store.rotate_root(new=("targets", "snapshot", "timestamp"))
    store.publish()
    assert reader.read("west.test").root_version == 2
    with pytest.raises(Denied, match="refused"):
        reader.read("west.test", files=old)
    assert reader.read("west.test").root_version == 2


def test_a_root_of_the_wrong_number(tmp_path: Path) -> None:
    store, reader = made(tmp_path)
    store.rotate_root()
    store.rotate_root()
    store.publish()
    store.files["tuf/2.root.json"] = store.files["tuf/3.root.json"]
    with pytest.raises(Denied, match="rollback refused"):
        reader.read("west.test")


def test_a_pinned_root_that_is_none(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    reader.root = b"{}"
    with pytest.raises((Denied, Invalid)):
        reader.read("west.test")


def test_one_reader_at_a_time(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    reader.read("west.test")
    with DirectoryLock(reader.state), pytest.raises(Conflict):
        reader.read("west.test")


def test_a_state_folder_that_is_open_to_others(tmp_path: Path) -> None:
    _, reader = made(tmp_path)
    reader.state.mkdir(mode=0o755)
    with pytest.raises(Denied, match="open to others"):
        reader.read("west.test")
