"""Looks at what workloads of this node show in a handshake, and notes it when it changes: confirmed, or seen.

Each probe: 1 the address is one of this node, unless its configuration names another machine · 2 a TLS handshake, far enough
to see the certificate · 3 it is verified for the configured SPIFFE ID in the home bundle · 4 its serial is compared with those
that this node holds, or held a while ago, for that ID.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

from agent.evidence.config import ProbeConfig
from agent.evidence.look import chain_of, look_context
from agent.evidence.notes import Notes
from agent.issuing import NORMAL, RESERVE
from agent.store import Store
from agent.trusted_time import TrustedTime
from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.runtime import errors, logs
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import parse_address
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

log = logs.get("agent.evidence")

LOOK_SECONDS = 5.0
_AT_ONCE = 4
_REMEMBERED = 16
"""Serials of one ID that are not held any more: a workload may show one for a while that was replaced."""
_JITTER = 0.1


class _Probe:
    """One configured probe, and what it showed last."""

    def __init__(self, config: ProbeConfig) -> None:
        self.config = config
        self.host, self.port = parse_address(config.address)
        self.known: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """Entry and slot by serial, of this ID: those held now last."""
        self.noted = ("", "")
        self.outcome = self.serial = self.error = ""
        self.at: datetime | None = None


class Probes:
    """All of a node's probes; `run` ends only when cancelled."""

    def __init__(
        self,
        probes: Sequence[ProbeConfig],
        trust_domain: TrustDomain,
        store: Store,
        notes: Notes,
        clock: TrustedTime,
        chance: Callable[[], float],
        registry: Registry,
    ) -> None:
        for one in probes:
            if one.spiffe_id.trust_domain != trust_domain:
                raise Invalid(
                    f"the probe of {one.address} expects {one.spiffe_id}, which is not of {trust_domain}",
                    hint="a probe looks at workloads of this node's own trust domain",
                )
        self._probes = [_Probe(one) for one in probes]
        self._store, self._notes, self._clock, self._chance = store, notes, clock, chance
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._looks = registry.counter("agent_evidence_probes_total", "TLS probes of workloads", labels=("outcome",))

    async def run(self) -> None:
        """Look at each of them again and again, at moments of its own."""
        async with asyncio.TaskGroup() as group:
            for probe in self._probes:
                group.create_task(self._repeat(probe))

    def status(self) -> list[dict[str, object]]:
        """For `agent status`."""
        return [
            {
                "address": one.config.address,
                "spiffe_id": str(one.config.spiffe_id),
                "outcome": one.outcome or None,
                "serial": one.serial or None,
                "at": one.at and one.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
                "error": one.error or None,
            }
            for one in self._probes
        ]

    async def _repeat(self, probe: _Probe) -> None:
        seconds = probe.config.every.total_seconds()
        wait = self._chance() * min(seconds, 1.0)
        while True:
            await self._clock.sleep(wait)
            async with self._slots:
                await self._once(probe)
            wait = seconds * (1 - _JITTER + 2 * _JITTER * self._chance())

    async def _once(self, probe: _Probe) -> None:
        before = probe.outcome, probe.serial, probe.error
        try:
            await self._look(probe)
        except Exception as error:  # whatever a workload shows
            said = error if isinstance(error, TrustfedError) else Unavailable(errors.answer(error).line())
            probe.outcome, probe.error = "failed", said.message
        probe.at = self._clock.now()
        self._looks.add(outcome=probe.outcome)
        if (probe.outcome, probe.serial, probe.error) != before:
            say = log.info if probe.outcome == "confirmed" else log.warning
            say("probe", address=probe.config.address, outcome=probe.outcome, serial=probe.serial, error=probe.error)

    async def _look(self, probe: _Probe) -> None:
        config, store = probe.config, self._store
        if not config.remote and not ours(probe.host):  # 1
            raise Invalid(f"{probe.host} is no address of this node", hint="set remote = true to probe another machine")
        self._remember(probe)
        chain = await chain_of(probe.host, probe.port, look_context(config.alpn), LOOK_SECONDS)  # 2
        svid = verify_x509_svid(chain, store.home().bundle, self._clock.now(), expected=config.spiffe_id)  # 3
        self._remember(probe)  # it may have come meanwhile
        serial = serial_text(svid.serial)
        held = probe.known.get(serial)  # 4
        outcome = "confirmed" if held is not None else "seen"
        if (outcome, serial) != probe.noted:
            probe.noted = outcome, serial
            entry_id, slot = held or ("", NORMAL)
            self._notes.note(
                outcome, entry_id=entry_id, slot=slot, serial=serial, peer=config.address, spiffe_id=str(svid.id)
            )
        probe.outcome, probe.serial, probe.error = outcome, serial, ""

    def _remember(self, probe: _Probe) -> None:
        held = 0
        for entry in self._store.entries.values():
            if entry.spiffe_id == probe.config.spiffe_id:
                for slot, svid in (
                    (NORMAL, self._store.svids.get(entry.id)),
                    (RESERVE, self._store.reserves.get(entry.id)),
                ):
                    if svid is not None:
                        held += 1
                        probe.known[svid.serial] = entry.id, slot
                        probe.known.move_to_end(svid.serial)
        while len(probe.known) > held + _REMEMBERED:
            probe.known.popitem(last=False)


def ours(host: str) -> bool:
    """Whether an address is loopback, or one that this machine has."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
        if address.is_loopback:
            return True
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as trial:
            trial.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True
