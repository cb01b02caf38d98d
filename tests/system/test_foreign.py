"""Foreign peers before the real stack: endpoints of our own that misbehave, and a real SPIRE server, both ways."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cluster import Domain
from tests.fakes.foreign_peer import ENDPOINT, ForeignPeer, WebCa, http, redirect, svid, zipped
from tests.system.spire_world import (
    BINARY,
    SERVES_WEB,
    SPIRE,
    Spire,
    write_pair,
)
from tests.system.stack import Agent, Cluster, Stack, until
from trustfed.cli.main import main
from trustfed.cli.svidfiles import read_bundle
from trustfed.cluster.foreign.rules import fingerprint
from trustfed.demo.ports import free_port
from trustfed.runtime.guarded_fetch import fetch
from trustfed.runtime.reach import Reach
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

HOME, TDF = "prod-us-west", "td-f"
CA = WebCa()
needs_spire = pytest.mark.skipif(not BINARY, reason="TRUSTFED_SPIRE_SERVER names no spire-server binary")


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str


@dataclass
class Place:
    stack: Stack
    cluster: Cluster
    agent: Agent
    web: str  # our https_web bundle endpoint
    ca: Path

    def cli(self, *words: str, text: str = "", socket: Path | None = None) -> Done:
        """One trustfed command, in this process: a new one costs a second of processor time."""
        out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([*words, "--socket", str(socket or self.cluster.admin.path)])
        finally:
            sys.stdin = stdin
        return Done(code, out.getvalue(), err.getvalue())

    def ok(self, *words: str, text: str = "", socket: Path | None = None) -> str:
        done = self.cli(*words, text=text, socket=socket)
        assert done.code == 0, done.stderr
        return done.stdout

    def add(self, name: str, url: str, *more: str, text: str = "") -> None:
        self.ok("peer", "add", name, "--url", url, "--until", "1h", "--reason", "a test", *more, text=text)

    def peer(self, name: str) -> Any:
        return self.cluster.admin.get(f"/foreign/{name}")

    def refresh(self, name: str) -> None:
        self.cluster.admin.post(f"/foreign/{name}/refresh")

    def held(self, name: str) -> Any:
        """What the agent holds of a domain."""
        bundles = self.agent.admin.get("/bundles")["bundles"]
        return next((bundle for bundle in bundles if bundle["trust_domain"] == name), None)

    def workload_bundle(self, name: str, folder: Path) -> Bundle | None:
        """What a workload on the node is given of a domain."""
        self.ok("svid", "x509", "--write", str(folder), socket=self.agent.socket)
        path = folder / f"{name}.pem"
        return read_bundle(path, TrustDomain(name)) if path.exists() else None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("foreign")
    certificate, key = write_pair(folder, CA.server())
    ca = folder / "web-ca.pem"
    ca.write_text(ssl.DER_cert_to_PEM_cert(CA.der))
    web = f"127.0.0.1:{free_port()}"
    tables: dict[str, object] = {
        "bundle_web": {"listen": web, "certificate_file": certificate, "key_file": key},
        "foreign": {"allow_addresses": ["127.0.0.0/8"], "least_refresh": "1s", "timeout": "1s"},
    }
    with Stack(folder / "stack") as stack:
        cluster = stack.cluster(HOME, tables=tables, refresh_hint="60s", polled_readers=True)
        agent = cluster.agent("node-1")
        made = Place(stack, cluster, agent, f"https://{web}/bundle", ca)
        fields = {"parent": "node/node-1", "selectors": [f"unix:uid:{os.getuid()}"], "federates_with": ["*"]}
        agent.wait_for(str(cluster.entry("/web", **fields)["id"]))
        yield made


# Endpoints of our own that misbehave


Misdeed = Callable[[ForeignPeer], None]


def _serves(*pieces: bytes, pause: float = 0) -> Misdeed:
    return lambda peer: peer.says(*pieces, pause=pause)


def _document(**changes: Any) -> Misdeed:
    return lambda peer: peer.says(http(peer.document(**changes)))


def _other_keys(**changes: Any) -> Misdeed:
    other = json.loads(Domain(TDF).bundle().marshal())["keys"]
    return _document(keys=other, **changes)


MISDEEDS: dict[str, tuple[Misdeed, str]] = {
    "older sequence": (_document(spiffe_sequence=4), "older"),
    "older sequence and other keys": (_other_keys(spiffe_sequence=4), "older"),
    "other keys at the same sequence": (_other_keys(), "fork"),
    "other keys without a sequence": (_other_keys(spiffe_sequence=None), "sequence_lost"),
    "empty": (_document(keys=[]), "empty"),
    "half json": (lambda peer: peer.says(http(peer.document()[:200])), "malformed"),
    "another domain's bundle": (_serves(http(Domain("td-g").bundle().marshal())), "other_domain"),
    "oversize": (_serves(http(b" " * (1 << 20) + b"{}")), ""),
    "slow drip": (_serves(http(b"", Content_Length="9999"), *[b" "] * 60, pause=0.05), ""),
    "gzip": (_serves(zipped(b"{}")), ""),
    "redirect to http": (_serves(redirect("http://127.0.0.1/")), ""),
    "redirect to another origin": (_serves(redirect("https://127.0.0.1:9/")), ""),
    "redirect to metadata": (_serves(redirect("https://169.254.169.254/")), ""),
    "server error": (_serves(http(b"oops", "503 No")), ""),
    "hangs up": (_serves(b""), ""),
    "wrong certificate": (lambda peer: peer.identity(WebCa().server()), ""),
    "wrong host or id": (lambda peer: peer.identity(svid(peer.domain, "/other")), ""),
}


@pytest.mark.parametrize("profile", ["https_web", "https_spiffe"])
def test_endpoints_that_misbehave_never_take_the_last_good_bundle(place: Place, tmp_path: Path, profile: str) -> None:
    domain = Domain(TDF, sequence=5)
    good = CA.server() if profile == "https_web" else svid(domain)
    with ForeignPeer(domain, good) as peer:
        if profile == "https_web":
            place.add(TDF, peer.url, "--profile", profile, "--ca", str(place.ca))
        else:
            first = domain.bundle().marshal().decode()
            more = ["--endpoint-id", f"spiffe://{TDF}{ENDPOINT}", "--bundle", "-"]
            place.add(TDF, peer.url, "--profile", profile, *more, text=first)
        before = until(lambda: place.held(TDF), "the foreign bundle at the agent")
        assert before["state"] == "fresh" and "rollback protection" in place.ok("peer", "show", TDF)
        found = place.workload_bundle(TDF, tmp_path)
        assert found is not None and found.x509_authorities == tuple(a.twin for a in domain.authorities)
        for name, (misdeed, fault) in MISDEEDS.items():
            misdeed(peer)
            with pytest.raises(AssertionError):
                place.refresh(TDF)
            status = place.peer(TDF)
            assert status["fault"] == fault or not fault, f"{name}: {status['fault']} {status['error']}"
            assert status["condition"] == ("refused" if fault else "unreachable"), f"{name}: {status['error']}"
            assert place.held(TDF)["sequence"] == before["sequence"], name
            peer.identity(good)
            peer.answer = peer.good
            place.refresh(TDF)
            assert place.peer(TDF)["condition"] == "good", name
        # It goes on: another hint at the same sequence, then other keys at a higher one.
        peer.refresh_hint = 90
        place.refresh(TDF)
        until(lambda: place.held(TDF)["refresh_hint"] == 90, "the new hint at the agent")
        peer.rotate()
        place.refresh(TDF)
        until(lambda: place.held(TDF)["x509_authorities"] == 2, "the new authority at the agent")
        # It restarts its numbers: refused, alarmed, and accepted by an operator.
        domain.authorities, domain.sequence = [domain.authorities[0], domain.authority("b")], 1
        with pytest.raises(AssertionError):
            place.refresh(TDF)
        assert place.cli("bundle", "accept", TDF).code == 2
        place.ok("bundle", "accept", TDF, "--reason", "their owner restored it")
        listed = json.loads(place.ok("peer", "list", "--output", "json"))
        assert [(one["trust_domain"], one["condition"], one["sequence"]) for one in listed] == [(TDF, "good", 1)]
        began = time.monotonic()
        place.ok("peer", "remove", TDF, "--reason", "the test is over")
        until(lambda: place.held(TDF) is None, "the agent to drop the foreign bundle", 5)
        assert time.monotonic() - began < 5
        assert place.workload_bundle(TDF, tmp_path / "after") is None


def test_guards_and_terms_are_told_in_one_line(place: Place) -> None:
    terms = ["--until", "1h", "--reason", "x"]
    for words, said in (
        (["--profile", "https_web", "--url", "http://t.example/", *terms], "is not an https:// address"),
        (["--profile", "https_spiffe", "--url", "https://t.example/", *terms], "needs the SPIFFE ID"),
        (["--profile", "https_web", "--url", "https://t.example/", "--until", "1h", "--reason", " "], "reason"),
        (["--profile", "https_web", "--url", "https://t.example/", "--reader", "10.0.0.1/8", *terms], "no network"),
    ):
        done = place.cli("peer", "add", TDF, *words)
        assert done.code == 2 and said in done.stderr and "hint:" in done.stderr, done.stderr
    place.add(TDF, "https://169.254.169.254/bundle", "--profile", "https_web")
    done = place.cli("peer", "refresh", TDF)
    assert done.code == 3 and "metadata service" in done.stderr
    place.ok("peer", "remove", TDF, "--reason", "over")
    assert place.cli("peer", "show", TDF).code == 4


def test_readers_of_our_bundle_are_listed(place: Place) -> None:
    context = ssl.create_default_context(cafile=str(place.ca))
    fetch(place.web, context, reach=Reach(allow=(ipaddress.ip_network("127.0.0.0/8"),)))
    readers = json.loads(place.ok("peer", "readers", "--output", "json"))
    level = place.cluster.admin.get("/status")["level"]
    (ours,) = [one for one in readers if one["profile"] == "https_web" and one["document"] == "bundle"]
    assert (ours["address"], ours["level"]) == ("127.0.0.1", level)


def test_a_slow_endpoint_holds_up_no_stop_and_a_restarted_cluster_goes_on(place: Place) -> None:
    with ForeignPeer(Domain(TDF), CA.server()) as peer:
        place.add(TDF, peer.url, "--profile", "https_web", "--ca", str(place.ca))
        before = until(lambda: place.held(TDF), "the foreign bundle at the agent")
        peer.says(http(b"", Content_Length="9999"), *[b" "] * 60, pause=0.05)
        place.ok("peer", "add", TDF, "--url", peer.url, "--until", "1h", "--reason", "asked at once", *_web(place))
        asked = len(peer.asked)
        until(lambda: len(peer.asked) > asked, "the next fetch", 5)
        began = time.monotonic()
        assert place.cluster.process.stop() == 0
        assert time.monotonic() - began < 10
        peer.answer = peer.good
        place.cluster.process.start()
        until(
            lambda: place.peer(TDF)["condition"] == "good" and place.peer(TDF)["fetched_at"],
            "a fetch after the restart",
        )
        assert place.held(TDF)["sequence"] == before["sequence"]
        place.ok("peer", "remove", TDF, "--reason", "the test is over")


def _web(place: Place) -> list[str]:
    return ["--profile", "https_web", "--ca", str(place.ca)]


# SPIRE


@needs_spire
@pytest.mark.timeout(300)
@pytest.mark.parametrize("profile", ["https_spiffe", "https_web"])
def test_spire_both_ways(place: Place, tmp_path: Path, profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[str, float] = {}
    if profile == "https_spiffe":
        spire = Spire(place.stack, "spire-a")
        ours, url = place.ok("bundle", "show", HOME), f"https://{place.cluster.bundle_endpoint}/bundle"
        spire.federate(HOME, url, f"spiffe://{HOME}/trustfed/cluster", ours)
        first = spire.ask("bundle", "show", "-format", "spiffe")
        more, kind = ["--endpoint-id", f"spiffe://{SPIRE}/spire/server", "--bundle", "-"], "x509"
    else:
        certificate, key = write_pair(tmp_path, CA.server())
        serves = SERVES_WEB.format(cert=certificate, key=key)
        spire, first = Spire(place.stack, "spire-b", serves=serves, roots=place.ca), ""
        spire.federate(HOME, place.web)
        more, kind = ["--ca", str(place.ca)], "jwt"
    try:
        began = time.monotonic()
        place.add(SPIRE, spire.url, "--profile", profile, "--reader", "127.0.0.1/32", *more, text=first)
        until(lambda: place.held(SPIRE), "SPIRE's bundle at our agent")
        figures["first bundle at the agent"] = time.monotonic() - began

        def believed(name: str) -> None:
            """Our workload's bundle verifies what SPIRE signs now."""
            bundle = place.workload_bundle(SPIRE, tmp_path / name)
            assert bundle is not None
            found = verify_x509_svid(spire.svid("/billing"), bundle, datetime.now(UTC))
            assert str(found.id) == f"spiffe://{SPIRE}/billing"

        believed("first")
        # Its authority rotates, we follow by its hint.
        at = spire.rotate()
        wanted = len(spire.bundle().x509_authorities)
        until(lambda: place.held(SPIRE)["x509_authorities"] == wanted, "SPIRE's new authority at our agent")
        figures["SPIRE rotates, our agent follows"] = time.monotonic() - at
        authority = spire.ask("localauthority", "x509", "show")
        prepared = authority[authority.index("Prepared") :].split("Authority ID: ")[1].split()[0]
        spire.ask("localauthority", "x509", "activate", "-authorityID", prepared)
        believed("rotated")
        # Ours rotates, SPIRE follows by our hint (it asks every 15 s).
        until(lambda: place.peer(SPIRE)["reader"], "SPIRE's first visit", 60)
        known = fingerprint(spire.holds(HOME))
        place.cluster.admin.post(
            "/authorities/prepare", {"reason": "a test of one person", "kind": kind, "break_glass": True}
        )
        at = time.monotonic()
        until(lambda: fingerprint(spire.holds(HOME)) != known, "our new authority at SPIRE", 60)
        figures["ours rotates, SPIRE follows"] = time.monotonic() - at
        status = place.peer(SPIRE)
        assert status["reader"]["profile"] == profile and status["reader_overdue"] is False
        # A new datastore: other keys, numbers from the start.
        before = place.held(SPIRE)
        spire.forget()
        if profile == "https_spiffe":
            # Nobody can know its endpoint by the old bundle: the operator gives the new one, and it is judged all the same.
            with pytest.raises(AssertionError, match=r"no authority|cannot be reached|did not prove"):
                place.refresh(SPIRE)
            first = spire.ask("bundle", "show", "-format", "spiffe")
            place.add(SPIRE, spire.url, "--profile", profile, "--reader", "127.0.0.1/32", *more, text=first)
        with pytest.raises(AssertionError):
            place.refresh(SPIRE)
        status = place.peer(SPIRE)
        assert status["fault"] in ("older", "fork", "sequence_lost"), status
        assert place.held(SPIRE)["sequence"] == before["sequence"]
        place.ok("peer", "accept", SPIRE, "--reason", "SPIRE lost its datastore", "--keys", status["refused_keys"])
        until(lambda: place.held(SPIRE)["sequence"] > before["sequence"], "SPIRE's new bundle at our agent")
        believed("restarted")
        with capsys.disabled():
            print(f"\n{profile}: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in figures.items()))
    except AssertionError as error:
        error.add_note(spire.process.tail(40))
        raise
    finally:
        place.ok("peer", "remove", SPIRE, "--reason", "the test is over")
        spire.process.stop()
