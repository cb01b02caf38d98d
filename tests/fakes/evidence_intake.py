"""What a cluster does with the facts of its nodes: it keeps each once, by epoch and sequence, and says what it wants next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from trustfed.proto import evidence_pb2 as pb

MOST_FACTS, MOST_BYTES = 500, 256 * 1024


class EvidenceIntake:
    """`facts` in the order of their arrival. `faults` are called once each with a report, and may raise or wait.

    `strict`: a report that begins above what is wanted is not taken. `clones` are keys that came again with other bytes.
    `deaf` keeps the facts and then does not answer; `older` is a cluster that knows nothing of evidence.
    """

    def __init__(self) -> None:
        self.facts: list[pb.AgentFact] = []
        self.held: dict[tuple[bytes, int], bytes] = {}
        self.wanted: dict[bytes, int] = {}
        self.clones: list[tuple[bytes, int]] = []
        self.reports: list[pb.NodeReport] = []
        self.faults: list[Callable[[pb.NodeReport], Any]] = []
        self.strict = False
        self.deaf = 0
        self.older = False

    async def report(self, request: pb.NodeReport) -> pb.NodeReportAnswer:
        """NodeEvidence.Report."""
        self.reports.append(request)
        if self.older:
            raise GRPCError(Status.UNIMPLEMENTED, "Method not found")
        if self.faults and (waiting := self.faults.pop(0)(request)) is not None:
            await waiting
        assert len(request.epoch) == 16 and len(request.facts) <= MOST_FACTS and request.ByteSize() <= MOST_BYTES
        wanted = self.wanted.get(request.epoch, 1 if self.strict else request.first)
        if self.strict and request.first > wanted:
            return pb.NodeReportAnswer(next=wanted)
        for sequence, fact in enumerate(request.facts, request.first):
            key, data = (request.epoch, sequence), fact.SerializeToString()
            if self.held.setdefault(key, data) != data:
                self.clones.append(key)
            elif sequence >= wanted:
                self.facts.append(fact)
                wanted = sequence + 1
        self.wanted[request.epoch] = wanted
        if self.deaf:
            self.deaf -= 1
            raise GRPCError(Status.UNAVAILABLE, "the answer got lost")
        return pb.NodeReportAnswer(next=wanted)

    def kinds(self) -> list[str]:
        """The kinds of the facts, in order, without inventories."""
        return [fact.kind for fact in self.facts if fact.kind != "held"]
