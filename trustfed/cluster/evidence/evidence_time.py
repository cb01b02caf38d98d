"""When something happened on a node, as far as that can be believed. Pure; times are Unix ms, `elapsed` is CLOCK_BOOTTIME in ms.

The time of the evidence is the last time that this cluster told the node, plus what passed on the node since:

1. The fact is of the boot in which it is reported, else the receipt counts.
2. Its anchor is a time that this process told this node, or one before this process began that the ledger had reached; else
   the receipt counts.
3. Its elapsed times are in order: heard, happened, reported; else the receipt counts, and the fact is marked.
4. A node whose elapsed time falls behind ours by more than `DRIFT_MS` is counted back from the receipt: the later of both.
5. Never later than the receipt, and never before the serial was issued.
6. What a node could have said in an earlier report, which left nothing waiting, and claims only now is not believed.

No rule makes a time earlier than both the claim and the receipt, so a wrong clock never turns a failure into a success.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from msgspec import Struct

from trustfed.proto import evidence_pb2 as pb

DRIFT_MS = 60_000


class Known(NamedTuple):
    """What this cluster knows about the node, as this report came."""

    told: Collection[int]  # the times that this process told it
    reached_ms: int  # the ledger's last time when this process began: what earlier processes told is not above it
    boot: bytes  # of the report
    elapsed_ms: int  # of the report
    received_ms: int


class Judged(Struct, frozen=True):
    """The time that counts; `late` if it is the receipt because the claim was not believed; `flag`: why that is suspicious."""

    at: int
    late: bool = False
    flag: str = ""


def time_of(said: pb.AgentFact, known: Known, *, earlier_ms: int = 0, issued_ms: int = 0) -> Judged:
    """The time of one fact's evidence.

    `earlier_ms` is the receipt of the last report that left nothing waiting, if this fact cannot have waited then;
    `issued_ms` when its serial was recorded, 0 if it is about none.
    """
    told, reached_ms, boot, reported, received = known
    anchor, heard, happened = said.anchor_ms, said.anchor_elapsed_ms, said.elapsed_ms
    received = max(received, issued_ms)
    if not boot or said.boot != boot:  # 1
        return Judged(received, late=True)
    if anchor not in told and not 0 < anchor <= reached_ms:  # 2
        return Judged(received, late=True)
    if not 0 <= heard <= happened <= reported:  # 3
        return Judged(received, late=True, flag="impossible time")
    at = anchor + happened - heard
    late, back = False, received - (reported - happened)
    if back - at > DRIFT_MS:  # 4
        at, late = back, True
    at = min(at, received)  # 5
    if at < issued_ms:
        if issued_ms - at > DRIFT_MS:
            return Judged(received, late=True, flag="backdated")
        at = issued_ms
    if earlier_ms - at > DRIFT_MS:  # 6
        return Judged(received, late=True, flag="backdated")
    return Judged(at, late=late)
