"""The second half of the story: what must hold under load, under attack and under change, by the workloads' own account."""

from __future__ import annotations

import time
from typing import Any

from cryptography import x509

from trustfed.demo import forge
from trustfed.demo.door import ALONE, ask
from trustfed.demo.envoy.app import Count
from trustfed.demo.house import Cluster, House
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.runtime.tls import KeyPair


class Trials:
    """Steps 4 and 5, 8 and 9, and the last."""

    def __init__(self, place: House, screen: Screen) -> None:
        self._house, self._screen = place, screen
        self._west, self._central = place.clusters
        self._before: list[dict[str, Any]] = []
        self._carried: dict[str, Count] = {}

    def call(self) -> None:
        with self._screen.step("workloads of the two trust domains call each other over mTLS") as step:
            for caller, server in ((self._central, self._west), (self._west, self._central)):
                step.wait(
                    f"calls from {caller.name}",
                    lambda c=caller, s=server: ask(c.control, "GET", "/status")["called"].get(s.workload_id),  # type: ignore[misc]
                )
                made = ask(caller.control, "POST", "/call", {"address": server.address})
                step.require(made["peer"] == server.workload_id, f"{caller.workload_id}: {made['refused']}")
                verified = ask(server.control, "GET", "/status")["verified"]
                step.require(caller.workload_id in verified, f"{server.workload_id} verified {sorted(verified)}")
                step.say(f"caller {caller.workload_id} verified {made['peer']} in {made['milliseconds']} ms")
                step.say(f"server {server.workload_id} verified {', '.join(verified)}")

    def forge(self) -> None:
        victim, thief = self._west, self._central
        with self._screen.step(
            f"a forged SVID of {victim.name}, signed by {thief.name}'s authority, is refused"
        ) as step:
            forged, twin = minted(thief, victim.workload_id)
            x509.load_der_x509_certificate(forged.chain[0]).verify_directly_issued_by(twin)
            with forge.impostor(forged) as address:
                made = ask(thief.control, "POST", "/call", {"address": address})
            step.require(made["peer"] is None, f"{thief.workload_id} talked to the impostor")
            step.require(made["handshake"], f"TLS refused before SPIFFE could: {made['refused']}")
            step.say("its signature is genuine, and TLS, which pools the anchors of both trust domains, let it pass")
            step.say(f"{thief.workload_id} refused in {made['milliseconds']} ms: {made['refused']}")

    def replace_authority(self) -> None:
        with self._screen.step(f"the authority of {self._west.name} is replaced, gated, while calls go on") as step:
            before, carried, old = self._counts(), self._house.carried.count(), _active(self._west)
            self._before, self._carried = before, carried
            began = time.time()
            ask(self._west.admin, "POST", "/authorities/prepare", {"kind": "x509", **ALONE})
            waited: dict[str, None] = {}
            new = step.wait("the new authority's activation", lambda: self._activated(old, waited), 60.0)
            step.say(f"{old} → {new} in {milliseconds(began)}; it waited for {', '.join(waited) or 'nobody'}")
            seconds = self._house.svid_ttl.total_seconds() + 10
            step.wait(
                f"a chain from {new} at {self._central.name}",
                lambda: True if ask(self._central.control, "GET", "/status")["peer_authority"] == new else None,
                seconds,
                0.02,
            )
            step.say(
                f"{self._central.workload_id} verified an SVID signed by {new} {milliseconds(began)} after the command"
            )
            step.require(bool(waited), "nobody was waited for: the activation was not gated")
            tally(step, before, self._counts())
            self._house.carried.tally(step, carried)

    def rotate(self) -> None:
        with self._screen.step("SVIDs of both rotate on open streams, while calls go on") as step:
            # Most of it has happened during the step before: counted from there, nothing is waited for twice.
            before, carried = self._before or self._counts(), self._carried or self._house.carried.count()
            seconds = self._house.svid_ttl.total_seconds() + 10
            step.wait("a rotation of each workload", lambda: self._rotated(before, 1), seconds, 0.05)
            tally(step, before, self._counts())
            self._house.carried.tally(step, carried)

    def _activated(self, old: str, waited: dict[str, None]) -> str | None:
        """The id of the successor once it is active; until then, whom it waits for is noted."""
        for authority in ask(self._west.admin, "GET", "/authorities")["authorities"]:
            if authority["kind"] == "x509" and authority["status"] == "prepared":
                waited.update(dict.fromkeys(authority["waiting_for"]))
            if authority["kind"] == "x509" and authority["status"] == "active" and authority["id"] != old:
                return str(authority["id"])
        return None

    def end_grants(self, grants: list[tuple[Cluster, str]]) -> None:
        with self._screen.step("the grants end, and the next new connection is refused") as step:
            for importer, grant in grants:
                (exporter,) = (one for one in self._house.clusters if one is not importer)
                began = time.time()
                ask(importer.admin, "POST", f"/grants/{grant}/end", {"reason": "the story is over"})
                refused = step.wait(
                    f"a refusal by {importer.name}",
                    lambda i=importer, e=exporter: _refused(i, e),  # type: ignore[misc]
                )
                step.say(
                    f"{importer.workload_id} refuses {exporter.workload_id} {milliseconds(began)} after the end: {refused}"
                )
                if (importer, grant) == grants[0]:  # one of the two is enough to end them
                    self._house.carried.refused(step, began)

    def _counts(self) -> list[dict[str, Any]]:
        return [ask(cluster.control, "GET", "/status") for cluster in self._house.clusters]

    def _rotated(self, before: list[dict[str, Any]], times: int) -> bool | None:
        now = self._counts()
        least = min(b["rotations"] - a["rotations"] for a, b in zip(before, now, strict=True))
        calls = sum(b["calls"] - a["calls"] for a, b in zip(before, now, strict=True))
        self._screen.doing(f"SVIDs rotate: {calls} calls, {least} of {times} rotations of each workload")
        return True if least >= times else None


def tally(step: Step, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    """Calls, failures and rotations from `before` to `now`, by what the workloads counted."""
    calls, failed, rotations = (
        sum(b[name] - a[name] for a, b in zip(before, now, strict=True)) for name in ("calls", "failed", "rotations")
    )
    step.say(f"{calls} calls on new connections, {failed} failed, {rotations} rotations")
    last = next((one["last_failure"] for one in now if one["last_failure"]), "")
    step.require(calls > 0 and failed == 0, f"{failed} of {calls} calls failed, the last: {last}")


def minted(thief: Cluster, spiffe_id: str) -> tuple[KeyPair, x509.Certificate]:
    """A certificate for `spiffe_id` by the active authority of `thief`, and that authority's anchor."""
    authority = _active(thief)
    twin = next(one for one in forge.authorities(bundle_of(thief)) if authority in one.subject.rfc4514_string())
    return forge.forge(thief.config, authority, twin, spiffe_id), twin


def bundle_of(cluster: Cluster) -> dict[str, Any]:
    """The bundle of its trust domain, as the cluster itself has it."""
    found: dict[str, Any] = ask(cluster.admin, "GET", f"/bundles/{cluster.name}")
    return found


def _active(cluster: Cluster) -> str:
    """The id of the active X.509 authority."""
    found = ask(cluster.admin, "GET", "/authorities")["authorities"]
    return next(str(one["id"]) for one in found if one["kind"] == "x509" and one["status"] == "active")


def _refused(importer: Cluster, exporter: Cluster) -> str | None:
    made = ask(importer.control, "POST", "/call", {"address": exporter.address})
    # Without a handshake it was the caller itself that refused: the exporter's bundle is gone from its hands.
    return str(made["refused"]) if made["refused"] and not made["handshake"] else None
