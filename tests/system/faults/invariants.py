"""What must hold whatever fails, and the book in which everything that did not is written down.

expired      no X509-SVID is given, and no JWT-SVID given or found valid, at or after its end by true time
domain       every bundle given under a trust domain's name holds that domain's authorities alone; a certificate or token
             that another domain's authority forged in its name is never accepted
withheld     an agent that runs gives what it gave before, as long as that lives: no fault elsewhere takes it away
lost         an entry, deletion, grant or serial that was acknowledged is there after every restart
backwards    no level (epoch, sequence) and no journal position is ever lower than it was: agents, clusters, hub, files
healing      with every fault gone, everything finds back by itself
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from cryptography import x509

from trustfed.errors import TrustfedError
from trustfed.proto import workload_pb2 as pb
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

RULES = ("expired", "domain", "withheld", "lost", "backwards", "healing")
_ALIKE, _MOST_ALIKE = 32, 3
_MOST_REMEMBERED = 1_000

Chain = tuple[bytes, ...]


class Book:
    """Violations and how often each rule was checked; any thread may write."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self.violations: list[str] = []
        self._alike: Counter[tuple[str, str]] = Counter()
        self.checks: Counter[str] = Counter()
        self.notes: list[str] = []

    def checked(self, rule: str, count: int = 1) -> None:
        assert rule in RULES, rule
        with self._lock:
            self.checks[rule] += count

    def violated(self, rule: str, what: str) -> None:
        assert rule in RULES, rule
        with self._lock:
            # A fault that lasts is seen with every look: its beginning says most.
            self._alike[rule, what[:_ALIKE]] += 1
            if self._alike[rule, what[:_ALIKE]] <= _MOST_ALIKE:
                self.violations.append(f"{self.seconds():7.2f} s  {rule}: {what}")

    def note(self, what: str) -> None:
        """Something worth a line in the report: a fault, a figure."""
        with self._lock:
            self.notes.append(f"{self.seconds():7.2f} s  {what}")

    def seconds(self) -> float:
        return time.monotonic() - self._began


class Levels:
    """The highest that each source was seen to hold, and when. `settled` seconds old, a level may not be lost any more."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._seen: dict[str, list[tuple[float, tuple[int, ...]]]] = {}

    def saw(self, source: str, level: tuple[int, ...], now: float, settled: float = 0.0) -> None:
        """`source` holds `level` now, by time.monotonic()."""
        seen = self._seen.setdefault(source, [])
        self._book.checked("backwards")
        before = max((held for at, held in list(seen) if at <= now - settled), default=())
        if level < before:
            self._book.violated("backwards", f"{source} holds {level} and held {before}")
        if not seen or seen[-1][1] != level:
            seen.append((now, level))
            del seen[:-20]

    def forget(self, beginning: str) -> None:
        """What these sources held cannot be asked of them any more."""
        for source in [source for source in self._seen if source.startswith(beginning)]:
            self._seen[source] = []

    def moved(self, source: str) -> int:
        """How many different levels were seen of it."""
        return len({level for _, level in self._seen.get(source, ())})


class Forgeries:
    """What domains signed in each other's names, by (victim, thief): chains and tokens that nobody may accept."""

    def __init__(self) -> None:
        self.chains: dict[tuple[str, str], Chain] = {}
        self.tokens: dict[tuple[str, str], str] = {}
        self.refused: set[tuple[str, tuple[bytes, ...]]] = set()
        """Bundles that were looked at, by name and authorities: the same bytes refuse the same forgeries."""

    def of(self, victim: str) -> Iterable[Chain]:
        """Chains in this domain's name."""
        return [chain for (name, _), chain in self.chains.items() if name == victim]


def check_answer(
    book: Book, forgeries: Forgeries, agent: str, answer: pb.X509SVIDResponse, asked: datetime, came: datetime
) -> list[x509.Certificate]:
    """Hold one answer of FetchX509SVID against the rules; the leaves in it. `asked` and `came` are true times."""
    leaves = []
    federated = {name: split(data) for name, data in answer.federated_bundles.items()}
    for svid in answer.svids:
        id_, chain = SpiffeId.parse(svid.spiffe_id), tuple(split(svid.x509_svid))
        leaf = x509.load_der_x509_certificate(chain[0])
        leaves.append(leaf)
        book.checked("expired")
        if leaf.not_valid_after_utc <= asked:
            late = (asked - leaf.not_valid_after_utc).total_seconds()
            book.violated("expired", f"{agent} gave an X509-SVID of {id_} {late:.3f} s after its end")
            continue
        bundles = {str(id_.trust_domain): split(svid.bundle), **federated}
        for name, authorities in bundles.items():
            _check_bundle(book, forgeries, agent, name.removeprefix("spiffe://").rstrip("/"), authorities, came)
        try:
            home = Bundle(id_.trust_domain, tuple(sorted(split(svid.bundle))))
            verify_x509_svid(chain, home, asked, expected=id_)
        except TrustfedError as error:
            book.violated("domain", f"{agent} gave an X509-SVID of {id_} that its own bundle refuses: {error.message}")
    return leaves


def _check_bundle(
    book: Book, forgeries: Forgeries, agent: str, name: str, authorities: list[bytes], now: datetime
) -> None:
    domain, looked_at = TrustDomain.parse(name), (name, tuple(authorities))
    book.checked("domain")
    if looked_at in forgeries.refused:
        return
    wrong = False
    for der in authorities:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        owners = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        if owners != [f"spiffe://{name}"]:
            wrong = True
            book.violated("domain", f"{agent} gave an authority of {owners} in the bundle of {name}")
    for chain in forgeries.of(name):
        try:
            verify_x509_svid(chain, Bundle(domain, tuple(sorted(authorities))), now)
        except TrustfedError:
            continue
        wrong = True
        book.violated("domain", f"by the bundle of {name} that {agent} gave, a forged X509-SVID of {name} is genuine")
    if not wrong and len(forgeries.refused) < _MOST_REMEMBERED:
        forgeries.refused.add(looked_at)


def split(data: bytes) -> list[bytes]:
    """The certificates in concatenated DER (X.690 §8.1.3)."""
    found, at = [], 0
    while at < len(data):
        length, start = data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, start = int.from_bytes(data[start : start + count], "big"), start + count
        found.append(data[at : start + length])
        at = start + length
    return found
