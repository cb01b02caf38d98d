"""Spools on disks in memory, facts for them, and a cluster that takes what they hold."""

from __future__ import annotations

import asyncio
import itertools
import os

from agent.cache.keys import MachineKey
from agent.evidence.moments import Moments
from agent.evidence.shelf import KEY, Shelf
from agent.evidence.spool import MOST_BYTES, MOST_FACTS, Spool
from agent.trusted_time import TrustedTime
from tests.fakes.clocks import ManualClock
from tests.fakes.disk import Platter
from tests.fakes.evidence_intake import EvidenceIntake
from trustfed.proto import evidence_pb2 as pb
from trustfed.spiffe.ids import SpiffeId

NODE = SpiffeId.parse("spiffe://prod-a/trustfed/node/one")


def moments(clock: ManualClock | None = None, boot: str = "boot-1") -> Moments:
    held = clock or ManualClock()
    return Moments(TrustedTime(held, held.monotonic, boot))


def spool(
    platter: Platter, node: SpiffeId = NODE, most: tuple[int, int] = (MOST_BYTES, MOST_FACTS), boot: str = "boot-1"
) -> Spool:
    """A new process with what lies on the platter."""
    shelf = Shelf(platter.folder("evidence"), MachineKey(platter.folder("data"), os.urandom, KEY), node, os.urandom)
    return Spool(shelf, moments(boot=boot), os.urandom, most)


def fact(number: int, kind: str = "delivered") -> pb.AgentFact:
    return pb.AgentFact(
        kind=kind, entry_id="e1", slot="x509", serial=f"{number:032x}", door="sds", elapsed_ms=number, boot=b"12345678"
    )


def facts(start: int, end: int) -> list[pb.AgentFact]:
    return [fact(number) for number in range(start, end)]


def numbers(taken: list[pb.AgentFact]) -> list[int]:
    """Which of `facts` these are."""
    return [int(one.serial, 16) for one in taken if one.kind == "delivered"]


def lost(taken: list[pb.AgentFact]) -> int:
    """How many facts these say are lost."""
    return sum(one.count for said in taken if said.kind == "lost" for one in said.lost)


def drain(held: Spool, intake: EvidenceIntake, most: int = 10_000) -> EvidenceIntake:
    """Hand over all that waits."""

    async def hand() -> None:
        for _ in itertools.repeat(None, most):
            report = held.head()
            if report is None:
                return
            assert len(report.facts)
            held.acknowledge(report, (await intake.report(report)).next)
        raise AssertionError("it does not end")

    asyncio.run(hand())
    return intake
