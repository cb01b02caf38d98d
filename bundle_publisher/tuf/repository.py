"""The round that keeps a protected publication true on every target (bundle_publisher.publish.Round).

 1. read what the target holds, and take over what is newer there of any domain's role
 2. cut the next edition, if what is published does not say what is wanted, or grows old
 3. note what will be new, and what will not be needed any more (`superseded`)
 4. write the files that are missing, those first on which others rest; no file is ever changed, only a damaged one mended
 5. write the timestamp over exactly the one that was read in 1; somebody else was quicker: from 1 again
 6. remove what has not been needed for a while
 7. write the manifests that are missing: they are large, and no bundle waits for them

Until 5 readers see the edition before, from 5 on the new one, and a round that ends anywhere is simply begun again. Two
publishers that work at once take each other's newer parts over, so neither goes backwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tuf.api.metadata import Root  # type: ignore[attr-defined]  # it does not say what it exports

from bundle_publisher.targets.port import Document, Target
from bundle_publisher.tuf import published, superseded
from bundle_publisher.tuf import root as roots
from bundle_publisher.tuf.delegated import open_role, role_file
from bundle_publisher.tuf.edition import (
    ASK_ALWAYS,
    Edition,
    Part,
    Top,
    Wanted,
    clash,
    cut,
    leads,
    newest_of,
    publishable,
    shows,
)
from bundle_publisher.tuf.metadata import Signer
from bundle_publisher.tuf.online import OnlineKeys
from bundle_publisher.tuf.published import Published
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces
from trustfed.spiffe.ids import TrustDomain

NAME = "tuf"
TIMESTAMP_TTL = timedelta(hours=1)
CONFLICTS = 8
AT_ONCE = 8
RECUTS, RECUT_SECONDS = 12, 600.0
"""How often a target may have a new edition cut, because a version is taken there: so often at once, then in ten minutes."""
LOOK_AGAIN = timedelta(days=1)
"""How often every file of a target is read, and mended if something else damaged it."""
MAX_REMOVED = 500  # files, in one round

_log = logs.get("publisher.tuf")


class Taken(Exception):
    """A file of this version is there with another content."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


@dataclass
class _Seen:
    """What is known of one target: files that are there, and the names of the edition that it showed last."""

    there: set[str] = field(default_factory=set)
    shown: set[str] | None = None
    looked: datetime | None = None
    roots: int = 0


class Repository:
    """The protected publication of one hub. `wanted()` gives what is to be published now; without a root: nothing."""

    name = NAME

    def __init__(
        self,
        wanted: Callable[[], Wanted],
        signer: Signer,
        keys: OnlineKeys,
        clock: Clock,
        ttl: timedelta = TIMESTAMP_TTL,
    ) -> None:
        """`ttl` is the life of a timestamp: how long a reader can be shown old news."""
        self._wanted, self._signer, self._keys, self._clock, self._ttl = wanted, signer, keys, clock, ttl
        self._edition: Edition | None = None
        self._said: Wanted | None = None  # what the edition was made of
        self._taken_over: dict[str, Part] = {}
        self._above = 0
        self._cutting = asyncio.Lock()
        self._seen: dict[int, _Seen] = {}
        self._recuts = Paces(RECUTS, RECUT_SECONDS)
        self._chain: tuple[tuple[bytes, ...], list[Root]] = ((), [])

    @property
    def edition(self) -> Edition | None:
        """What was last published, or is about to be."""
        return self._edition

    def due(self, now: datetime) -> datetime | None:
        """See Round."""
        return self._edition.top.due(self._ttl) if self._edition and self._wanted().roots else None

    async def bring(self, target: Target) -> None:
        """See Round. Raises what the target and the key store raise, and Conflict when others write all the time."""
        for _ in range(CONFLICTS):
            try:
                if await self._round(target):
                    return
            except Taken as taken:
                # Every target gets what is cut for one: who says at each try that a version is taken moves them all.
                if not self._recuts.take(str(id(target)), self._clock.monotonic()):
                    raise Conflict(
                        f"version {taken.version} is taken there by something else, again and again",
                        hint="who else writes there? what is it?",
                    ) from None
                self._above = max(self._above, taken.version)
        raise Conflict("tuf/timestamp.json changes faster than it can be written", hint="who else writes there?")

    async def _round(self, target: Target) -> bool:
        wanted, now = self._wanted(), self._clock.now()
        if not wanted.roots:
            return True
        seen = self._seen.setdefault(id(target), _Seen())
        chain = self._open(wanted.roots)
        if seen.roots != len(wanted.roots):
            await published.check_no_later_root(target, wanted.roots)
        held = await published.read(target, chain, self._edition.top if self._edition else None)  # 1
        await self._take_over(target, wanted, held)
        edition = await self._next(wanted.roots, held.top)  # 2
        if edition is None:
            return False
        same = edition.top.timestamp_data == held.data
        if seen.looked is None or seen.looked + LOOK_AGAIN <= now:
            seen.there.clear()
            seen.looked = now
        files = await asyncio.to_thread(edition.files)
        large = edition.large()
        names = {document.name for phase in files for document in phase} | set(large)
        if not same:
            await self._note(target, seen, held.top, names)  # 3
        for phase in files:
            await self._write(target, seen, phase, likely=same)  # 4
        if not same:
            try:
                await target.write(edition.timestamp(), held.tag)  # 5
            except Conflict:
                return False
            _log.info(
                "protected publication written",
                timestamp=edition.top.timestamp.signed.version,
                snapshot=edition.top.snapshot.signed.version,
                domains=len(edition.parts),
            )
        seen.there &= names
        seen.shown, seen.roots = names, len(wanted.roots)
        swept = await self._sweep(target, names, edition)  # 6
        await self._write_large(target, seen, wanted, large)  # 7
        return swept

    def _open(self, documents: tuple[bytes, ...]) -> list[Root]:
        if self._chain[0] != documents:
            self._chain = (documents, roots.open_chain(documents))
        return self._chain[1]

    async def _take_over(self, target: Target, wanted: Wanted, held: Published) -> None:
        """Keep what another publisher knows more of; what is damaged there, or of a domain that was removed, is not kept."""
        if held.top is None or not held.top.current:
            return
        for name, listed in held.top.roles().items():
            ours = max((held.role.version for held in self._parts_of(wanted, name)), default=0)
            if listed.version <= ours or (name in wanted.keys and wanted.keys[name] is None):
                continue
            try:
                key = wanted.keys.get(name) or held.top.key_of(name)
                found = await published.part(target, name, listed, key) if key else None
            except Invalid:
                found = None
            if found:
                self._taken_over[name] = found
                _log.info("taken over from the target", domain=name, version=listed.version)

    def _parts_of(self, wanted: Wanted, name: str) -> Iterable[Part]:
        return [held[name] for held in (wanted.parts, self._taken_over) if name in held]

    def _merged(self, wanted: Wanted) -> Wanted:
        """`wanted` with what was taken over and is still newer."""
        parts = dict(wanted.parts)
        for name, part in list(self._taken_over.items()):
            known = parts.get(name)
            newer = known is None or known.role.version < part.role.version
            if newer and wanted.keys.get(name, part.key) == part.key:
                parts[name] = part
            else:
                del self._taken_over[name]
        return replace(wanted, parts=parts)

    async def _next(self, begun: tuple[bytes, ...], held: Top | None) -> Edition | None:
        """The edition to publish: the newest there is, if it says all; else a new one above all there are.

        None when another root was installed since the round was begun: what it read was judged under the one before.
        """
        async with self._cutting:
            wanted, now, known = self._wanted(), self._clock.now(), self._edition
            if wanted.roots != begun:
                return None
            chain = self._open(wanted.roots)
            if known is not None and known.roots != wanted.roots:
                held, known = self._under(chain[-1], known, held)
            fresh = known is not None and now < known.top.due(self._ttl)
            same = self._said is wanted and known is not None and known.roots == wanted.roots and held is known.top
            if known is not None and fresh and same and self._above < _oldest(known.top):
                return known
            # What only replaced keys signed binds nobody: readers forget it with the new root, too (TUF §5.3.11).
            before = [top for top in (known.top if known else None, held) if top is not None and top.current]
            # In a thread: of hundreds of domains this takes a tenth of a second.
            top, ready, good = await asyncio.to_thread(self._judge, self._merged(wanted), before, now)
            if top is None or not good:
                names = await self._keys.names(chain[-1])
                top = await cut(ready, before, self._signer, names, now, self._ttl, above=self._above)
            self._edition, self._said = Edition(wanted.roots, top, ready.parts), wanted
            return self._edition

    def _under(self, root: Root, known: Edition, held: Top | None) -> tuple[Top | None, Edition]:
        """What is known, judged under a new root: it may name other keys, perhaps because a thief has the old ones."""
        current = published.signed_under(root, known.top.timestamp, known.top.snapshot, known.top.targets)
        top = replace(known.top, current=current)
        if not current:
            self._taken_over.clear()
            for seen in self._seen.values():
                seen.there.clear()
        return (top if held is known.top else held), replace(known, top=top)

    def _judge(self, wanted: Wanted, before: Sequence[Top], now: datetime) -> tuple[Top | None, Wanted, bool]:
        """(the newest of `before`, what may be published, whether the newest says just that)."""
        ready, top = publishable(wanted, before), newest_of(before)
        good = (
            top is not None
            and leads(top, before)
            and max(clash(before), self._above) < _oldest(top)
            and now < top.due(self._ttl)
            and shows(top, ready)
        )
        return top, ready, good

    async def _write(self, target: Target, seen: _Seen, documents: Sequence[Document], *, likely: bool) -> None:
        """Let these be there, a few at a time; the first failure ends it, and what was written is not written again."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(document: Document) -> None:
            async with slots:
                await _put(target, document, likely=likely)
            seen.there.add(document.name)

        missing = [document for document in documents if document.name not in seen.there]
        try:
            async with asyncio.TaskGroup() as tasks:
                for document in missing:
                    tasks.create_task(one(document))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _write_large(
        self, target: Target, seen: _Seen, wanted: Wanted, large: Mapping[str, Callable[[], Document | None]]
    ) -> None:
        """Let the files of manifests be there too. No bundle waits for one: with news this ends, and the next round goes on;
        one that cannot be written keeps no other away, and is what is raised in the end.
        """
        failed: Exception | None = None
        for name in sorted(set(large) - seen.there):
            if self._wanted() != wanted:
                return
            try:
                document = await asyncio.to_thread(large[name])
                if document is not None:
                    await self._write(target, seen, [document], likely=False)
            except Exception as error:  # whatever it is: a bundle may be waiting behind it
                failed = failed or error
        if failed is not None:
            raise failed

    async def _note(self, target: Target, seen: _Seen, held: Top | None, names: set[str]) -> None:
        """Write down, before anything else, what this edition brings and what it needs no more."""
        shown = seen.shown if seen.shown is not None else await _names(target, held, names)
        now = int(self._clock.now().timestamp())
        for _ in range(CONFLICTS):
            there = await target.read(superseded.NAME)
            files = superseded.settled(superseded.read(there.data if there else None), names)
            files = superseded.noted(files, (shown | names) - (shown & names), now)
            if await _list(target, files, there.tag if there else None):
                return
        raise Conflict(f"{superseded.NAME} changes faster than it can be written", hint="who else writes there?")

    async def _sweep(self, target: Target, names: set[str], edition: Edition) -> bool:
        """Remove what is due. False if another edition was shown meanwhile: it may need what went, and is looked at."""
        there = await target.read(superseded.NAME)
        if there is None:
            return True
        files = superseded.settled(superseded.read(there.data), names)
        now, grace = int(self._clock.now().timestamp()), int(2 * self._ttl.total_seconds())
        gone = superseded.due(files, now, grace)[:MAX_REMOVED]
        if gone and not await _shown(target, edition):
            return False
        for name in gone:
            held = await target.read(name)
            if held is not None:
                await target.remove(name, held.tag)
        if gone:
            # If somebody else was quicker, what is gone is simply looked for once more in a later round.
            await _list(target, {name: at for name, at in files.items() if name not in gone}, there.tag)
        return not gone or await _shown(target, edition)


async def _shown(target: Target, edition: Edition) -> bool:
    """Whether this is still the edition that readers are shown."""
    held = await target.read(edition.timestamp().name)
    return held is not None and held.data == edition.top.timestamp_data


def _oldest(top: Top) -> int:
    return min(top.targets.signed.version, top.snapshot.signed.version, top.timestamp.signed.version)


async def _put(target: Target, document: Document, *, likely: bool) -> None:
    """Let an immutable file be there. Taken when another publisher used its version; a damaged file is mended."""
    if not likely:
        try:
            await target.write(document, None)
        except Conflict:
            pass
        else:
            return
    held = await target.read(document.name)
    if held is not None and (held.data == document.data or roots.same(held.data, document.data)):
        return
    if held is not None:
        _check_ours_to_mend(document, held.data)
        _log.warning("a published file was damaged", document=document.name)
    await target.write(document, held.tag if held else None)


def _check_ours_to_mend(document: Document, held: bytes) -> None:
    version, _, kind = document.name.removeprefix("tuf/").removesuffix(".json").partition(".")
    if not document.name.startswith("tuf/"):
        return
    if kind in ("targets", "snapshot"):
        raise Taken(int(version))
    if kind == "root":
        try:
            other = roots.standing(held)
        except TrustfedError:
            return
        if not other.missing:
            raise Denied(
                f"{document.name} is there already, and it is the root of another publication",
                hint="give each hub a place of its own, or empty this one",
            )


async def _names(target: Target, top: Top | None, needed: set[str]) -> set[str]:
    """The names that a publication found at a target needs; of a role that stays they are among `needed` already."""
    if top is None:
        return set()
    found = {f"tuf/{top.targets.signed.version}.targets.json", f"tuf/{top.snapshot.signed.version}.snapshot.json"}
    for domain, listed in top.roles().items():
        name = role_file(domain, listed.version)
        if name in needed:
            continue
        found.add(name)
        held = await target.read(name)
        try:
            key = top.key_of(domain)
            if held is not None and key is not None:
                found |= set(open_role(held.data, TrustDomain(domain), key).files)
        except TrustfedError:
            continue
    return found


async def _list(target: Target, files: dict[str, int], tag: str | None) -> bool:
    """Write the list of superseded files; False when somebody else was quicker."""
    try:
        await target.write(Document(superseded.NAME, superseded.write(files), cache_control=ASK_ALWAYS), tag)
    except Conflict:
        return False
    return True
