"""A workload of the demo: gets its identity by the official Python library `spiffe`, serves and calls its peer over mTLS.

    python -m trustfed.demo.workload --api SOCKET --control SOCKET --listen HOST:PORT
                                     --peer-id SPIFFE_ID --peer HOST:PORT [--spiffe-id SPIFFE_ID] [--rate CALLS_PER_SECOND]

TLS pools the authorities of every trust domain it knows; who the peer is is decided after the handshake, in the bundle
of the one trust domain that --peer-id names (trustfed.spiffe.verify). Each call is a new connection, verified anew.
The control socket answers GET /status, and POST /call {"address": HOST:PORT}: one call, whoever answers there.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from spiffe import WorkloadApiClient, X509Source

from trustfed.demo.mtls import Call, Identity, Refusal, call, read_identity, serve
from trustfed.errors import TrustfedError, Unavailable
from trustfed.runtime import logs, process, unix_http
from trustfed.runtime.sockets import listen_tcp, listen_unix, parse_address
from trustfed.spiffe.ids import SpiffeId

RETRY_SECONDS = 0.2
log = logs.get("workload")


class Workload:
    """What this process is, whom it talks to, and what it counted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._peer_id = SpiffeId.parse(options.peer_id)
        self._identity: Identity | None = None
        self._first = asyncio.Event()
        self._changed: list[Callable[[Identity], None]] = []
        self.rotations = self.calls = self.failed = 0
        self.last_failure = self.peer_authority = ""
        self.called: dict[str, int] = {}
        self.verified: dict[str, int] = {}
        self.identities: dict[str, float] = {}  # SPIFFE ID → when it came (Unix seconds)
        self.bundles: dict[str, float] = {}  # trust domain → when its bundle came

    @property
    def identity(self) -> Identity:
        """The newest identity. Raises Unavailable before the first."""
        if self._identity is None:
            raise Unavailable("this workload has no SVID yet")
        return self._identity

    async def run(self, stop: asyncio.Event) -> None:
        """Serve and call until `stop`."""
        control = await unix_http.serve(
            listen_unix(Path(self._options.control)),
            {("GET", "/status"): self._status, ("POST", "/call"): self._one_call},
        )
        tasks = [asyncio.create_task(work) for work in (self._follow(), self._serve(), self._call_steadily())]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await control.close()

    async def _follow(self) -> None:
        """Keep a stream of the Workload API open, and take what it pushes."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        while True:
            client = None
            try:
                client = WorkloadApiClient(f"unix:{self._options.api}")
                source = await asyncio.to_thread(
                    X509Source, client, timeout_in_seconds=RETRY_SECONDS * 10, svid_picker=self._pick
                )
            except Exception as error:  # the library's errors have no common base that it promises
                log.warning("no identity yet", error=str(error)[:200])
                if client is not None:
                    client.close()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            source.subscribe_for_updates(partial(_tell, loop, news))
            news.set()
            while not source.is_closed():
                try:
                    await asyncio.wait_for(news.wait(), 1.0)
                except TimeoutError:
                    continue
                news.clear()
                try:
                    self._take(read_identity(source.get_x509_context(), time.time(), self._options.spiffe_id))
                except Exception as error:
                    log.warning("an update could not be used", error=str(error)[:200])
            client.close()

    def _pick(self, svids: list[Any]) -> Any:
        """The default identity is the first (Workload API §5.3). This is where the library shows all of a push."""
        now = time.time()
        self.identities = {name: self.identities.get(name, now) for name in (str(svid.spiffe_id) for svid in svids)}
        return svids[0]

    def _take(self, identity: Identity) -> None:
        held, self._identity = self._identity, identity
        if held is not None and held.serial != identity.serial:
            self.rotations += 1
            log.info("SVID rotated", serial=identity.serial, authority=identity.authority, rotations=self.rotations)
        now = identity.received
        names = [domain.name for domain in identity.bundles.bundles]
        if sorted(names) != sorted(self.bundles):
            log.info("bundles held", trust_domains=", ".join(sorted(names)))
        self.bundles = {name: self.bundles.get(name, now) for name in names}
        for changed in self._changed:
            changed(identity)
        self._first.set()

    async def _serve(self) -> None:
        await self._first.wait()
        listener = listen_tcp(self._options.listen)
        update = await serve(listener, lambda: self.identity, self._peer_id, self._answered)
        self._changed.append(update)
        log.info("serving", spiffe_id=str(self.identity.id), address=self._options.listen)
        await asyncio.Event().wait()

    def _answered(self, peer: SpiffeId | None, refusal: str) -> None:
        if peer is None:
            log.warning("refused a caller", reason=refusal)
            return
        if str(peer) not in self.verified:
            log.info("verified a caller", peer=str(peer))
        self.verified[str(peer)] = self.verified.get(str(peer), 0) + 1

    async def _call_steadily(self) -> None:
        """Call at a steady rate, as long as there is a bundle to verify the peer by."""
        host, port = parse_address(self._options.peer)
        due = asyncio.get_running_loop().time()
        while True:
            due = max(due + 1 / self._options.rate, asyncio.get_running_loop().time() - 1)
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            if self._identity is None or self._peer_id.trust_domain not in self._identity.bundles.bundles:
                continue
            self.calls += 1
            made = await self._call(host, port)
            if isinstance(made, Refusal):
                self.failed, self.last_failure = self.failed + 1, made.reason
                log.warning("a call failed", reason=made.reason)
                continue
            if str(made.peer) not in self.called:
                log.info("verified the server called", peer=str(made.peer))
            self.called[str(made.peer)] = self.called.get(str(made.peer), 0) + 1
            self.peer_authority = made.authority

    async def _call(self, host: str, port: int) -> Call | Refusal:
        try:
            return await call(host, port, self.identity, self._peer_id)
        except TrustfedError as error:
            return Refusal(error.message, False)

    async def _one_call(self, request: unix_http.Request) -> unix_http.Response:
        host, port = parse_address(str(request.json().get("address", "")))
        started = time.perf_counter()
        made = await self._call(host, port)
        milliseconds = (time.perf_counter() - started) * 1000
        answer: dict[str, Any] = {"milliseconds": round(milliseconds, 1)}
        if isinstance(made, Refusal):
            answer |= {"peer": None, "refused": made.reason, "handshake": made.handshake}
        else:
            answer |= {"peer": str(made.peer), "refused": None, "handshake": True, "authority": made.authority}
        return unix_http.Response.of(answer)

    async def _status(self, request: unix_http.Request) -> unix_http.Response:
        held = self._identity
        return unix_http.Response.of(
            {
                "spiffe_id": str(held.id) if held else None,
                "serial": held.serial if held else None,
                "authority": held.authority if held else None,
                "svids": self.identities,
                "bundles": self.bundles,
                "rotations": self.rotations,
                "calls": self.calls,
                "failed": self.failed,
                "last_failure": self.last_failure,
                "called": self.called,
                "verified": self.verified,
                "peer_authority": self.peer_authority,
            }
        )


def _tell(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    """The library calls from a thread of its own."""
    loop.call_soon_threadsafe(news.set)


def main(argv: list[str]) -> int:
    """Run one workload until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m trustfed.demo.workload", description=__doc__)
    for name in ("api", "control", "listen", "peer-id", "peer"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--spiffe-id", default="", help="which of its identities it uses; else the first")
    parser.add_argument("--rate", type=float, default=10.0)
    options = parser.parse_args(argv)
    logs.configure("info")
    # The library reports a failed stream as an error although it is about to try again; ours says it once.
    logging.getLogger("spiffe").setLevel(logging.CRITICAL)
    return process.run(Workload(options).run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
