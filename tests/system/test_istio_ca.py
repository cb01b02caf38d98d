"""A real cluster process as the CA of a mesh: Istio's protocol, the plugged-in CA, and a mesh that moves to this domain."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority import new_authority_id
from ca.external import make_external
from tests.fakes.foreign_peer import WebCa
from tests.fakes.istio_mesh import ISSUER, Issuer, request_for
from tests.system.plugged_istiod import BINARY, PluggedIstiod
from tests.system.stack import Agent, Cluster, Stack, until
from trustfed.cli.cacertsfolder import NAMES, Folder, Plugin, blocks
from trustfed.cli.main import main
from trustfed.demo.ports import free_port
from trustfed.proto import istio_ca_pb2 as pb
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.verify import verify_x509_svid
from trustfed.spiffe.x509svid import pem

TD, NAME = "prod-us-west", "trustfed-ca.istio-system.svc"
WEB = f"spiffe://{TD}/ns/shop/sa/web"
METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
ENTRY = "/ns/shop/sa/api"


@dataclass
class House:
    """One cluster with the door open, and one node."""

    stack: Stack
    cluster: Cluster
    agent: Agent
    address: str
    issuer: Issuer
    folder: Path

    def cli(self, *arguments: str, fails: bool = False) -> str:
        """Run `trustfed`; its output, errors too."""
        return command(*arguments, "--socket", str(self.cluster.admin.path), fails=fails)

    def bundle(self) -> Bundle:
        """The home bundle."""
        return Bundle.parse(TrustDomain(TD), self.cli("bundle", "show", TD).encode())


def command(*arguments: str, fails: bool = False) -> str:
    """Run `trustfed` in this process: starting Python for each would be most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    assert (code != 0) == fails, out.getvalue() + err.getvalue()
    return out.getvalue() + err.getvalue()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder, issuer = tmp_path_factory.mktemp("istio"), Issuer()
    (folder / "jwks.json").write_bytes(issuer.jwks())
    address = f"127.0.0.1:{free_port()}"
    tables: dict[str, object] = {
        "istio_ca": {"listen": address, "dns_names": [NAME], "exclude": ["kube-system"]},
        "istio_ca.jwks": {"issuer": ISSUER, "file": str(folder / "jwks.json")},
    }
    with Stack(folder / "stack") as stack:
        cluster = stack.cluster(TD, tables=tables)
        agent = cluster.agent("node-1")
        uid = f"unix:uid:{os.getuid()}"
        made = cluster.entry(ENTRY, parent="node/node-1", selectors=(uid,), federates_with=("*",))
        agent.wait_for(made["id"])
        until(lambda: _listens(address), "the door of Istio's protocol")
        yield House(stack, cluster, agent, address, issuer, folder)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def ask(
    house: House, token: str, csr: str = "", *, roots: bytes | None = None, name: str = NAME
) -> pb.IstioCertificateResponse:
    """What istio-agent does: TLS with CA_ROOT_CA and the host name of CA_ADDR, its token and clusterid as metadata."""
    trusted = roots if roots is not None else pem(house.bundle().x509_authorities)
    options = [("grpc.ssl_target_name_override", name)]
    credentials = grpc.ssl_channel_credentials(root_certificates=trusted)
    async with grpc.aio.secure_channel(house.address, credentials, options=options) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=pb.IstioCertificateRequest.SerializeToString,
            response_deserializer=pb.IstioCertificateResponse.FromString,
        )
        said = (("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes"))
        request = pb.IstioCertificateRequest(csr=csr or request_for(WEB), validity_duration=86_400)
        response: pb.IstioCertificateResponse = await call(request, metadata=said, timeout=20)
        return response


async def test_an_istio_agent_gets_its_certificate(house: House) -> None:
    response = await ask(house, house.issuer.token())
    assert len(response.cert_chain) == 2
    (leaf,) = x509.load_pem_x509_certificates(response.cert_chain[0].encode())
    bundle = house.bundle()
    assert str(verify_x509_svid([leaf.public_bytes(Encoding.DER)], bundle, datetime.now(UTC)).id) == WEB
    roots = tuple(
        one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(response.cert_chain[1].encode())
    )
    assert roots == bundle.x509_authorities, "home anchors and nothing else"
    # The next one is asked for over what the last answer said: the root element is CA_ROOT_CA from then on.
    again = await ask(house, house.issuer.token(), roots=response.cert_chain[-1].encode())
    assert again.cert_chain[0] != response.cert_chain[0]
    asked = house.cluster.admin.get("/istio-ca")
    assert (asked["enabled"], asked["tokens"]) == (True, "jwks")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": "kubernetes"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"exp": 1}, grpc.StatusCode.PERMISSION_DENIED),
        ({"namespace": "kube-system", "account": "admin"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"account": "other"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"headers": {"jku": "https://attacker.example"}}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=repr,
)
async def test_a_token_that_is_not_to_be_believed(house: House, changes: dict[str, Any], code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(house, house.issuer.token(**changes))
    assert caught.value.code() is code
    assert "hint: " in caught.value.details() or code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_knows_the_door_by_the_home_anchors_and_its_name(house: House) -> None:
    token, other = house.issuer.token(), pem([WebCa().der])
    for how in ({"roots": other}, {"name": "istiod.istio-system.svc"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(house, token, **how)  # type: ignore[arg-type]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_request_that_is_too_large_spoils_nothing(house: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(house, house.issuer.token(), "x" * 100_000)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await asyncio.gather(*(ask(house, house.issuer.token()) for _ in range(3)))


def test_a_plugged_in_ca_from_its_key_to_its_roll_over(house: House) -> None:
    """Prepared, published, exported; rolled over; and at each moment the files are what istiod takes."""
    folder = house.folder / "cacerts"
    write = ("--write", str(folder))
    assert "none:" in house.cli("cacerts", "advance", *write)
    begin = ("cacerts", "begin", *write, "--leaf-ttl", "24h", "--reason", "istiod signs here")
    said = house.cli(*begin)
    assert "another person approves it with: trustfed approval approve" in said
    assert "is proposed already: trustfed approval approve" in house.cli(*begin)  # the key that waits is kept
    house.cli("approval", "withdraw", said.split()[1].rstrip(":"), "--reason", "the test is one person")
    house.cli(*begin, "--break-glass")
    assert "is begun already" in house.cli("cacerts", "begin", *write, "--leaf-ttl", "24h", "--reason", "again")
    assert not (folder / "ca-cert.pem").exists()
    # A command that ended just after it was recorded: nothing begins over the key, and the next call brings the files.
    stands = until(lambda: _next(house, "export"), "every reader to have the anchor")
    house.cluster.admin.post(f"/cacerts/{stands['following']}/exported")
    refused = house.cli("cacerts", "begin", *write, "--leaf-ttl", "24h", "--reason", "again", fails=True)
    assert "a key that signs and is not in its place yet" in refused
    first = until(lambda: advanced(house, write, "settled"), "the first export")["signing"]
    assert first == stands["following"]
    files = Folder(folder).present()
    assert files is not None
    anchors = house.bundle().x509_authorities
    assert blocks(files.roots) == [pem([der]) for der in anchors]
    assert "istiod would take" in command("cacerts", "check", *write)
    argv = ["openssl", "verify", "-CAfile", "root-cert.pem", "-untrusted", "cert-chain.pem", "ca-cert.pem"]
    said = subprocess.run(argv, cwd=folder, capture_output=True)
    assert said.stdout == b"ca-cert.pem: OK\n", said
    listed = house.cli("authority", "list")
    assert "issued outside" in listed
    assert first in listed

    with contextlib.ExitStack() as stack:
        istiod = stack.enter_context(PluggedIstiod(folder, house.folder / "istiod")) if BINARY else None
        if istiod:
            istiod.said("marking server ready")
        roll_over(house, folder, first, istiod)
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == sorted(NAMES)


def roll_over(house: House, folder: Path, first: str, istiod: PluggedIstiod | None) -> None:
    """Through every step; where there is an istiod, it takes each change while it runs."""
    write, anchors = ("--write", str(folder)), house.bundle().x509_authorities
    files = Folder(folder).present()
    assert files is not None
    house.cli("cacerts", "begin", *write, "--leaf-ttl", "24h", "--reason", "yearly rollover", "--break-glass")
    stands = until(lambda: advanced(house, write, "swapping"), "both anchors in root-cert.pem")
    assert "proxies to hold both anchors" in " ".join(stands["waits_for"])
    both = Folder(folder).present()
    assert both is not None
    assert both.certificate == files.certificate
    assert both.roots.startswith(files.roots)
    if istiod:
        istiod.said("Updating new ROOT-CA")
    assert "reissuing" in house.cli(
        "cacerts", "advance", *write, "--confirmed", "--reason", "all proxies show both", "--break-glass"
    )
    swapped = Folder(folder).present()
    assert swapped is not None
    assert swapped.roots == both.roots
    assert swapped.certificate != files.certificate
    if istiod:
        istiod.said("detected the newly added intermediate CA", 2)
    found = house.cluster.admin.get("/cacerts")
    assert (found["step"], found["leaving"]) == ("reissuing", [first])
    assert "waits for" in house.cli("cacerts", "status")
    house.cli("authority", "revoke", first, "--reason", "the test does not wait a day", "--break-glass")
    until(lambda: len(house.cluster.admin.get("/cacerts")["anchors"]) == len(anchors), "the old anchor to leave")
    # The old one stands in the middle: what stays is repeated behind it first, and the front is cut off later.
    house.cli("cacerts", "advance", *write)
    assert "is changed at a later call" in house.cli("cacerts", "advance", *write)
    if istiod:
        istiod.said("Updating new ROOT-CA", 2)
    house.cli("cacerts", "advance", *write, "--settle", "0s")
    after = Folder(folder).present()
    assert after is not None
    assert files.certificate not in blocks(after.roots)
    assert "settled" in house.cli("cacerts", "status")
    if istiod:
        istiod.said("Updating new ROOT-CA", 3)
        assert "not supported" not in istiod.log()


def _next(house: House, step: str) -> dict[str, Any] | None:
    found: dict[str, Any] = house.cluster.admin.get("/cacerts")
    return found if found["next"] == step else None


def advanced(house: House, write: tuple[str, ...], step: str) -> dict[str, Any] | None:
    house.cli("cacerts", "advance", *write)
    found: dict[str, Any] = house.cluster.admin.get("/cacerts")
    return found if found["step"] == step and not found["next"] else None


@pytest.mark.skipif(not BINARY, reason="TRUSTFED_ISTIOD names no pilot-discovery binary")
def test_a_real_istiod_boots_with_the_files_and_follows_each_change(tmp_path: Path) -> None:
    """Appended, swapped, cut off at the front: each is taken while it runs."""

    def made() -> tuple[bytes, bytes]:
        now = datetime.now(UTC)
        end, id_ = (now + timedelta(days=90)).replace(microsecond=0), new_authority_id(os.urandom)
        key, twin = make_external(TrustDomain(TD), id_, not_after=end, now=now, randomness=os.urandom)
        return pem([twin]), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(pair: tuple[bytes, bytes], *roots: bytes) -> None:
        folder.write(Plugin(*pair, pair[0], b"".join(roots)), datetime.now(UTC))

    folder, (old, new) = Folder(tmp_path / "cacerts"), (made(), made())
    write(old, old[0])
    with PluggedIstiod(folder.path, tmp_path / "istiod") as istiod:
        istiod.said("Istiod CA has started")
        istiod.said("marking server ready")
        write(old, old[0], new[0])
        istiod.said("Updating new ROOT-CA")
        istiod.said("detected the newly added intermediate CA")
        write(new, old[0], new[0])
        istiod.said("detected the newly added intermediate CA", 2)
        write(new, new[0])
        istiod.said("Updating new ROOT-CA", 2)
        istiod.said("detected the newly added intermediate CA", 3)
        for refusal in ("not supported", "Failed", "failed to"):
            assert refusal not in istiod.log()


def test_a_mesh_moves_from_cluster_local(house: House) -> None:
    """The old anchor reaches the node as a trust domain of its own, and leaves it again when it ends."""
    old = house.folder / "old-root.pem"
    old.write_bytes(pem([WebCa().der]))
    alone = ("--reason", "one person runs this test", "--break-glass")
    said = house.cli("legacy", "add", "cluster.local", "--anchor", str(old), "--until", "30d", *alone)
    assert f"trustDomain: {TD}\ntrustDomainAliases:\n- cluster.local\n" in said
    assert "cluster.local" in house.cli("legacy", "list")
    until(lambda: "cluster.local" in _held(house), "the old anchor on the node")
    own = house.bundle().x509_authorities
    assert x509.load_pem_x509_certificate(old.read_bytes()).public_bytes(Encoding.DER) not in own
    for name in (TD, "trustfed-hub.example"):
        refused = house.cli("legacy", "add", name, "--anchor", str(old), "--until", "1d", "--reason", "x", fails=True)
        assert "this federation's own" in refused
    far = (datetime.now(UTC) + timedelta(days=91)).isoformat()
    assert "at most 90 days" in house.cli(
        "legacy", "add", "old.local", "--anchor", str(old), "--until", far, "--reason", "x", fails=True
    )
    assert "trustDomainAliases" not in house.cli("legacy", "end", "cluster.local", "--reason", "all moved")
    until(lambda: "cluster.local" not in _held(house), "the old anchor to leave the node")
    house.cli("legacy", "add", "cluster.local", "--anchor", str(old), "--until", "2s", *alone)
    until(lambda: house.cluster.admin.get("/legacy")["legacy"] == [], "the end of its time")
    until(lambda: "cluster.local" not in _held(house), "the old anchor to leave the node again")

    def ended_by() -> set[str]:
        grants = house.cluster.admin.get("/grants")["grants"]
        return {grant["ended_by"] for grant in grants if grant["exporter"] == "cluster.local"}

    until(lambda: "time" in ended_by(), "the grant to be ended by time")


def _held(house: House) -> list[str]:
    """The trust domains, beside its own, whose bundles a workload on the node is given."""
    said = command("svid", "x509", "--socket", str(house.agent.socket), "--output", "json")
    return [name for svid in json.loads(said) for name in svid["federated"]]
