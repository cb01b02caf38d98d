"""The hub's own facts: each step of a root, from the journal into the ledger, once.

Where it goes on is read from the ledger itself: the highest journal position among the steps of the roots that are known. So the
ledger alone tells what became of the roots, and every fact names the decision that it mirrors.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from cryptography import x509

from trustfed.errors import TrustfedError
from trustfed.evidence.facts import AUTHORITY_STEP
from trustfed.hub.events import RootActivated, RootCreated, RootPrepared, RootRetired
from trustfed.hub.roots import root_named
from trustfed.hub.state import HubState
from trustfed.journal.events import Fact
from trustfed.journal.fold import Fold
from trustfed.journal.ports import Ledger
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms

RETRY_SECONDS = 5.0
ALGORITHM = "ec-p256"
_log = logs.get("hub.evidence.mirror")


class RootMirror:
    """`run` follows the journal; ends only when cancelled."""

    def __init__(self, fold: Fold[HubState], ledger: Ledger, clock: Clock, custodian: str) -> None:
        self._fold, self._ledger, self._clock, self._custodian = fold, ledger, clock, custodian
        self._activated = ""

    async def run(self) -> None:
        """Mirror what is missing, then what comes."""
        while True:
            try:
                position = await self._mirrored()
                async for at, event in self._fold.subscribe(position):
                    facts = self._facts(at, event)
                    if facts:
                        await self._ledger.append(facts)
                return
            except TrustfedError as error:
                _log.error("the roots' steps are not mirrored", error=error.message)
                await self._clock.sleep(RETRY_SECONDS)

    async def _mirrored(self) -> int:
        """Up to which position the journal is mirrored."""
        found = [
            (fact.body["journal"], fact.body["step"] == "activated", root.key_name)
            for root in self._fold.state.roots
            for fact in await self._ledger.find(AUTHORITY_STEP, root.key_name)
        ]
        self._activated = max((one for one in found if one[1]), default=(0, False, ""))[2]
        return max((one[0] for one in found), default=0)

    def _facts(self, position: int, event: msgspec.Struct) -> Sequence[Fact]:
        state = self._fold.state
        match event:
            case RootCreated():
                made = [self._fact(state, position, event.key_name, step) for step in ("prepared", "published")]
                return [*made, self._activation(state, position, event.key_name)]
            case RootPrepared():
                steps = ("prepared", "certified", "published")
                return [self._fact(state, position, event.key_name, step) for step in steps]
            case RootActivated():
                return [self._activation(state, position, event.key_name)]
            case RootRetired():
                return [self._fact(state, position, event.key_name, step) for step in ("retired", "removed")]
        return []

    def _activation(self, state: HubState, position: int, key_name: str) -> Fact:
        retires, self._activated = self._activated, key_name
        return self._fact(state, position, key_name, "activated", retires)

    def _fact(self, state: HubState, position: int, key_name: str, step: str, retires: str = "") -> Fact:
        certificate = x509.load_der_x509_certificate(root_named(state, key_name).certificate)
        now = to_ms(self._clock.now())
        body = {
            "authority": key_name,
            "kind": "root",
            "step": step,
            "not_before": int(certificate.not_valid_before_utc.timestamp()),
            "not_after": int(certificate.not_valid_after_utc.timestamp()),
            "forced": False,
            "missing": [],
            "retires": retires,
            "algorithm": ALGORITHM,
            "custodian": self._custodian,
            "journal": position,
        }
        return Fact(now, AUTHORITY_STEP, key_name, body)
