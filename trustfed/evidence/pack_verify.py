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
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trustfed.errors import Invalid, TrustfedError
from trustfed.evidence import mirrored, pack, pack_share
from trustfed.evidence.definition import DEFINITION, Definition, read_definition
from trustfed.evidence.mirrored import Decisions
from trustfed.evidence.pack import CUT, Keys, Reader
from trustfed.evidence.pack_figures import PackFigures, computed, figures_of
from trustfed.evidence.trust import Trust
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.log_key import open_log_key
from trustfed.journal.events import Event, Fact
from trustfed.journal.merkle.checkpoint import open_checkpoint, origin_of, peek_checkpoint
from trustfed.journal.merkle.hashing import EMPTY_ROOT, leaf_hash
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
    doubt: bool = False
    """It holds, and yet somebody should look."""


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
        checking = _Checking(path, reader, trust, progress)
        checking.run()
        return checking.verdict


class _Checking:
    def __init__(self, path: Path, reader: Reader, trust: Trust, progress: Progress) -> None:
        self._path = path
        self._reader, self._trust, self._progress = reader, trust, progress
        self._manifest = reader.manifest
        self.verdict = Verdict(trust_domain=self._manifest.trust_domain)
        self._domain = TrustDomain.parse(self._manifest.trust_domain)
        self._cuts: dict[int, _Cut] = {0: _Cut(0, EMPTY_ROOT, 0)}
        """Ledger size → the first checkpoint of it in the journal."""
        self._held = {one.size for one, _ in trust.checkpoints if one.origin == self._origin("journal")}
        self._roots: dict[int, bytes] = {}
        """Of the journal, at the sizes that the auditor holds."""
        self._decisions = Decisions()
        self._wrong: list[str] = []
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
        ours = resources.files("trustfed.evidence").joinpath("auditor.py").read_bytes()
        if pack.SECOND in self._reader.names() and self._reader.single(pack.SECOND) == ours:
            self.verdict.holds(
                "program", f"{pack.SECOND} is the second verifier that this program ships, byte for byte"
            )
        else:
            says = (
                f"{pack.SECOND} is not ours: another version made the pack, or somebody put a program of theirs into it"
            )
            self.verdict.findings.append(Finding("program", says, False, doubt=True))
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
                self._cuts.setdefault(size, _Cut(event.at, root, position))
            elif event.kind == "cluster.keyed":
                # The first alone: who appends another one to a journal of somebody else's does not become its owner.
                self._keyed = self._keyed or event.body.get("publication_key")
            else:
                self._decisions.take(position, event)
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
        for name in sorted({key.name for key in seen - {log, *self._trust.cosigners}}):
            self.verdict.holds("cosigner", f"cosigned by {name}, whom you did not name: to you that proves nothing")

    def _ledger(self) -> None:
        manifest = self._manifest
        span, begin = manifest.ledger, manifest.ledger.first - 1
        roots = [bytes.fromhex(text) for text in msgspec.json.decode(self._reader.single(pack.OPENING), type=list[str])]
        tree = CompactRange(begin, list(zip(levels_of(begin), roots, strict=True)))
        opening = self._cuts.get(begin)
        if opening is None or opening.root != tree.root():  # 5
            self.verdict.fails("opening", f"no checkpoint in the journal says that the ledger was so at {begin}")
        definition = read_definition(self._reader.single(pack.DEFINITION))
        if definition.hash != manifest.definition:
            self.verdict.fails("definition", f"it is {definition.hash}, the manifest names {manifest.definition}")
        if definition != DEFINITION:  # 7
            says = f"{definition.hash} counts otherwise than version {DEFINITION.version} that this program knows"
            self.verdict.fails("definition", f"{says}, {DEFINITION.hash}")
        of = 1 if self.verdict.faults else pack_share.shares(span.count)
        if of == 1:
            tally = computed(manifest, definition, self._facts(tree))
        else:
            with pack_share.counting(self._path, manifest, definition.body(), of) as counting:
                for _ in self._glances(tree):
                    pass
                tally = counting.tally()
        for why in self._wrong:
            self.verdict.fails("mirror", why)
        if span.last and span.last not in self._cuts:
            self.verdict.fails("ledger", f"no checkpoint in the journal covers it up to {span.last}")
        else:
            self.verdict.holds("ledger", f"{span.count} facts, without a gap, between checkpoints in the journal")
        self._scope(definition, tally.longest_ms)
        self.verdict.figures = figures_of(manifest, definition, tally)
        self._figures(self.verdict.figures)

    def _facts(self, tree: CompactRange) -> Iterator[tuple[int, Fact]]:
        """The facts, each compared with what it mirrors (6)."""
        for position, line in self._hashed(tree):
            fact = _FACT.decode(line)
            self._compare(position, fact)
            yield position, fact

    def _glances(self, tree: CompactRange) -> Iterator[None]:
        """The same, read no further than that needs: others count."""
        for position, line in self._hashed(tree):
            if mirrored.mirrors(pack_share.GLANCE.decode(line).kind):
                self._compare(position, _FACT.decode(line))
        yield

    def _hashed(self, tree: CompactRange) -> Iterator[tuple[int, bytes]]:
        """The ledger's lines, taken into its tree. Raises Invalid where it is not the one that the journal covers (5)."""
        last, append, cuts = tree.size, tree.append, self._cuts
        for position, line in self._lines("ledger", self._manifest.ledger):
            append(leaf_hash(line))
            if position in cuts:
                if cuts[position].root != tree.root():
                    raise Invalid(f"entries {last + 1} to {position} are not what the journal's checkpoint covers")
                last = position
            yield position, line

    def _compare(self, position: int, fact: Fact) -> None:
        why = self._decisions.compare(fact)
        if why and len(self._wrong) < mirrored.MAX_NAMED:
            self._wrong.append(f"fact {position}: {why}")

    def _scope(self, definition: Definition, seen_ms: int) -> None:
        """10: nothing of the scope is missing because the entries begin too late, or end too early."""
        manifest = self._manifest
        opening, closing = (self._cuts.get(at, _NO_CUT) for at in (manifest.ledger.first - 1, manifest.ledger.last))
        for why in self._decisions.omitted(opening.position, closing.at - definition.close_ms):  # 6
            self.verdict.fails("mirror", why)
        # What is not here could have lived longer than all that is: its authority, which is in the journal, cannot hide.
        longest = max(seen_ms, self._decisions.longest_ms(definition, manifest.from_ms, manifest.to_ms))
        if opening.position and opening.at > manifest.from_ms - longest:
            self.verdict.fails("scope", "the facts begin when what falls due in it was in use already")
        if manifest.ledger.last < max(self._cuts) and closing.at < manifest.to_ms + longest + definition.close_ms:
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


class _Cut(NamedTuple):
    """A checkpoint of the ledger: when it was recorded, its root, and its position in the journal."""

    at: int
    root: bytes
    position: int


_NO_CUT = _Cut(0, b"", 0)


def _code_of(step: Callable[[], None]) -> str:
    return {"_journal": "journal", "_signatures": "signature", "_ledger": "ledger", "_before": "checkpoint"}[
        step.__name__
    ]
