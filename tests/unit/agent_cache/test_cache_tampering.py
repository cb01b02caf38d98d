"""Whatever was altered, cut, exchanged or put back is refused by name; then the agent begins anew, with one copy set aside."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cache import sealing
from agent.cache.keys import MachineKey, PassphraseKey, SealingKey
from agent.cache.port import Kept
from agent.cache.refusal import Refused
from agent.cache.vault import ASIDE, Vault
from tests.fakes.disk import Files, Platter
from tests.unit.agent_cache.cached import NODE, OTHER, entry, large, same, small, svid, vault, without
from trustfed.runtime.secret_file import SecretFile

MANIFEST, SEGMENT = ("cache", "manifest"), ("cache", "segment-1")
COUNTER, KEY = ("data", "cache.counter"), ("data", "cache.key")
TINY = Kept(entries=(entry(1),), svids={"e1": svid(1, size=40)}, reserves={"e1": svid(2, size=40)})


def saved(*history: Kept) -> Platter:
    platter = Platter()
    keeper = vault(platter)
    for kept in history or (TINY,):
        keeper.save(kept)
    return platter


def reason(files: Files, open_: Callable[[Platter], Vault] = vault) -> str:
    """Why these files are refused; and that work then goes on, with what was refused set aside."""
    platter = Platter(files)
    keeper = open_(platter)
    try:
        keeper.open()
    except Refused as refused:
        return refused.reason
    return ""


def begins_anew(files: Files, open_: Callable[[Platter], Vault] = vault) -> None:
    platter = Platter(files)
    for number in range(3):
        keeper = open_(platter)
        with pytest.raises(Refused):
            keeper.open()
        keeper.save(large(number))
        again = open_(platter)
        assert same(again.open(), large(number))
        aside = [name for folder, name in platter.files if name.startswith(ASIDE)]
        assert len(aside) <= 4
        platter.files[MANIFEST] = platter.files[MANIFEST][:-1]


FILES = {"manifest": MANIFEST, "segment": SEGMENT, "counter": COUNTER, "key": KEY}


@pytest.mark.parametrize("name", FILES)
def test_cut_at_every_byte(name: str) -> None:
    files, place = saved().files, FILES[name]
    whole = files[place]
    for length in range(len(whole)):
        expected = "damaged_key" if name == "key" else "truncated"
        assert reason({**files, place: whole[:length]}) == expected, length
    begins_anew({**files, place: whole[: len(whole) // 2]})


@pytest.mark.parametrize("name", FILES)
def test_a_bit_flipped_in_every_byte(name: str) -> None:
    files, place = saved().files, FILES[name]
    whole = files[place]
    version = len(b"trustfed-cache-key ") if name == "key" else len(b"trustfed-cache ")
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        expected = {"damaged_key"} if name == "key" else {"damaged"}
        if position == version:
            expected.add("unknown_version")
        assert reason({**files, place: bytes(changed)}) in expected, position
    changed = bytearray(whole)
    changed[-9] ^= 1
    begins_anew({**files, place: bytes(changed)})


@pytest.mark.parametrize("name", FILES)
def test_bytes_added_and_junk(name: str) -> None:
    files, place = saved().files, FILES[name]
    damaged = "damaged_key" if name == "key" else "damaged"
    assert reason({**files, place: files[place] + b"\0"}) == damaged
    assert reason({**files, place: b"junk" * 50}) == damaged
    assert reason({**files, place: b"\n" * 200}) == damaged
    assert reason({**files, place: b"trustfed-cache 1 " + b"x" * 200}) == damaged
    assert reason({**files, place: bytes(100_000)}) in (damaged, "too_large")


@pytest.mark.parametrize("name", FILES)
def test_missing(name: str) -> None:
    files = saved(large(9), replace(large(9), retired=("a1",))).files
    gone = {place: data for place, data in files.items() if place != FILES[name]}
    assert reason(gone) == f"missing_{name}"
    begins_anew(gone)


@pytest.mark.parametrize("name", FILES)
def test_another_version(name: str) -> None:
    files, place = saved().files, FILES[name]
    old, new = (b"-key 1 ", b"-key 2 ") if name == "key" else (b"trustfed-cache 1 ", b"trustfed-cache 2 ")
    assert reason({**files, place: files[place].replace(old, new)}) == "unknown_version"


def test_records_swapped_within_a_segment() -> None:
    platter = saved(TINY)
    keeper = vault(platter)
    keeper.open()
    data = platter.files[SEGMENT]
    (key_free,) = keeper._life.segments  # type: ignore[union-attr]
    records = _records(keeper, data)
    left, right = (records[name] for name in ("svid/e1", "reserve/e1"))
    assert left[1] - left[0] == right[1] - right[0]
    swapped = bytearray(data)
    swapped[left[0] : left[1]], swapped[right[0] : right[1]] = data[right[0] : right[1]], data[left[0] : left[1]]
    assert reason({**platter.files, SEGMENT: bytes(swapped)}) == "damaged"
    assert key_free.size == len(data)


def test_a_record_sealed_under_another_name_or_for_another_node_does_not_open() -> None:
    """Were the index forged too, the associated data still says whose record it is."""
    mine = sealing.Sealer(b"k" * 32, NODE, os.urandom)
    salt, box = mine.begin("segment-1")
    sealed = box.seal(0, "svid/e1", b"content")
    assert box.open(0, "svid/e1", sealed) == b"content"
    foreign = sealing.Sealer(b"k" * 32, OTHER, lambda _: salt).begin("segment-1")[1]
    other_file = sealing.Sealer(b"k" * 32, NODE, lambda _: salt).begin("segment-2")[1]
    for opener, place, name in ((box, 0, "svid/e2"), (box, 1, "svid/e1"), (foreign, 0, "svid/e1")):
        with pytest.raises(ValueError, match="decrypt"):
            opener.open(place, name, sealed)
    with pytest.raises(ValueError, match="decrypt"):
        other_file.open(0, "svid/e1", sealed)


def test_files_swapped() -> None:
    platter = saved(large(30), replace(large(30), svids={**large(30).svids, "e3": svid(77)}))
    files, second = platter.files, ("cache", "segment-2")
    assert second in files
    assert reason({**files, SEGMENT: files[second], second: files[SEGMENT]}) in ("swapped", "too_large")
    assert reason({**files, second: files[SEGMENT]}) in ("swapped", "too_large")
    assert reason({**files, MANIFEST: files[COUNTER]}) == "swapped"
    assert reason({**files, COUNTER: files[MANIFEST]}) == "swapped"
    # The same number in another life of the cache, under the same key.
    begun = Platter({**files, MANIFEST: b""})
    keeper = vault(begun)
    with pytest.raises(Refused):
        keeper.open()
    keeper.save(large(30))
    assert reason({**begun.files, SEGMENT: files[SEGMENT]}) == "swapped"


def test_a_whole_older_cache() -> None:
    old = saved(large(3))
    for change in (without(large(3), "e1"), replace(large(3), retired=("a1",)), Kept(banned="stolen")):
        platter = Platter(old.files)
        keeper = vault(platter)
        keeper.open()
        keeper.save(change)
        older = {place: data for place, data in old.files.items() if place[0] == "cache"}
        files = {place: data for place, data in platter.files.items() if place[0] != "cache"} | older
        assert reason(files) == "rollback"
        begins_anew(files)


def test_an_older_copy_of_the_same_generation_is_as_good_as_a_crash() -> None:
    platter = saved(small())
    older = dict(platter.files)
    keeper = vault(platter)
    keeper.open()
    keeper.save(replace(small(), position=99, floor=small().floor))
    # Nothing was taken away in between but by the first save of a process, which raises it for the time floor.
    assert keeper.generation == 2
    keeper.save(replace(small(), position=100))
    newer = dict(platter.files)
    keeper.save(replace(small(), position=101, svids={**small().svids, "e1": svid(8)}))
    files = {place: data for place, data in platter.files.items() if place[0] != "cache"}
    assert reason(files | {place: data for place, data in newer.items() if place[0] == "cache"}) == ""
    assert reason(files | {place: data for place, data in older.items() if place[0] == "cache"}) == "rollback"


def test_a_cache_of_before_a_refusal_never_comes_back() -> None:
    platter = saved(large(3))
    old = {place: data for place, data in platter.files.items() if place[0] == "cache"}
    platter.files[MANIFEST] += b"x"
    keeper = vault(platter)
    with pytest.raises(Refused):
        keeper.open()
    keeper.save(large(2))
    files = {place: data for place, data in platter.files.items() if place[0] != "cache"} | old
    assert reason(files) == "other_life"


def test_another_nodes_cache() -> None:
    platter = Platter()
    vault(platter, OTHER).save(large(3))
    theirs = {place: data for place, data in platter.files.items() if place[0] == "cache"}
    ours = {place: data for place, data in saved().files.items() if place[0] != "cache"}
    assert reason(ours | theirs) == "other_node"
    # A whole copied disk, key and counter too.
    assert reason(platter.files) == "other_node"
    assert reason(theirs) == "missing_key"
    begins_anew(platter.files)


def test_the_key_or_counter_of_another_installation() -> None:
    one, two = saved(TINY).files, saved(TINY).files
    assert reason({**one, KEY: two[KEY]}) == "other_key"
    assert reason({**one, COUNTER: two[COUNTER]}) == "other_key"
    assert reason({**one, COUNTER: two[COUNTER], KEY: two[KEY]}) == "other_key"
    begins_anew({**one, KEY: two[KEY]})


def test_what_is_set_aside_is_the_last_that_was_refused() -> None:
    platter = saved(large(3))
    platter.files[MANIFEST] += b"first"
    platter.files["cache", "note"] = b"of a person"
    for word in (b"first", b"second"):
        if word == b"second":
            platter.files[MANIFEST] += word
        keeper = vault(platter)
        with pytest.raises(Refused):
            keeper.open()
        keeper.save(large(1))
        aside = {name: data for (folder, name), data in platter.files.items() if name.startswith(ASIDE)}
        assert sorted(aside) == ["refused-manifest", "refused-segment-1"]
        assert aside["refused-manifest"].endswith(word)
    assert platter.files["cache", "note"] == b"of a person"


def _passphrase(path: Path, text: str) -> Callable[[Platter], Vault]:
    path.touch(mode=0o600)
    path.write_text(text)

    def open_(platter: Platter) -> Vault:
        outside = platter.folder("data")
        key: SealingKey = PassphraseKey(outside, SecretFile(path), os.urandom)
        return Vault(platter.folder("cache"), outside, key, NODE, os.urandom)

    return open_


@pytest.fixture
def fast_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cache.keys._FIGURES", (2**14, 8, 1))


def test_passphrase(tmp_path: Path, fast_scrypt: None) -> None:
    right = _passphrase(tmp_path / "right", "correct horse battery\n")
    platter = Platter()
    right(platter).save(TINY)
    assert same(right(platter).open(), TINY)
    assert b"correct" not in b"".join(platter.files.values())
    wrong = _passphrase(tmp_path / "wrong", "correct horse cattery\n")
    assert reason(platter.files, wrong) == "wrong_passphrase"
    begins_anew(platter.files, wrong)
    # The other sealing, both ways.
    assert reason(platter.files) == "other_sealing"
    assert reason(saved().files, right) == "other_sealing"
    # The file went away, or shrank, while the agent was down.
    key = right(platter)
    (tmp_path / "right").write_text("short")
    with pytest.raises(Refused, match="no_passphrase"):
        key.open()
    (tmp_path / "right").unlink()
    with pytest.raises(Refused, match="no_passphrase"):
        key.open()


@pytest.mark.parametrize(
    "figures", ["1024 8 1", "16383 8 1", "99999999 8 1", "16384 1 1", "16384 8 0", "16384 8 99", "16384 999 1"]
)
def test_figures_of_scrypt_that_are_weak_or_huge(tmp_path: Path, fast_scrypt: None, figures: str) -> None:
    open_ = _passphrase(tmp_path / "p", "correct horse battery")
    platter = Platter()
    open_(platter).save(TINY)
    changed = platter.files[KEY].replace(b"16384 8 1", figures.encode())
    assert reason({**platter.files, KEY: changed}, open_) == "damaged_key"


def _records(keeper: Vault, data: bytes) -> dict[str, tuple[int, int]]:
    """Where each record lies in the file of the only segment."""
    life = keeper._life
    assert life is not None
    (segment,) = life.segments
    box, sealed = life.sealer.open(segment.name, data)
    start, places = len(data) - len(sealed), {}
    from agent.cache.segments import OpenSegment

    for name, size, _ in OpenSegment(life.sealer, segment, data)._listed:
        places[name] = (start, start + size)
        start += size
    del box
    return places


def test_keys_show_nothing(tmp_path: Path) -> None:
    platter = Platter()
    key = MachineKey(platter.folder("data"), lambda size: b"s" * size)
    secret = key.make()
    assert "s" * 32 not in repr(key) and secret.hex() not in repr(key) + str(platter.log)
    assert "KEY" not in repr(TINY) and "TOKEN" not in repr(small())


def test_one_copy_is_set_aside_however_many_segments_it_had() -> None:
    platter = saved(*(replace(large(40), svids={**large(40).svids, "e3": svid(60 + n)}) for n in range(3)))
    for kept in (large(1), large(2)):
        platter.files[MANIFEST] += b"x"
        keeper = vault(platter)
        with pytest.raises(Refused):
            keeper.open()
        keeper.save(kept)
    aside = sorted(name for folder, name in platter.files if name.startswith(ASIDE))
    assert aside == ["refused-manifest", "refused-segment-1"]


def test_a_bit_in_a_record_that_a_newer_one_replaced() -> None:
    platter = saved(large(30))
    keeper = vault(platter)
    keeper.open()
    start, end = _records(keeper, platter.files[SEGMENT])["svid/e3"]
    keeper.save(replace(large(30), svids={**large(30).svids, "e3": svid(77)}))
    changed = bytearray(platter.files[SEGMENT])
    changed[(start + end) // 2] ^= 1
    assert reason({**platter.files, SEGMENT: bytes(changed)}) == "damaged"
