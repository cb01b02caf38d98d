"""CreateCertificate over a real fold, ledger and authorities: who gets what, and what stands in the ledger before."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from tests.fakes.istio_mesh import request_for, rsa_key
from tests.fakes.journals import FaultyJournal
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.istio_ca.accounts import Account
from trustfed.cluster.istio_ca.config import IstioCaConfig, JwksConfig
from trustfed.cluster.istio_ca.service import FAILED_BURST, IstioCa
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.proto import istio_ca_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

WEB = f"spiffe://{TD}/ns/shop/sa/web"
PODS = {("node-1", "shop", "web")}


class Tokens:
    """The Reviewer port: a token is NAMESPACE/ACCOUNT[@POD]; or it faults."""

    def __init__(self) -> None:
        self.error: TrustfedError | None = None

    async def review(self, token: str) -> Account:
        if self.error:
            raise self.error
        key, _, pod = token.partition("@")
        namespace, slash, name = key.partition("/")
        if not slash:
            raise Denied("service-account token: forged")
        return Account(namespace, name, pod, f"uid-{pod}" if pod else "", "node-1" if pod else "")


class Pods:
    """The Pods port."""

    def __init__(self) -> None:
        self.error: TrustfedError | None = None

    async def node_of(self, caller: Account) -> str:
        if self.error:
            raise self.error
        return "node-1"

    async def runs_on(self, node: str, namespace: str, name: str) -> bool:
        return (node, namespace, name) in PODS


class World:
    """A cluster and its CA for Istio."""

    def __init__(self, parts: ClusterParts, pods: Pods | None = None, **changes: Any) -> None:
        self.parts, self.tokens, self.pods = parts, Tokens(), pods
        config = {
            "listen": "127.0.0.1:0",
            "dns_names": ("trustfed-ca.istio-system.svc",),
            "jwks": JwksConfig("https://issuer.example", url="https://issuer.example/keys"),
            "ztunnel": ("istio-system/ztunnel",),
            "exclude": ("kube-system", "shop/banned"),
            **changes,
        }
        self.config = IstioCaConfig(**config)
        self.ca = IstioCa(
            TrustDomain(TD),
            parts.issuance,
            self.anchors,
            self.tokens,
            pods,
            self.config,
            parts.policy,
            parts.clock,
            Registry(),
        )

    def bundle(self) -> Bundle:
        state = self.parts.state
        assert state.domain is not None
        return held_envelope(state.envelope, TD, state.domain.publication_key).bundle

    def anchors(self) -> tuple[bytes, ...]:
        return self.bundle().x509_authorities

    async def ask(
        self,
        token: str = "shop/web@web-0",
        csr: str | None = None,
        *,
        life: int = 0,
        metadata: dict[str, Any] | None = None,
        headers: list[tuple[str, str | bytes]] | None = None,
        address: str = "ipv4:10.0.0.1",
    ) -> list[str]:
        request = pb.IstioCertificateRequest(csr=request_for() if csr is None else csr, validity_duration=life)
        if metadata is not None:
            request.metadata.CopyFrom(ParseDict(metadata, Struct()))
        said = [("authorization", f"Bearer {token}")] if headers is None else headers
        return list((await self.ca.create(said, request, address)).cert_chain)

    async def leaf(self, *arguments: Any, **more: Any) -> x509.Certificate:
        """The leaf, verified as every SPIFFE verifier would; its chain is [leaf, root bundle]."""
        chain = await self.ask(*arguments, **more)
        assert len(chain) == 2
        roots = x509.load_pem_x509_certificates(chain[1].encode())
        assert tuple(root.public_bytes(Encoding.DER) for root in roots) == self.anchors()
        (leaf,) = x509.load_pem_x509_certificates(chain[0].encode())
        verify_x509_svid([leaf.public_bytes(Encoding.DER)], self.bundle(), self.parts.now)
        return leaf

    async def facts(self) -> list[dict[str, Any]]:
        records = await self.parts.ledger.read(0, 1000)
        return [record.fact.body for record in records if record.fact.body.get("entry") == "istio-ca"]


def uris(leaf: x509.Certificate) -> list[str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


@pytest_asyncio.fixture
async def parts() -> AsyncIterator[ClusterParts]:
    made = await ClusterParts.make()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def world(parts: ClusterParts) -> World:
    return World(parts, Pods())


async def test_the_identity_is_the_accounts_and_the_serial_is_on_record(world: World) -> None:
    first = await world.leaf(csr=request_for(WEB))
    assert uris(first) == [WEB]
    second = await world.leaf()
    facts = await world.facts()
    assert [fact["serial"] for fact in facts] == [f"{first.serial_number:032x}", f"{second.serial_number:032x}"]
    assert facts[1]["predecessor"] == facts[0]["serial"]
    assert {(fact["slot"], fact["instance"], fact["node"]) for fact in facts} == {
        ("istio-ca", "istio-ca/shop/web/web-0", "node-1")
    }


async def test_what_cannot_be_recorded_is_not_signed() -> None:
    class Full:
        async def append(self, facts: object) -> None:
            raise Unavailable("the disk is full")

    parts = await ClusterParts.make(ledger=Full(), journal=FaultyJournal())  # type: ignore[arg-type]
    signed: list[str] = []
    sign = parts.keys.sign

    async def watched(name: str, messages: Any) -> Any:
        signed.append(name)
        return await sign(name, messages)

    parts.keys.sign = watched  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="the disk is full"):
        await World(parts).ask()
    assert not signed
    await parts.close()


@pytest.mark.parametrize(
    "names",
    [
        ("spiffe://cluster.local/ns/shop/sa/web",),
        (f"spiffe://{TD}/ns/shop/sa/admin",),
        (f"spiffe://{TD}/trustfed/cluster",),
        (WEB, f"spiffe://{TD}/ns/kube-system/sa/admin"),
        (WEB, WEB),
        (WEB + ",URI:spiffe://other/x",),
        (WEB.upper(),),
        (WEB + "/",),
    ],
    ids=repr,
)
async def test_a_request_that_names_another_identity_is_refused(world: World, names: tuple[str, ...]) -> None:
    with pytest.raises(Denied, match="certificate request"):
        await world.ask(csr=request_for(*names))
    assert not await world.facts()


async def test_nothing_else_of_a_request_is_taken_over(world: World) -> None:
    leaf = await world.leaf(csr=request_for(dns=("istiod.istio-system.svc", "google.com")))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(names) == 1
    assert uris(leaf) == [WEB]
    assert not leaf.subject.rdns


async def test_a_request_of_openssl_does(world: World, tmp_path: Path) -> None:
    config = tmp_path / "csr.conf"
    config.write_text(
        f"[req]\ndistinguished_name=d\nreq_extensions=e\nprompt=no\n[d]\nO=x\n[e]\nsubjectAltName=URI:{WEB}\n"
    )
    for kind in (["-newkey", "rsa:2048"], ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]):
        argv = ["openssl", "req", "-new", *kind, "-nodes", "-keyout", str(tmp_path / "k"), "-config", str(config)]
        made = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert uris(await world.leaf(csr=made.stdout)) == [WEB]


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa_key()], ids=["P-384", "RSA-2048"])
async def test_keys_that_agents_make_are_certified(world: World, key: Any) -> None:
    leaf = await world.leaf(csr=request_for(WEB, key=key))
    own, certified = key.public_key(), leaf.public_key()
    assert own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == certified.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def test_weak_and_huge_keys_are_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from trustfed.cluster.istio_ca.requests import possessed_key

    weak = rsa.generate_private_key(65537, 1024)
    for key in (weak, ec.generate_private_key(ec.SECP521R1()), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(Invalid, match="not accepted"):
            possessed_key(request_for(key=key))
    huge = _huge_request(request_for(key=rsa_key()), 16_384)
    with pytest.raises(Invalid, match="16384 bits is not accepted"):
        possessed_key(huge)


def _huge_request(pem: str, bits: int) -> str:
    """A request whose key has so many bits; nobody holds it."""
    from ca import der

    number = (1 << bits) - 1
    key = der.tlv(der.SEQUENCE, der.integer(number) + der.integer(65537))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    spki = der.tlv(der.SEQUENCE, algorithm + der.tlv(der.BIT_STRING, b"\0" + key))
    info = der.tlv(der.SEQUENCE, der.integer(0) + b"\x30\x00" + spki + b"\xa0\x00")
    signature = der.tlv(der.BIT_STRING, b"\0" + b"\1" * (bits // 8))
    request = der.tlv(der.SEQUENCE, info + bytes.fromhex("300d06092a864886f70d01010b0500") + signature)
    return x509.load_der_x509_csr(request).public_bytes(Encoding.PEM).decode()


async def test_who_does_not_hold_the_key_gets_nothing(world: World) -> None:
    honest = request_for(WEB)
    body = honest.splitlines()
    broken = bytearray(x509.load_pem_x509_csr(honest.encode()).public_bytes(Encoding.DER))
    broken[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(broken)).public_bytes(Encoding.PEM).decode()
    for csr in (forged, "", honest + honest, "x" * 9000, "\n".join(body[:-2]), honest.replace("REQUEST", "X")):
        with pytest.raises(Invalid, match="certificate request"):
            await world.ask(csr=csr)


async def test_the_life_is_what_was_asked_for_within_bounds(world: World) -> None:
    def life(leaf: x509.Certificate) -> int:
        return int((leaf.not_valid_after_utc - world.parts.now.replace(microsecond=0)).total_seconds())

    assert life(await world.leaf(life=600)) == 600
    assert life(await world.leaf()) == 3600
    assert life(await world.leaf(life=10**9)) == 24 * 3600
    with pytest.raises(Invalid, match="a life of -1 s"):
        await world.ask(life=-1)
    short = World(world.parts, ttl_max=timedelta(minutes=30))
    assert life(await short.leaf(life=86_400)) == 1800


@pytest.mark.parametrize("token", ["kube-system/admin", "shop/banned"])
async def test_namespaces_and_accounts_can_be_kept_out(world: World, token: str) -> None:
    with pytest.raises(Denied, match="no certificates are issued"):
        await world.ask(token)
    only = World(world.parts, allow=("shop",), exclude=())
    await only.ask("shop/web")
    with pytest.raises(Denied, match="no certificates are issued"):
        await only.ask("bank/web")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Basic shop/web")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer shop/web"), ("authorization", "Bearer shop/web")],
        [("authorization", b"Bearer shop/web")],
        [("x-authorization", "Bearer shop/web")],
    ],
    ids=repr,
)
async def test_one_bearer_token_and_no_other_way(world: World, headers: list[tuple[str, str | bytes]]) -> None:
    with pytest.raises(Denied, match="presented no service-account token"):
        await world.ask(headers=headers)


async def test_another_cluster_is_not_served(world: World) -> None:
    picky = World(world.parts, cluster_ids=("east",))
    bearer: list[tuple[str, str | bytes]] = [("authorization", "Bearer shop/web")]
    for said in ([], [("clusterid", "west")], [("clusterid", "east"), ("clusterid", "west")]):
        with pytest.raises(Denied, match="is not served here"):
            await picky.ask(headers=[*bearer, *said])
    await picky.ask(headers=[*bearer, ("clusterid", "east")])


async def test_one_caller_that_asks_without_end_is_held_back_alone(world: World) -> None:
    for _ in range(world.config.rate_burst):
        await world.ask("shop/web@web-0")
    with pytest.raises(Unavailable, match="too often"):
        await world.ask("shop/web@web-0")
    await world.ask("shop/web@web-1")
    world.parts.clock.move(world.config.rate_interval.total_seconds())
    await world.ask("shop/web@web-0")


async def test_an_address_that_guesses_is_held_back_alone(world: World) -> None:
    for _ in range(FAILED_BURST):
        with pytest.raises(Denied):
            await world.ask("forged", address="ipv4:10.6.6.6")
    with pytest.raises(Unavailable, match="came from this address"):
        await world.ask("shop/web", address="ipv4:10.6.6.6")
    await world.ask("shop/web")


async def test_what_a_believed_caller_may_not_have_is_held_against_nobody_else_at_its_address(world: World) -> None:
    gone = {"ImpersonatedIdentity": f"spiffe://{TD}/ns/shop/sa/short-lived"}
    for _ in range(FAILED_BURST + 5):
        with pytest.raises(Denied, match="no pod of shop/short-lived runs"):
            await world.ask("istio-system/ztunnel@ztunnel-0", metadata=gone)
    await world.ask("istio-system/ztunnel@ztunnel-0", metadata={"ImpersonatedIdentity": WEB})
    for _ in range(world.config.rate_burst):
        with pytest.raises(Denied, match="no certificates are issued"):
            await world.ask("kube-system/admin@a-0")
    with pytest.raises(Unavailable, match="too often"):
        await world.ask("kube-system/admin@a-0")
    await world.ask()


async def test_while_nobody_can_say_whose_a_token_is_nobody_is_blamed(world: World) -> None:
    world.tokens.error = Unavailable("a token review: the Kubernetes API answered with status 500")
    for _ in range(FAILED_BURST + 5):
        with pytest.raises(Unavailable, match="status 500"):
            await world.ask()
    world.tokens.error = None
    await world.ask()


ZTUNNEL = "istio-system/ztunnel@ztunnel-0"


async def test_a_ztunnel_gets_the_identities_of_its_own_node(world: World) -> None:
    leaf = await world.leaf(ZTUNNEL, request_for(WEB), metadata={"ImpersonatedIdentity": WEB})
    assert uris(leaf) == [WEB]
    assert (await world.facts())[-1]["instance"] == "istio-ca/shop/web/node-1"
    own = await world.leaf(ZTUNNEL)
    assert uris(own) == [f"spiffe://{TD}/ns/istio-system/sa/ztunnel"]


@pytest.mark.parametrize(
    ("token", "identity"),
    [
        ("shop/web@web-0", f"spiffe://{TD}/ns/shop/sa/admin"),
        ("bank/ztunnel@ztunnel-0", WEB),
        (ZTUNNEL, f"spiffe://{TD}/ns/bank/sa/web"),
        (ZTUNNEL, f"spiffe://{TD}/ns/kube-system/sa/admin"),
        (ZTUNNEL, "spiffe://other/ns/shop/sa/web"),
        (ZTUNNEL, f"spiffe://{TD}/trustfed/cluster"),
        (ZTUNNEL, f"spiffe://{TD}/ns/shop/sa/web/x"),
        (ZTUNNEL, f"spiffe://{TD}/ns/shop/sa"),
    ],
)
async def test_a_ztunnel_gets_no_other_identity(world: World, token: str, identity: str) -> None:
    with pytest.raises(Denied):
        await world.ask(token, metadata={"ImpersonatedIdentity": identity})
    assert not await world.facts()


async def test_without_kubernetes_a_ztunnel_is_told_why(world: World) -> None:
    with pytest.raises(Denied, match="which pods run on a ztunnel's node is not known here") as caught:
        await World(world.parts, None).ask(ZTUNNEL, metadata={"ImpersonatedIdentity": WEB})
    assert "istio_ca.kubernetes" in caught.value.hint
    assert world.pods is not None
    world.pods.error = Unavailable("the caller's pod: the Kubernetes API answered with status 503")
    with pytest.raises(Unavailable, match="status 503"):
        await world.ask(ZTUNNEL, metadata={"ImpersonatedIdentity": WEB})


@pytest.mark.parametrize(
    "metadata", [{"ImpersonatedIdentity": 7}, {"CertSigner": "x"}, {"ImpersonatedIdentity": "web"}]
)
async def test_metadata_that_makes_no_sense_is_refused(world: World, metadata: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await world.ask(ZTUNNEL, metadata=metadata)


async def test_a_rule_of_ones_own(world: World) -> None:
    other = World(world.parts, rule="/mesh/{service_account}/in/{namespace}")
    assert uris(await other.leaf()) == [f"spiffe://{TD}/mesh/web/in/shop"]


async def test_a_tainted_authority_signs_nothing_more(world: World) -> None:
    before = world.anchors()
    (active,) = [a for a in world.parts.all() if a.twin in before]
    from trustfed.cluster import authority_commands

    await world.parts.decide(lambda s: authority_commands.taint(s, active.id, False, world.parts.now))
    with pytest.raises(Unavailable, match="may sign now"):
        await world.ask()
    await world.parts.round()
    (new,) = [a for a in world.parts.all() if a.twin and a.id != active.id]
    await world.parts.authorities.certify_one(new, world.parts)
    await world.parts.round()
    leaf = await world.leaf()
    assert leaf.issuer != x509.load_der_x509_certificate(before[0]).subject


async def test_many_at_once_each_get_their_own(world: World) -> None:
    tokens = [f"shop/w{at}@p{at}" for at in range(30)]
    found = await asyncio.gather(*(world.leaf(token) for token in tokens))
    assert [uris(leaf) for leaf in found] == [
        [str(SpiffeId.parse(f"spiffe://{TD}/ns/shop/sa/w{at}"))] for at in range(30)
    ]
