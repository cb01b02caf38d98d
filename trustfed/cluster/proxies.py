"""What the Envoys of this domain said of the secrets their agents gave them: what they refuse now, and a fact of each refusal.

    proxy.refused   {"node", "entry", "resource", "serial", "version", "proxy", "error"}: Envoy's own words

A fact's key is the certificate's serial, which `x509.issued` has too; of a validation context it is `node/NAME`. What was
loaded is counted here and ends alarms; it is a fact as its agent's spool reports it (agent.loaded, trustfed.evidence.facts).
A node may speak only of entries that it serves. What it says of its Envoys is its word: nothing here acts on it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, OrderedDict, deque
from datetime import timedelta
from typing import Any

from trustfed.cluster.entries import serves
from trustfed.cluster.state import ClusterState, Node
from trustfed.errors import Invalid, TrustfedError
from trustfed.journal.events import Fact
from trustfed.journal.fold import Fold
from trustfed.journal.ports import Ledger
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces
from trustfed.runtime.timestamps import from_ms, to_ms

log = logs.get("cluster.proxies")

LOADED, REFUSED = "loaded", "proxy.refused"
MAX_REPORTS = 500
MAX_WAITING = 10_000
MAX_KNOWN = 20_000
MAX_SHOWN = 100
BURST, EVERY_SECONDS = 5_000, 0.05
"""Reports of one node: as many at once as it may have entries with several Envoys each, then 20 a second."""
_BATCH = 500
_RETRY_SECONDS = 2.0
_OLDEST = timedelta(days=30)
_AHEAD = timedelta(minutes=5)
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_VERSION = re.compile(r"[0-9A-Za-z._-]{1,64}")


class Proxies:
    """Takes what nodes report, at once; `run` writes it into the ledger."""

    def __init__(self, fold: Fold[ClusterState], ledger: Ledger, clock: Clock, registry: Registry) -> None:
        self._fold, self._ledger, self._clock = fold, ledger, clock
        self._waiting: deque[Fact] = deque()
        self._news = asyncio.Event()
        self._known: OrderedDict[int, None] = OrderedDict()
        self._last: OrderedDict[int, str] = OrderedDict()
        """By node, Envoy, name and entry: the version that was loaded last, unless something was refused since."""
        self._refusing: OrderedDict[tuple[str, str, str, str], dict[str, object]] = OrderedDict()
        """By node, entry, name and Envoy."""
        self._paces = Paces(BURST, EVERY_SECONDS)
        self.loaded_total = self.refused_total = 0
        self._loaded = registry.counter("cluster_proxy_loaded_total", "secrets that Envoys said they use")
        self._refused = registry.counter("cluster_proxy_refused_total", "secrets that Envoys refused (NACK)")
        self._left_out = registry.counter(
            "cluster_proxy_reports_left_out_total", "reports that were not recorded", labels=("why",)
        )
        registry.gauge("cluster_proxy_refusing", "secrets that an Envoy refused and has not loaded since").read(
            lambda: len(self._standing())
        )

    def heard(self, name: str, report: pb.ProxyReport) -> None:
        """What a connected node reports. Raises Invalid for more than MAX_REPORTS at once."""
        if len(report.loaded) + len(report.refused) > MAX_REPORTS:
            raise Invalid(
                f"{len(report.loaded) + len(report.refused)} reports in one message", hint=f"at most {MAX_REPORTS}"
            )
        node = self._fold.state.nodes.get(name)
        if node is None:
            return
        # In the order in which it was said: of a refusal and what was loaded after it, both may be in one message.
        said: list[pb.SecretLoaded | pb.SecretRefused] = [*report.loaded, *report.refused]
        for one in sorted(said, key=lambda one: one.at_ms):
            if isinstance(one, pb.SecretRefused):
                if self._take(node, REFUSED, one):
                    self.refused_total += 1
                    self._refused.add()
                    self._alarm(name, one)
            elif self._take(node, LOADED, one):
                self.loaded_total += 1
                self._loaded.add()
                self._refusing.pop((name, one.entry_id, one.resource, one.proxy), None)

    async def run(self) -> None:
        """Write what was heard; where the ledger cannot, keep it and try again."""
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            batch = [self._waiting[at] for at in range(min(_BATCH, len(self._waiting)))]
            try:
                await self._ledger.append(batch)
            except TrustfedError as error:
                log.error("what Envoys said is not recorded yet", error=error.message, hint=error.hint)
                await self._clock.sleep(_RETRY_SECONDS)
                continue
            for fact in batch:
                if self._waiting and self._waiting[0] is fact:
                    self._waiting.popleft()

    def status(self) -> dict[str, object]:
        """For `trustfed cluster status`."""
        return {
            "loaded": self.loaded_total,
            "refused": self.refused_total,
            "waiting": len(self._waiting),
            "refusing": list(reversed(self._standing().values())),
        }

    def _standing(self) -> OrderedDict[tuple[str, str, str, str], dict[str, object]]:
        """The alarms, without those of entries that are no more: nobody could end them."""
        entries = self._fold.state.entries
        for at in [at for at in self._refusing if at[1] and at[1] not in entries]:
            del self._refusing[at]
        return self._refusing

    def _take(self, node: Node, kind: str, said: pb.SecretLoaded | pb.SecretRefused) -> bool:
        """Put one report into the queue; False, counted with the reason, if it is not to be recorded."""
        why = self._fault(node, kind, said)
        if why:
            self._left_out.add(why=why)
            return False
        if not isinstance(said, pb.SecretRefused):
            return True
        body: dict[str, Any] = {
            "node": node.name,
            "entry": said.entry_id,
            "resource": said.resource,
            "serial": said.serial,
            "version": said.version,
            "proxy": said.proxy,
            "error": said.error,
        }
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._left_out.add(why="the ledger is away")
        self._waiting.append(
            Fact(self._at(said.at_ms), kind, said.serial or f"{node.name}/{said.resource}"[:200], body)
        )
        self._news.set()
        return True

    def _fault(self, node: Node, kind: str, said: pb.SecretLoaded | pb.SecretRefused) -> str:
        entry = self._fold.state.entries.get(said.entry_id)
        error = said.error if isinstance(said, pb.SecretRefused) else ""
        # The agent has cut and cleaned these; who has not is no agent of ours.
        texts = ((said.resource, 1, 2048), (said.proxy, 0, 128), (error, 0, 500))
        if any(not least <= len(text) <= most or not text.isprintable() for text, least, most in texts):
            return "malformed"
        if not _VERSION.fullmatch(said.version) or bool(said.entry_id) != bool(_SERIAL.fullmatch(said.serial)):
            return "malformed"
        if not said.entry_id and said.serial:
            return "malformed"
        if said.entry_id and (entry is None or not serves(entry, node, self._clock.now())):
            return "another node's entry"
        # A version that is loaded is news until another one is, however often its Envoy connects again; each refusal is. What
        # an agent says twice, since it cannot know that we have heard it, has the same moment.
        who = hash((node.name, said.proxy, said.resource, said.entry_id))
        once = hash((who, kind, said.version, said.at_ms))
        if once in self._known or (kind == LOADED and self._last.get(who) == said.version):
            return "known"
        if not self._paces.take(node.name, self._clock.monotonic()):
            return "too many"
        self._known[once] = None
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self._last.pop(who, None)
        if kind == LOADED:
            self._last[who] = said.version
            if len(self._last) > MAX_KNOWN:
                self._last.popitem(last=False)
        return ""

    def _alarm(self, name: str, said: pb.SecretRefused) -> None:
        log.warning(
            "an Envoy refuses what it was sent and goes on with what it had",
            node=name,
            entry=said.entry_id,
            resource=said.resource,
            proxy=said.proxy,
            error=said.error,
        )
        at = name, said.entry_id, said.resource, said.proxy
        self._refusing[at] = {
            "node": name,
            "proxy": said.proxy,
            "resource": said.resource,
            "entry": said.entry_id or None,
            "version": said.version,
            "error": said.error,
        }
        self._refusing.move_to_end(at)
        if len(self._refusing) > MAX_SHOWN:
            of = Counter(at[0] for at in self._refusing)  # one node's alarms do not push out another's
            most = max(of.values())
            del self._refusing[next(at for at in self._refusing if of[at[0]] == most)]

    def _at(self, milliseconds: int) -> int:
        """When it was said, as far as that can be true; else now."""
        now = self._clock.now()
        try:
            said = from_ms(milliseconds)
        except Invalid:
            return to_ms(now)
        return milliseconds if now - _OLDEST <= said <= now + _AHEAD else to_ms(now)
