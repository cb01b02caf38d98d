"""The protected publication, read by python-tuf's own client after everything that may happen to a publisher."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api import exceptions
from tuf.api.metadata import Metadata

from bundle_publisher.targets.port import Document
from tests.fakes.targets import MemoryTarget
from tests.fakes.tuf_repository import DAY, HOUR, Domain, TufRepository
from tests.unit.hub.newcomer import Newcomer
from trustfed.errors import Denied, Invalid


async def test_readers_get_envelope_and_document_of_every_domain(tmp_path: Path) -> None:
    made = await TufRepository.make()
    domains = [await made.domain(f"td-{number}") for number in range(20)]
    await made.bring()
    reader = made.reader(tmp_path)
    for domain in domains:
        assert reader.envelope(domain.name) == domain.envelope
        assert reader.document(domain.name) == domain.document()
    assert reader.envelope("td-none") is None


async def test_without_a_root_nothing_is_written_and_nothing_is_due() -> None:
    made = await TufRepository.make()
    made.wanted = replace(made.wanted, roots=())
    await made.bring()
    assert not made.target.held
    assert made.repository.due(made.clock.now()) is None


async def test_a_round_without_news_writes_nothing_also_after_a_restart() -> None:
    made = await TufRepository.make()
    await made.domain("td-a")
    await made.bring()
    before = dict(made.target.held)
    await made.bring()
    await made.another().bring(made.target)
    assert made.target.held == before


async def test_a_change_writes_only_what_changed(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a, b = await made.domain("td-a"), await made.domain("td-b")
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-b") == b.envelope
    before, writes = set(made.target.held), made.target.writes
    made.clock.move(60)
    await made.publish(a)
    await made.bring()
    new = {name.split("/")[0] + "/" + name.split(".", 1)[1] for name in set(made.target.held) - before}
    assert new == {"envelopes/td-a", "tuf/td-a.json", "tuf/snapshot.json"}
    assert made.target.writes - writes == 5  # those, the list of what is superseded, and the timestamp
    assert reader.envelope("td-a") == a.envelope
    assert reader.envelope("td-b") == b.envelope


async def test_the_timestamp_alone_is_signed_anew_at_half_its_life(tmp_path: Path) -> None:
    made = await TufRepository.make(ttl=HOUR)
    await made.domain("td-a")
    await made.bring()
    due = made.repository.due(made.clock.now())
    assert due == made.clock.now() + HOUR / 2
    before = dict(made.target.held)
    made.clock.move(1801)
    await made.bring()
    changed = {name for name, held in made.target.held.items() if before.get(name) != held}
    assert changed <= {"tuf/timestamp.json", "tuf/superseded.json"}
    assert made.repository.due(made.clock.now()) > due
    assert made.reader(tmp_path).envelope("td-a") is not None


async def test_snapshot_and_targets_are_signed_anew_before_they_expire() -> None:
    made = await TufRepository.make(ttl=HOUR)
    await made.domain("td-a")
    await made.bring()
    made.clock.move(11 * 86_400)
    await made.bring()
    top = made.repository.edition.top
    assert top.snapshot.signed.expires == top.targets.signed.expires == made.clock.now() + 30 * DAY


async def test_an_expired_timestamp_is_refused_and_the_next_round_heals_it(tmp_path: Path) -> None:
    made = await TufRepository.make(ttl=HOUR, now=datetime.now(UTC) - timedelta(hours=3))
    a = await made.domain("td-a")
    await made.bring()
    with pytest.raises(exceptions.ExpiredMetadataError, match=r"timestamp\.json is expired"):
        made.reader(tmp_path).envelope("td-a")
    made.clock.move(3 * 3600)
    await made.bring()
    assert made.reader(tmp_path).envelope("td-a") == a.envelope


async def test_a_removed_domain_is_delegated_no_more_and_readers_who_knew_it_go_on(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a, b = await made.domain("td-a"), await made.domain("td-b")
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-a") == a.envelope
    made.clock.move(1)
    made.remove(a)
    await made.bring()
    assert reader.envelope("td-a") is None
    assert reader.envelope("td-b") == b.envelope
    assert "td-a.json" in made.repository.edition.top.snapshot.signed.meta  # TUF §5.5: no name leaves the snapshot
    await made.another().bring(made.target)
    assert reader.envelope("td-a") is None


async def test_a_domain_that_comes_back_under_another_key_is_published_above_its_former_version(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    reader = made.reader(tmp_path)
    assert reader.envelope("td-a") == a.envelope
    made.remove(a)
    await made.bring()
    again = Domain(await Newcomer.make("td-a"))
    await again.publish(made.clock.now() - timedelta(days=1))  # its clock is behind: its version is too low
    made.want({"td-a": again.part})
    made.wanted = replace(made.wanted, floors={"td-a": a.version})
    await made.bring()
    assert reader.envelope("td-a") is None
    made.clock.move(60)
    await made.publish(again)
    await made.bring()
    assert reader.envelope("td-a") == again.envelope


async def test_two_targets_hold_the_same_bytes() -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    other = MemoryTarget()
    await made.bring()
    made.clock.move(5)
    await made.bring(other)
    made.clock.move(5)
    await made.publish(a)
    await made.bring(other)
    made.clock.move(5)
    await made.bring()
    one, two = ({name: held.data for name, held in t.held.items()} for t in (made.target, other))
    one.pop("tuf/superseded.json"), two.pop("tuf/superseded.json")
    gone = set(one) ^ set(two)  # what the first one had before the second one began
    assert {name: one[name] for name in set(one) - gone} == {name: two[name] for name in set(two) - gone}
    assert one["tuf/timestamp.json"] == two["tuf/timestamp.json"]


async def test_a_root_of_other_offline_keys_is_walked_to(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    old = made.reader(tmp_path)
    assert old.envelope("td-a") == a.envelope
    await made.rotate([ec.generate_private_key(ec.SECP256R1()) for _ in range(3)])
    await made.rotate()
    await made.bring()
    assert {f"tuf/{number}.root.json" for number in (1, 2, 3)} <= set(made.target.held)
    assert old.envelope("td-a") == a.envelope
    assert made.reader(tmp_path / "new", root=3).envelope("td-a") == a.envelope


async def test_a_root_of_other_online_keys_has_everything_signed_anew(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring()
    old = made.reader(tmp_path)
    assert old.envelope("td-a") == a.envelope
    before = made.repository.edition.top
    await made.rotate(online=True)
    made.clock.move(1)
    await made.bring()
    assert old.envelope("td-a") == a.envelope
    await made.rotate(online=True)
    made.clock.move(1)
    await made.another().bring(made.target)
    assert old.envelope("td-a") == a.envelope
    data = made.target.held["tuf/timestamp.json"].data
    assert set(Metadata.from_bytes(data).signatures).isdisjoint(before.timestamp.signatures)


async def test_a_hub_that_lacks_the_newest_root_does_not_publish() -> None:
    made = await TufRepository.make()
    await made.domain("td-a")
    await made.rotate()
    await made.bring()
    made.wanted = replace(made.wanted, roots=made.roots[:1])
    with pytest.raises(Denied, match="root version 2 is published, and this hub knows 1"):
        await made.another().bring(made.target)


async def test_two_hubs_do_not_share_one_place() -> None:
    made, other = await TufRepository.make(), await TufRepository.make()
    await made.domain("td-a")
    await made.bring()
    await other.domain("td-b")
    with pytest.raises(Denied, match=r"1\.root\.json is there already, and it is the root of another publication"):
        await other.bring(made.target)


async def test_what_is_not_needed_any_more_goes_after_a_while_and_not_before(tmp_path: Path) -> None:
    made = await TufRepository.make(ttl=HOUR)
    a = await made.domain("td-a")
    await made.bring()
    first = set(made.target.held)
    made.clock.move(60)
    await made.publish(a)
    await made.bring()
    made.clock.move(3600)
    await made.bring()
    assert first <= set(made.target.held)
    made.clock.move(3600)
    await made.bring()
    left = set(made.target.held)
    kept = {name for name in first if not name.startswith(("envelopes/", "tuf/17", "tuf/18"))}
    assert kept <= left
    assert len([name for name in left if name.startswith("envelopes/")]) == 1
    assert len([name for name in left if name.endswith(".snapshot.json")]) == 1
    assert len([name for name in left if name.endswith("td-a.json")]) == 1
    assert made.reader(tmp_path).envelope("td-a") == a.envelope


async def test_a_list_of_superseded_files_that_lies_removes_nothing_that_is_needed_or_not_ours(tmp_path: Path) -> None:
    made = await TufRepository.make(ttl=HOUR)
    a = await made.domain("td-a")
    await made.bring()
    made.put("bundles/td-a", b"plain")
    names = ",".join(f'"{name}":1' for name in [*made.target.held, "tuf/1.root.json", "../x", "bundles/td-a"])
    made.put("tuf/superseded.json", b'{"files":{' + names.encode() + b"}}")
    before = set(made.target.held)
    made.clock.move(1)
    await made.bring()
    assert set(made.target.held) == before
    for odd in (b"", b"[]", b'{"files":[]}', b'{"files":{"tuf/1.x.json":"1"}}'):
        made.put("tuf/superseded.json", odd)
        await made.publish(a)
        made.clock.move(1)
        await made.bring()
    assert made.reader(tmp_path).envelope("td-a") == a.envelope


class NoManifests(MemoryTarget):
    """A store that takes no large files of some domains."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = set(refused)

    async def write(self, document: Document, if_tag: str | None) -> str:
        if document.name.startswith("mesh/") and document.name.rpartition(".")[2] in self.refused:
            raise Invalid("413: too large")
        return await super().write(document, if_tag)


async def test_no_bundle_and_no_other_domain_waits_for_manifests_that_cannot_be_written(tmp_path: Path) -> None:
    made = await TufRepository.make()
    made.target = target = NoManifests("td-a")
    domains = [await made.domain(name) for name in ("td-a", "td-b", "td-c")]
    await made.bring()
    made.clock.move(60)
    for domain in domains:
        domain.mesh = b"# " + domain.name.encode()
        await made.publish(domain)
    parts = {d.name: replace(d.part, mesh=lambda mesh=d.mesh: mesh) for d in domains}  # type: ignore[misc]
    made.want(parts)
    with pytest.raises(Invalid, match="413"):
        await made.bring()
    reader = made.reader(tmp_path)
    for domain in domains:
        assert reader.envelope(domain.name) == domain.envelope
    assert reader.read("mesh/td-b") == domains[1].mesh
    assert reader.read("mesh/td-c") == domains[2].mesh
    target.refused.clear()
    await made.bring()
    assert reader.read("mesh/td-a") == domains[0].mesh


async def test_a_role_is_taken_over_also_where_its_manifests_are_missing(tmp_path: Path) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    before = made.wanted
    a.mesh = b"# lost"
    made.clock.move(60)
    await made.publish(a)
    await made.bring()
    made.wanted = before  # a hub restored from a backup
    made.clock.move(3_000)
    await made.another().bring(made.target)
    assert made.reader(tmp_path).envelope("td-a") == a.envelope
