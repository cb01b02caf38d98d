"""What a pack proves, found out offline, from the pack and what the auditor holds.

1. the archive holds what the manifest names       2. the journal hashes to the checkpoint's root
3. the checkpoint is signed by the log's key, which the domain's publication key endorses
4. the cosignatures of those who are believed      5. the ledger's entries lie between two checkpoints that the journal holds
6. facts that mirror a decision agree with it      7. the definition is the one that this program knows
8. the figures, computed anew, are those claimed   9. what the auditor holds from before fits
10. the entries reach as far as the scope depends on

Every step that fails is named, and the rest is looked at all the same where it can be. Without anything to trust a pack can
only be consistent: whoever makes all of it anew with keys of their own has a consistent one, too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from trustfed.errors import TrustfedError
from trustfed.evidence import mirrored, pack
from trustfed.evidence.definition import DEFINITION, Definition, read_definition
from trustfed.evidence.facts import ISSUED
from trustfed.evidence.pack import CUT, Keys, Reader
from trustfed.evidence.pack_figures import PackFigures, computed
from trustfed.evidence.rules import SLOT_CLASS
from trustfed.evidence.trust import Trust
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.log_key import open_log_key
from trustfed.journal.events import Event, Fact
from trustfed.journal.merkle.checkpoint import open_checkpoint, origin_of, peek_checkpoint
from trustfed.journal.merkle.hashing import leaf_hash
from trustfed.journal.merkle.note import open_note
from trustfed.journal.merkle.ranges import CompactRange, levels_of
from trustfed.journal.merkle.vkey import parse_vkey
from trustfed.spiffe.ids import TrustDomain

_EVENT, _FACT = msgspec.json.Decoder(Event), msgspec.json.Decoder(Fact)
Progress = Callable[[str, int, int], None]
"""Called with what is read, how many entries were, and how many there are."""


class Outcome(StrEnum):
    """How a verification ended."""

    VERIFIED = "verified"
    CONSISTENT = "consistent; origin not established"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One step: `code` names what was looked at; `fault` whether it does not hold."""

    code: str
    says: str
    fault: bool


@dataclass
class Verdict:
    """What was found, step by step."""

    findings: list[Finding] = field(default_factory=list)
    figures: PackFigures | None = None
    trust_domain: str = ""
    origin_known: bool = False

    @property
    def faults(self) -> list[Finding]:
        """What does not hold."""
        return [finding for finding in self.findings if finding.fault]

    @property
    def outcome(self) -> Outcome:
        """The one word."""
        if self.faults:
            return Outcome.FAILED
        return Outcome.VERIFIED if self.origin_known else Outcome.CONSISTENT

    def holds(self, code: str, says: str) -> None:
        """Note what does hold."""
        self.findings.append(Finding(code, says, False))

    def fails(self, code: str, says: str) -> None:
        """Note what does not."""
        self.findings.append(Finding(code, says, True))


def verify(path: Path, trust: Trust, progress: Progress = lambda _what, _done, _of: None) -> Verdict:
    """Verify a pack. Blocks, for seconds. Raises Unreadable if the file is no pack at all; everything else is in the verdict."""
    with Reader(path) as reader:
        checking = _Checking(reader, trust, progress)
        checking.run()
        return checking.verdict


class _Checking:
    def __init__(self, reader: Reader, trust: Trust, progress: Progress) -> None:
        self._reader, self._trust, self._progress = reader, trust, progress
        self._manifest = reader.manifest
        self.verdict = Verdict(trust_domain=self._manifest.trust_domain)
        self._domain = TrustDomain.parse(self._manifest.trust_domain)
        self._cuts: dict[int, tuple[int, bytes]] = {}
        """Ledger size → (when it was first recorded, root) of each checkpoint of the ledger in the journal."""
        self._held = {one.size for one, _ in trust.checkpoints if one.origin == self._origin("journal")}
        self._roots: dict[int, bytes] = {}
        """Of the journal, at the sizes that the auditor holds."""
        self._mirrored: dict[int, Event] = {}
        self._keyed: object = None
        """The publication key, as the domain's first event has it."""

    def run(self) -> None:
        self._members()
        for step in (self._journal, self._signatures, self._ledger, self._before):
            try:
                step()
            except TrustfedError as error:
                self.verdict.fails(_code_of(step), error.message)
            except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
                self.verdict.fails(_code_of(step), f"{type(error).__name__}: {str(error)[:200]}")

    def _origin(self, log: str) -> str:
        return origin_of(self._manifest.trust_domain, log)

    def _members(self) -> None:
        changed = self._reader.changed()  # 1
        for name in changed[:20]:
            self.verdict.fails("member", f"{name[:80]} is not what the manifest says, or not named by it, or missing")
        if not changed:
            self.verdict.holds("member", f"{len(self._manifest.members)} members, each as the manifest says")

    def _lines(self, log: str, span: pack.Range) -> Iterator[tuple[int, bytes]]:
        for position, line in self._reader.lines(log, span):
            if position % 10_000 == 0:
                self._progress(log, position - span.first + 1, span.count)
            yield position, line

    def _journal(self) -> None:
        span, tree = self._manifest.journal, CompactRange()
        if span.first != 1:
            self.verdict.fails("journal", f"it begins at {span.first}: a pack holds the whole journal")
            return
        for position, line in self._lines("journal", span):
            tree.append(leaf_hash(line))
            event = _EVENT.decode(line)
            if position in self._held:
                self._roots[position] = tree.root()
            if event.kind == CUT and event.body.get("origin") == self._origin("ledger"):
                size, root = event.body["size"], base64.b64decode(event.body["root"], validate=True)
                self._cuts.setdefault(size, (event.at, root))
            elif event.kind == "cluster.keyed":
                # The first alone: who appends another one to a journal of somebody else's does not become its owner.
                self._keyed = self._keyed or event.body.get("publication_key")
            elif mirrored.of_interest(event.kind):
                self._mirrored[position] = event
        said = peek_checkpoint(self._reader.single(pack.CHECKPOINT))
        if said.origin != self._origin("journal"):
            self.verdict.fails("scope", f"the checkpoint is of {said.origin[:120]}, not of {self._origin('journal')}")
        elif (said.size, said.root) != (tree.size, tree.root()):  # 2
            self.verdict.fails(
                "journal", f"its {tree.size} events do not hash to the root of the checkpoint at {said.size}"
            )
        else:
            self.verdict.holds("journal", f"{tree.size} events, whole, hash to the checkpoint's root")

    def _signatures(self) -> None:
        keys = msgspec.json.decode(self._reader.single(pack.KEYS), type=Keys)
        publication = PublicationKey(base64.b64decode(keys.publication_key, validate=True))
        endorsed = open_log_key(base64.b64decode(keys.endorsement, validate=True), self._domain, publication)
        log = parse_vkey(keys.log)
        if endorsed.vkey != keys.log:
            self.verdict.fails("key", "the publication key endorses another log key")
        if self._keyed != keys.publication_key:
            self.verdict.fails("key", "the publication key is not the one that the journal begins with")
        offered = [parse_vkey(text) for text in keys.cosigners]
        believed = [key for key in self._trust.cosigners if key.name != log.name]
        note = self._reader.single(pack.CHECKPOINT)
        keys_asked = list({*offered, *believed})
        open_checkpoint(note, [log], origin=self._origin("journal"), cosigners=keys_asked)  # 3, 4
        self.verdict.holds(
            "signature", f"the checkpoint is signed by {log.name}, endorsed by {publication.fingerprint}"
        )
        seen = {key for key, _ in open_note(note, [log, *keys_asked])[1]}  # by key: a forger can take any name
        for key in offered:
            if key not in seen:
                self.verdict.fails("cosignature", f"{key.name} is named as cosigner and did not sign")
        if log in self._trust.log_keys or publication.fingerprint in self._trust.fingerprints:
            self._established("the log's key is one that you trust")
        elif self._trust.log_keys or self._trust.fingerprints:
            self.verdict.fails(
                "origin", f"neither {log.name}'s key nor {publication.fingerprint} is one that you trust"
            )
        for key in self._trust.cosigners:
            if key in seen:
                self._established(f"{key.name}, whom you trust, cosigned the checkpoint")
            else:
                self.verdict.fails("cosignature", f"{key.name}, whom you trust, did not cosign this checkpoint")

    def _ledger(self) -> None:
        manifest = self._manifest
        span, begin = manifest.ledger, manifest.ledger.first - 1
        roots = [bytes.fromhex(text) for text in msgspec.json.decode(self._reader.single(pack.OPENING), type=list[str])]
        tree = CompactRange(begin, list(zip(levels_of(begin), roots, strict=True)))
        if begin and self._cuts.get(begin, (0, b""))[1] != tree.root():  # 5
            self.verdict.fails("opening", f"no checkpoint in the journal says that the ledger was so at {begin}")
        definition = read_definition(self._reader.single(pack.DEFINITION))
        if definition.hash != manifest.definition:
            self.verdict.fails("definition", f"it is {definition.hash}, the manifest names {manifest.definition}")
        if definition != DEFINITION:  # 7
            says = f"{definition.hash} counts otherwise than version {DEFINITION.version} that this program knows"
            self.verdict.fails("definition", f"{says}, {DEFINITION.hash}")
        wrong: list[str] = []
        longest = 0

        def facts() -> Iterator[tuple[int, Fact]]:
            nonlocal longest
            last = begin
            for position, line in self._lines("ledger", span):
                tree.append(leaf_hash(line))
                if position in self._cuts and self._cuts[position][1] != tree.root():
                    raise _Broken(f"entries {last + 1} to {position} are not what the journal's checkpoint covers")
                last = position if position in self._cuts else last
                fact = _FACT.decode(line)
                if fact.kind == ISSUED and fact.body["slot"] in SLOT_CLASS:
                    longest = max(longest, (fact.body["not_after"] - fact.body["not_before"]) * 1000)
                why = mirrored.disagreement(fact, self._mirrored)  # 6
                if why and len(wrong) < 20:
                    wrong.append(f"fact {position}: {why}")
                yield position, fact

        try:
            figures = computed(manifest, definition, facts())
        except _Broken as broken:
            self.verdict.fails("ledger", str(broken))
            return
        for why in wrong:
            self.verdict.fails("mirror", why)
        if span.last and span.last not in self._cuts:
            self.verdict.fails("ledger", f"no checkpoint in the journal covers it up to {span.last}")
        else:
            self.verdict.holds("ledger", f"{span.count} facts, without a gap, between checkpoints in the journal")
        self._scope(definition, longest)
        self.verdict.figures = figures
        self._figures(figures)

    def _scope(self, definition: Definition, longest: int) -> None:
        """10: nothing of the scope is missing because the entries begin too late, or end too early."""
        manifest = self._manifest
        begin, end = manifest.ledger.first - 1, manifest.ledger.last
        since, until = (self._cuts.get(at, (0, b""))[0] for at in (begin, end))
        if begin and since > manifest.from_ms - longest:
            self.verdict.fails("scope", "the facts begin when what falls due in it was in use already")
        if end < max(self._cuts, default=0) and until < manifest.to_ms + longest + definition.close_ms:
            self.verdict.fails(
                "scope", "there are later facts that could tell of what fell due in it, and are not here"
            )

    def _figures(self, figures: PackFigures) -> None:
        claimed: Any = msgspec.json.decode(self._reader.single(pack.FIGURES))
        found: Any = msgspec.json.decode(msgspec.json.encode(figures))
        if claimed == found:  # 8
            self.verdict.holds("figures", "computed anew from the facts, they are those that the pack claims")
            return
        for name in sorted({*claimed, *found} if isinstance(claimed, dict) else found):
            if not isinstance(claimed, dict) or claimed.get(name) != found.get(name):
                self.verdict.fails("figures", f"{name} is claimed otherwise than the facts say")

    def _before(self) -> None:
        """9: a checkpoint that the auditor holds must be one that this very journal went through."""
        size = self._manifest.journal.last
        for one, _ in self._trust.checkpoints:
            if one.origin != self._origin("journal"):
                self.verdict.fails("checkpoint", f"the one that you hold is of {one.origin[:120]}")
            elif one.size > size:
                self.verdict.fails(
                    "checkpoint", f"the one that you hold is of {one.size} events: this pack, of {size}, is older"
                )
            elif self._roots.get(one.size) != one.root:
                self.verdict.fails("fork", f"at {one.size} events you hold another root: this journal is another one")
            else:
                self._established(f"it goes through the checkpoint of {one.size} events that you hold")

    def _established(self, says: str) -> None:
        self.verdict.origin_known = True
        self.verdict.holds("origin", says)


class _Broken(Exception):
    """The ledger's entries are not those of the log."""


def _code_of(step: Callable[[], None]) -> str:
    return {"_journal": "journal", "_signatures": "signature", "_ledger": "ledger", "_before": "checkpoint"}[
        step.__name__
    ]
