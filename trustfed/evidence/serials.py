"""What is remembered of the serials of a ledger, and of the slots that they were issued for."""

from __future__ import annotations

import msgspec

from trustfed.evidence.pending import Pending

MAX_SERIALS = 64
"""Of one slot: an agent uses its newest, and what was issued before 64 others comes too late for anything."""


class Serial(msgspec.Struct, gc=False):
    """One certificate of x509.issued. Times are Unix ms."""

    serial: str
    position: int  # later serials have higher ones
    issued_ms: int
    not_before_ms: int
    not_after_ms: int
    authority: str
    spiffe_id: str
    entry: str
    node: str
    instance: str
    slot: str
    purpose: str = ""  # the profile
    algorithm: str = ""
    digest: bytes = b""  # SHA-256 of the DER
    delivered: bool = False
    held: bool = False  # an inventory of its node named it
    ended: bool = False  # it has left the live ones
    kept: bool = False  # its slot remembers it


class Slot(msgspec.Struct, gc=False):
    """One (instance, slot): its serials, and the obligations that are not settled."""

    instance: str
    slot: str
    serials: dict[str, Serial] = {}
    obligations: list[Pending] = []
    floor: int = 0  # position of the newest predecessor
    newest: int = 0  # position of the newest serial that was delivered
    probed_ms: int = 0
    closed_ms: int = 0  # hard limit of the newest obligation that failed and is settled
    last: str = ""  # the newest serial, and when it was issued
    last_ms: int = 0
    told_ms: int = 0  # when the newest serial was issued that the engine told of

    def remember(self, serial: Serial) -> None:
        """Take a newly issued serial in; when there are too many the oldest goes that no obligation is about."""
        serial.kept = True
        self.serials[serial.serial] = serial
        if len(self.serials) > MAX_SERIALS:
            wanted = {it.predecessor for it in self.obligations}
            oldest = next(one for one in self.serials.values() if one.serial not in wanted)
            del self.serials[oldest.serial]
            oldest.kept = False

    def named_last(self) -> Serial | None:
        """The newest serial that is remembered, which is told of now; None if there is none."""
        newest = next(reversed(self.serials.values()), None)
        if newest is not None:
            self.last, self.last_ms, self.told_ms = newest.serial, newest.issued_ms, newest.issued_ms
        return newest

    @property
    def lowest(self) -> int:
        """Facts about serials with lower positions change nothing here any more."""
        lowest = self.floor
        for it in self.obligations:
            lowest = min(lowest, it.position)
        return lowest

    def prune(self) -> None:
        """Forget the ended serials that nothing is about."""
        for one in self.serials.values():  # most often there is none: asked for each fact
            if one.ended:
                break
        else:
            return
        lowest = self.lowest
        for serial in [one for one in self.serials.values() if one.ended]:
            if serial.position < lowest:
                del self.serials[serial.serial]
                serial.kept = False

    @property
    def empty(self) -> bool:
        """Nothing is to be remembered of it."""
        return not self.serials and not self.obligations
