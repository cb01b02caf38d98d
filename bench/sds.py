"""The figures of SDS: what an Envoy with our certificates adds to a request, and 100 of them rotated while it serves.

One Envoy terminates mTLS at two doors that differ in one thing: where certificate and validation come from, our agent's socket
or files. The client is the same for both, runs alternate, and the figure is the ratio of their medians. trustfed only.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from bench.figures import Run
from bench.node import write_private
from bench.procs import BenchError, anonymous, resident
from bench.product import HOME, OWN_PATH, OWN_SELECTOR
from bench.trustfed import Trustfed
from tests.unit.agent_sds import envoy as e
from tests.unit.agent_sds.client import Proxy, domains, secrets
from trustfed.demo.ports import free_ports

GROUP = "sds"
OWN = f"spiffe://{HOME}{OWN_PATH}"
SECRETS, RATE = 100, 200
TTL_SECONDS = 60
"""Of the hundred: the shortest life there is; each is renewed after half of it."""
LATEST = 75.0
PAIRS, CONNECTIONS, REQUESTS = 15, 150, 1_500
HANDSHAKE, REQUEST = "request on a new mTLS connection", "request on an open mTLS connection"
ROTATION = f"{SECRETS} secrets rotated under {RATE} new connections a second"


def take(run: Run, folder: Path) -> None:
    """Take them of the product that has SDS with a validator per domain."""
    for product in run.products:
        if isinstance(product, Trustfed):
            folder.mkdir(mode=0o700, parents=True)
            try:
                asyncio.run(_take(run, product, folder))
            except (BenchError, OSError, TimeoutError) as error:
                run.failed(product, "SDS", str(error) or type(error).__name__)


async def _take(run: Run, product: Trustfed, folder: Path) -> None:
    run.progress(f"creating {SECRETS} entries")
    names = [f"spiffe://{HOME}/bench/proxy-{number}" for number in range(SECRETS)]
    for name in names:
        await asyncio.to_thread(product.entry, name, OWN_SELECTOR, x509_ttl=TTL_SECONDS)
    proxy = Proxy(product.socket)
    try:
        client = await _client(proxy, folder)
    finally:
        proxy.close()
    by_sds, by_files, many, admin = free_ports(4)
    listeners = [
        e.listener(by_sds, "sds", e.from_sds([OWN])),
        e.listener(by_files, "files", _files(folder)),
        _many(many, names),
    ]
    async with e.envoy(e.configuration(product.socket, listeners, admin), folder):
        for port in (by_sds, by_files):
            await _answers(port, client)
        for name, sample in ((HANDSHAKE, _handshakes), (REQUEST, _requests)):
            await _compare(run, product, name, (by_sds, by_files), partial(sample, client))
        await _rotate(run, product, many, names, client)


async def _compare(
    run: Run, product: Trustfed, name: str, ports: tuple[int, int], sample: Callable[[int], Awaitable[float]]
) -> None:
    ours, theirs = ports
    taken: dict[int, list[float]] = {ours: [], theirs: []}
    for number in range(PAIRS):
        for port in ports if number % 2 == 0 else reversed(ports):
            taken[port].append(await sample(port))
    # Each run against its neighbour in time: what else the machine does comes and goes.
    ratio = statistics.median(one / other for one, other in zip(taken[ours], taken[theirs], strict=True))
    run.report.add(product.name, GROUP, f"Envoy, {name}: SDS", "p50 ms", statistics.median(taken[ours]))
    run.report.add(product.name, GROUP, f"Envoy, {name}: files", "p50 ms", statistics.median(taken[theirs]))
    run.report.add(product.name, GROUP, f"Envoy, {name}: SDS against files", "ratio", ratio)
    run.progress(f"Envoy, {name}: SDS against files {ratio:.3f}")


async def _handshakes(client: ssl.SSLContext, port: int) -> float:
    """Median milliseconds of a request on a connection of its own."""
    taken = []
    for _ in range(CONNECTIONS):
        begun = time.perf_counter()
        await e.call(port, client)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1000


async def _requests(client: ssl.SSLContext, port: int) -> float:
    """Median milliseconds of one of many requests on one connection, over a blocking socket: nothing else is measured."""
    return await asyncio.to_thread(_in_turn, port, client)


def _in_turn(port: int, client: ssl.SSLContext) -> float:
    taken = []
    with socket.create_connection(("127.0.0.1", port), 10) as plain, client.wrap_socket(plain) as tls:
        for _ in range(REQUESTS):
            begun = time.perf_counter()
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if b" 200 " not in tls.recv(16_384):
                raise BenchError("Envoy did not answer 200")
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1000


@dataclass
class _Load:
    calls: int = 0
    failed: int = 0
    last: str = ""


async def _rotate(run: Run, product: Trustfed, port: int, names: list[str], client: ssl.SSLContext) -> None:
    """Each name's certificate becomes another while connections to all of them are made."""
    async with asyncio.timeout(LATEST):
        before = {name: await _shown(port, name, client) for name in names}
    load, newer = _Load(), dict[str, int]()
    begun = time.monotonic()
    due, calls = begun, set[asyncio.Task[None]]()
    while len(newer) < len(names):
        if time.monotonic() - begun > LATEST:
            raise BenchError(f"{len(names) - len(newer)} of {len(names)} secrets were not rotated in {LATEST:.0f} s")
        name = names[load.calls % len(names)]
        load.calls += 1
        call = asyncio.create_task(_one(port, name, client, before, newer, load))
        calls.add(call)
        call.add_done_callback(calls.discard)
        due += 1 / RATE
        await asyncio.sleep(max(due - time.monotonic(), 0))
    await asyncio.gather(*calls)
    per_second = load.calls / (time.monotonic() - begun)
    agent = product.processes()["agent"]
    run.report.add(product.name, GROUP, ROTATION, "connections/s", per_second, more=True)
    run.report.add(product.name, GROUP, ROTATION, "failed", load.failed)
    run.report.add(product.name, GROUP, "agent with 102 SDS streams, while it rotates", "MB", resident(agent))
    run.report.add(
        product.name, GROUP, "agent with 102 SDS streams, while it rotates", "anonymous MB", anonymous([agent])
    )
    run.progress(f"{ROTATION}: {load.failed} of {load.calls} failed, {per_second:.0f}/s")
    if load.failed:
        run.failed(product, ROTATION, f"{load.failed} of {load.calls} failed, the last with: {load.last}")


async def _one(
    port: int, name: str, client: ssl.SSLContext, before: dict[str, int], newer: dict[str, int], load: _Load
) -> None:
    try:
        shown = await _shown(port, name, client)
    except OSError as error:
        load.failed, load.last = load.failed + 1, str(error) or type(error).__name__
        return
    if shown != before[name]:
        newer[name] = shown


async def _shown(port: int, name: str, client: ssl.SSLContext) -> int:
    """The serial of the certificate that Envoy shows for one of the hundred; it must be that one's."""
    leaf = x509.load_der_x509_certificate(await e.call(port, client, _sni(name)))
    names = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [name]:
        raise OSError(f"Envoy showed another certificate for {name}")
    return leaf.serial_number


async def _answers(port: int, client: ssl.SSLContext) -> None:
    end = time.monotonic() + LATEST
    while True:
        try:
            await e.call(port, client)
        except OSError as error:
            if time.monotonic() > end:
                raise BenchError(f"Envoy at port {port} does not answer: {error}") from error
            await asyncio.sleep(0.05)
        else:
            return


async def _client(proxy: Proxy, folder: Path) -> ssl.SSLContext:
    """The identity of this process by FetchSecrets, left as files too: for the client, and for Envoy's other door."""
    found = secrets(await proxy.fetch(OWN, "ROOTCA"))
    certificate = found[OWN].tls_certificate
    chain, key = certificate.certificate_chain.inline_bytes, certificate.private_key.inline_bytes
    write_private(folder / "chain.pem", chain)
    write_private(folder / "key.pem", key)
    write_private(folder / "anchors.pem", domains(found["ROOTCA"])[HOME])
    return e.client_context([ssl.PEM_cert_to_DER_cert(chain.decode())], key)


def _files(folder: Path) -> dict[str, object]:
    """The same from files, as Envoy is configured without us."""
    return {
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(folder / "chain.pem")},
                "private_key": {"filename": str(folder / "key.pem")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(folder / "anchors.pem")},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": OWN}}],
        },
    }


def _many(port: int, names: list[str]) -> dict[str, object]:
    """One listener with a filter chain per name, each with a certificate of its own by SDS."""
    whole = e.listener(port, "many", {})
    chains = []
    for name in names:
        tls = e.from_sds([OWN])
        tls["tls_certificate_sds_secret_configs"] = [e.sds(name)]
        (chain,) = e.listener(port, "many", tls)["filter_chains"]
        chains.append({**chain, "name": _sni(name), "filter_chain_match": {"server_names": [_sni(name)]}})
    inspector = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    filters = [{"name": "inspector", "typed_config": {"@type": inspector}}]
    return {**whole, "filter_chains": chains, "listener_filters": filters}


def _sni(name: str) -> str:
    return name.rpartition("/")[2] + ".example"
