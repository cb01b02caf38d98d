"""The attestor port: how a machine proves that it may be a node, and which one. One file per way, each registered in open.py.

`Admission` is a proposal: trustfed.cluster.nodes.attest decides, and refuses a name that is banned or that another
attestor admitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from trustfed.cluster.state import ClusterState


@dataclass(frozen=True)
class Admission:
    """Who the machine is. `evidence` names what was used up; `key_hash` the key that may use it again, "" for none yet."""

    node: str
    groups: tuple[str, ...]
    evidence: str
    key_hash: str = ""


class NodeAttestor(Protocol):
    """One way to attest. `name` is what a request calls it by."""

    name: str

    async def verify(self, payload: str, key_hash: str, peer: str = "") -> str:
        """Check the machine's proof with whoever can judge it, outside of any decision; gives the evidence.

        The evidence names what was shown (the hash of a token, the id of an instance and the name it proves) and is all
        that `admit` is given of it; it is journalled, so it is short text and no secret. `key_hash` is
        the key that the proof must be bound to, `peer` the address that it came from. Raises Invalid or Denied, or
        Unavailable if the judge is away.
        """
        ...

    def admit(self, state: ClusterState, evidence: str, key_hash: str, now: datetime) -> Admission:
        """Decide, under the journal's order, whom this evidence admits. Pure. Raises Denied."""
        ...


Attestors = Mapping[str, NodeAttestor]
