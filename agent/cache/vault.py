"""The cache on its disks: opened once (opening), then saved again and again, and every moment of it can be opened again.

 1. what changed goes into a new segment; it and the new manifest are written beside what holds, and synced with their names
 2. the manifest takes the place of the old one, in one step
 3. that is synced; from here on the new state outlasts anything
 4. the counter is raised, if the generation rose: so it is never above what the disk surely has, and a crash is no rollback
 5. segments that nothing lists any more are removed

After a crash the first of these that was not done is done when the cache is opened. A state that must not come back (a ban, a
removal, a taint: generation.denies) and whose successor cannot be written is taken away: better no cache than that one.
"""

from __future__ import annotations

import contextlib
import re

from agent.cache import counter, opening
from agent.cache.counter import Counter
from agent.cache.disk import Disk
from agent.cache.generation import denies, unsafe_to_go_back
from agent.cache.keys import SealingKey
from agent.cache.life import Life, difference
from agent.cache.port import Kept
from agent.cache.records import encode, parts_of, soft
from agent.cache.refusal import Refused
from agent.cache.sealing import Randomness, Sealer
from agent.cache.segments import (
    MANIFEST,
    MAX_RECORDS,
    MAX_SEGMENT_BYTES,
    MAX_TOTAL_BYTES,
    Manifest,
    seal_manifest,
    seal_segment,
)
from trustfed.errors import Invalid, NotFound, TrustfedError
from trustfed.spiffe.ids import SpiffeId

ASIDE = "refused-"
"""Before the names of the files of the last cache that was refused."""
NEW = MANIFEST + ".new"
_OURS = re.compile(r"manifest|manifest\.new|segment-\d{1,18}", re.ASCII)


class Vault:
    """One node's cache. Not for two threads at once."""

    def __init__(self, cache: Disk, outside: Disk, key: SealingKey, node: SpiffeId, randomness: Randomness) -> None:
        self._cache, self._outside, self._key = cache, outside, key
        self._node, self._randomness = node, randomness
        self._life: Life | None = None
        self._refused = False

    @property
    def generation(self) -> int:
        """The generation that holds, 0 before the first save."""
        return self._life.generation if self._life else 0

    @property
    def records(self) -> int:
        """How many records hold."""
        return len(self._life.where) if self._life else 0

    @property
    def size(self) -> int:
        """Bytes of the segments on the disk."""
        return sum(segment.size for segment in self._life.segments) if self._life else 0

    def open(self) -> Kept | None:
        """What was kept, None when nothing ever was. Raises Refused: then the next save sets it aside, and begins anew.

        A crash at any moment of `save` is no reason to refuse.
        """
        try:
            life = opening.read(self._cache, self._outside, self._key, self._node, self._randomness)
        except Refused:
            self._refused = True
            raise
        except TrustfedError as error:
            self._refused = True
            raise Refused("unreadable", error.message, error.hint) from None
        if life is None:
            return None
        self._life = life
        # What a crash left undone. In this order: the counter may rise only above what would outlast a loss of power now.
        with contextlib.suppress(TrustfedError, Refused):  # the next save does it
            self._sync(life)
            self._settle(life)
        return life.kept

    def hurry(self, kept: Kept) -> bool | None:
        """Whether `kept` should be saved soon; None when there is nothing to save at all."""
        life = self._life
        if life is None or life.kept is None or life.unsettled:
            return True
        changed, gone = difference(life.parts, parts_of(kept))
        return not all(map(soft, changed | gone)) if changed or gone else None

    def save(self, kept: Kept) -> None:
        """`kept` is durable. Raises TrustfedError, Refused: then the old state holds, or the new one, and no other; none
        if `kept` denies what the old one gives.
        """
        outdated: Life | None = None
        try:
            life = self._life = self._life or self._begun()
            if life.kept is not None and denies(life.kept, kept):
                outdated = life
            self._write(life, kept)
            self._sync(life)
            outdated = None
            self._settle(life)
        except Exception as error:
            # Also when somebody took the folder away: what it held must be written again, all of it.
            if outdated is not None or isinstance(error, NotFound):
                self._life = None
            if outdated is not None:
                self._take_away(outdated)
            raise

    def _take_away(self, life: Life) -> None:
        """The state on the disk is never opened again. Removing needs no room; where even that fails, the counter may go."""
        try:
            self._cache.remove(MANIFEST)
            self._cache.sync()
        except (TrustfedError, Refused):
            with contextlib.suppress(TrustfedError, Refused):
                counter.write(self._outside, life.sealer, Counter(life.id, life.generation + 1))

    def _begun(self) -> Life:
        """A new cache; what lies there and was refused is set aside, in the place of the last such."""
        self._cache.make()
        names = self._cache.names()
        held = [name for name in names if _OURS.fullmatch(name)]
        aside = self._refused or MANIFEST in held
        if held and aside:
            for name in names:
                if name.startswith(ASIDE):
                    self._cache.remove(name)
        for name in held:
            if aside:
                self._cache.rename(name, ASIDE + name)
            else:
                self._cache.remove(name)
        self._cache.sync()
        self._refused = False
        try:
            key = self._key.open()
            self._outside.sync()  # it may be there by a try of ours that failed at this
        except (NotFound, Refused):
            key = self._key.make()
        life = Life(Sealer(key, self._node, self._randomness), self._randomness(counter.LIFE))
        # Before the first manifest: a manifest without a counter is never our doing.
        counter.write(self._outside, life.sealer, Counter(life.id, 0))
        return life

    def _write(self, life: Life, kept: Kept) -> None:
        """Steps 1 and 2."""
        parts = parts_of(kept)
        changed, gone = difference(life.parts, parts)
        if not changed and not gone:
            return
        if len(parts) > MAX_RECORDS:
            raise Invalid(f"{len(parts)} records are more than the {MAX_RECORDS} that a cache keeps")
        rises = life.kept is None or unsafe_to_go_back(life.kept, kept, life.floor)
        generation = life.generation + rises
        segments, names, gone = life.merged(parts, changed, gone, whole=bool(kept.banned))
        # A number is never used twice: what a failed save left may be listed by a manifest that did get through.
        life.number += 1
        contents = ((name, encode(name, parts[name])) for name in names)
        segment, data, sizes = seal_segment(life.sealer, life.number, contents, gone)
        segments.append(segment)
        if len(data) > MAX_SEGMENT_BYTES or sum(each.size for each in segments) > MAX_TOTAL_BYTES:
            raise Invalid(f"the cache would have more than {MAX_SEGMENT_BYTES} bytes", hint="fewer entries per node")
        sealed = seal_manifest(life.sealer, Manifest(self._node, life.id, generation, tuple(segments)))
        try:
            self._cache.remove(segment.name)
            self._cache.write_new(segment.name, data)
            self._cache.remove(NEW)
            self._cache.write_new(NEW, sealed)
            self._cache.sync()
            self._cache.rename(NEW, MANIFEST)
        except (TrustfedError, Refused):
            with contextlib.suppress(TrustfedError, Refused):
                if opening.found(self._cache, MANIFEST) != sealed:
                    self._cache.remove(segment.name)
                    self._cache.remove(NEW)
            raise
        life.unsettled = True
        life.generation, life.segments, life.kept, life.parts = generation, segments, kept, parts
        life.floor = kept.floor if rises else life.floor
        numbers = {each.number for each in segments}
        life.gone = {number: names for number, names in life.gone.items() if number in numbers}
        life.gone[segment.number] = gone
        life.where = {name: place for name, place in life.where.items() if name in parts}
        life.where.update((name, (segment.number, size)) for name, size in sizes.items())

    def _sync(self, life: Life) -> None:
        """Step 3."""
        if life.unsettled:
            self._cache.sync()

    def _settle(self, life: Life) -> None:
        """Steps 4 and 5, also those of a save before that failed there."""
        if not life.unsettled:
            return
        self._raise_counter(life)
        listed = {segment.name for segment in life.segments} | {MANIFEST}
        banned = life.kept is not None and bool(life.kept.banned)
        for name in self._cache.names():
            # A banned node holds no key any more, not even one that was set aside.
            if (_OURS.fullmatch(name) and name not in listed) or (banned and name.startswith(ASIDE)):
                self._cache.remove(name)
        life.unsettled = False

    def _raise_counter(self, life: Life) -> None:
        if life.generation > life.counter:
            counter.write(self._outside, life.sealer, Counter(life.id, life.generation))
            life.counter = life.generation
