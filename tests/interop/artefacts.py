"""What we issue, written into a folder for verifiers that share no code with us, and what each must say about it.

`make(folder)` issues through `ca` and `trustfed.spiffe` for two trust domains under one root, beside it certificates
and tokens with one fault each, and writes `cases.json`: the list that every verifier program answers, one JSON line
`{"case": NAME, "ok": BOOL, "detail": TEXT}` per case. Kinds of cases:

bundle  a SPIFFE bundle document is read; detail: `<x509 authorities> <jwt kids> <sequence> <refresh hint>`, "-" for
        what a library does not show
svid    certificate chain and private key (PEM) are read as an X509-SVID; detail: its SPIFFE ID
spiffe  a chain is verified as X509-SVID against the bundles of both domains, chosen by its trust domain; detail: the ID
pkix    a chain is verified by plain RFC 5280 path validation against the certificates in `anchors`, for TLS server use
jwt     a token is verified as JWT-SVID for `audience` against the bundles of both domains; detail: its subject
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca import der
from ca.authority import make_authority_csr, make_twin, new_authority_id
from ca.issuance import Issued, Issuer, LeafRequest, issue_x509
from ca.jwt import IssuedJwt, JwtIssuer, JwtRequest, issue_jwt
from ca.keys.memory import MemoryKeys
from ca.record import Recordable
from ca.root import IntermediateRequest, Root, make_root, sign_intermediate
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import Bundle, JwtAuthority
from trustfed.spiffe.ids import SpiffeId, TrustDomain

WEST, EAST = "prod-us-west", "prod-us-east"
WEST_SUFFIX = "west.example"
AUDIENCE = f"spiffe://{EAST}/ns/shop/sa/orders"
REFRESH_HINT = 300  # seconds
SEQUENCE = 7
_LIFE = timedelta(hours=12)
_TTL = 1800  # seconds


@dataclass
class Case:
    """One question; `expected` is the answer's detail when it must be accepted and None when it must be refused."""

    name: str
    kind: str
    expected: str | None
    fields: dict[str, object] = field(default_factory=dict)


class _Kept:
    async def record(self, drafts: Sequence[Recordable]) -> None:
        assert drafts


class Domain:
    """One trust domain with real authorities."""

    def __init__(self, name: str, suffixes: tuple[str, ...], made_at: datetime) -> None:
        self.trust_domain, self.suffixes, self.made_at = TrustDomain.parse(name), suffixes, made_at
        self.keys = MemoryKeys()
        self.issuer: Issuer
        self.jwt: JwtIssuer

    async def set_up(self, root: Root, root_keys: MemoryKeys) -> None:
        await self.keys.create("x509")
        await self.keys.create("jwt")
        domain, authority, end = self.trust_domain, new_authority_id(os.urandom), self.made_at + _LIFE
        twin = await make_twin(
            domain, authority, "x509", self.keys, not_after=end, now=self.made_at, randomness=os.urandom
        )
        csr = await make_authority_csr(domain, authority, "x509", self.keys)
        intermediate = await sign_intermediate(
            root,
            IntermediateRequest(domain, authority, csr, self.suffixes, end),
            root_keys,
            _Kept(),
            now=self.made_at,
            randomness=os.urandom,
        )
        self.issuer = Issuer.load(
            domain, authority, "x509", twin, intermediate=intermediate, dns_suffixes=self.suffixes
        )
        self.jwt = JwtIssuer(domain, new_authority_id(os.urandom), "jwt", self.made_at, end)

    async def bundle(self) -> Bundle:
        key = await self.keys.public_key("jwt")
        tokens = (JwtAuthority(self.jwt.kid, key),)
        return Bundle(self.trust_domain, (self.issuer.twin,), tokens, sequence=SEQUENCE, refresh_hint=REFRESH_HINT)

    async def leaf(self, path: str, public_key: bytes, now: datetime, *, ttl: int = _TTL, **fields: object) -> Issued:
        request = LeafRequest(SpiffeId.of(self.trust_domain, path), public_key, ttl, **fields)  # type: ignore[arg-type]
        (issued,) = await issue_x509(self.issuer, [request], self.keys, _Kept(), now=now, randomness=os.urandom)
        assert isinstance(issued, Issued), issued
        return issued

    async def token(self, path: str, now: datetime, *, ttl: int = 300) -> str:
        request = JwtRequest(SpiffeId.of(self.trust_domain, path), (AUDIENCE,), ttl)
        (issued,) = await issue_jwt(self.jwt, [request], self.keys, _Kept(), now=now, randomness=os.urandom)
        assert isinstance(issued, IssuedJwt), issued
        return issued.token

    async def by_hand(self, names: Sequence[x509.GeneralName], public_key: ec.EllipticCurvePublicKey) -> bytes:
        """A leaf (DER) that `ca` would never issue, signed by this domain's authority key."""
        now, issuer = datetime.now(UTC), x509.load_der_x509_certificate(self.issuer.twin).subject
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.issuer.public_key)
        throwaway = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(authority_key, critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        )
        tbs = throwaway.tbs_certificate_bytes
        (signature,) = await self.keys.sign("x509", [tbs])
        return der.signed(tbs, signature)


async def make(folder: Path) -> list[Case]:
    """Issue everything into `folder` and return the cases, in the order of `cases.json`."""
    now = datetime.now(UTC)
    before = now - timedelta(hours=2)
    root_keys = MemoryKeys()
    await root_keys.create("root-1")
    root = await make_root("trustfed interop", 1, "root-1", root_keys, now=before, randomness=os.urandom)
    west, east = Domain(WEST, (WEST_SUFFIX,), before), Domain(EAST, (), before)
    for domain in (west, east):
        await domain.set_up(root, root_keys)
        _write(folder, f"{domain.trust_domain}.twin.pem", _pem(domain.issuer.twin))
        _write(folder, f"{domain.trust_domain}.bundle.json", (await domain.bundle()).marshal())
    _write(folder, "root.pem", _pem(root.certificate))
    cases = [_bundle_case(west), _bundle_case(east)]
    cases += await _x509_cases(folder, west, east, now)
    cases += await _jwt_cases(west, east, now)
    document = {
        "trust_domains": {name: f"{name}.bundle.json" for name in (WEST, EAST)},
        "cases": [{"name": case.name, "kind": case.kind, **case.fields} for case in cases],
    }
    _write(folder, "cases.json", json.dumps(document, indent=1).encode())
    return cases


def _bundle_case(domain: Domain) -> Case:
    name = domain.trust_domain.name
    return Case(f"bundle of {name}", "bundle", f"1 {domain.jwt.kid} {SEQUENCE} {REFRESH_HINT}", {"trust_domain": name})


async def _x509_cases(folder: Path, west: Domain, east: Domain, now: datetime) -> list[Case]:
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(folder, "leaf.key", private)
    api, orders = f"spiffe://{WEST}/ns/web/sa/api", f"spiffe://{EAST}/ns/shop/sa/orders"
    host = f"api.{WEST_SUFFIX}"

    def uri(text: str) -> x509.GeneralName:
        return x509.UniformResourceIdentifier(text)

    async def issued(domain: Domain, path: str, **fields: object) -> tuple[bytes, ...]:
        at = fields.pop("at", now)
        assert isinstance(at, datetime)
        return (await domain.leaf(path, spki, at, **fields)).chain  # type: ignore[arg-type]

    async def forged(domain: Domain, *names: x509.GeneralName, root_chain: bool = False) -> tuple[bytes, ...]:
        leaf = await domain.by_hand(names, key.public_key())
        assert domain.issuer.intermediate is not None
        return (leaf, domain.issuer.intermediate) if root_chain else (leaf,)

    past = now - timedelta(hours=1)
    chains = {
        "leaf": await issued(west, "/ns/web/sa/api"),
        "leaf-dns": await issued(west, "/ns/web/sa/api", dns_names=(host,)),
        "leaf-east": await issued(east, "/ns/shop/sa/orders"),
        "leaf-expired": await issued(west, "/ns/web/sa/api", at=past, ttl=60),
        "leaf-wrong-twin": await forged(east, uri(api)),
        "leaf-no-bundle": await forged(west, uri("spiffe://prod-eu/ns/web/sa/api")),
        "leaf-two-ids": await forged(west, uri(api), uri(orders)),
        "root-chain": await issued(west, "/ns/web/sa/api", chain="root"),
        "root-chain-dns": await issued(west, "/ns/web/sa/api", chain="root", dns_names=(host,)),
        "root-chain-east": await issued(east, "/ns/shop/sa/orders", chain="root"),
        "root-chain-expired": await issued(west, "/ns/web/sa/api", chain="root", at=past, ttl=60),
        "root-chain-outside-dns": await forged(west, uri(api), x509.DNSName("api.east.example"), root_chain=True),
        "root-chain-excluded-dns": await forged(east, uri(orders), x509.DNSName(host), root_chain=True),
        "root-chain-other-domain": await forged(west, uri(orders), root_chain=True),
        "root-chain-ip": await forged(west, uri(api), x509.IPAddress(ip_address("192.0.2.1")), root_chain=True),
    }
    for name, chain in chains.items():
        _write(folder, f"{name}.pem", b"".join(_pem(certificate) for certificate in chain))

    def case(name: str, kind: str, chain: str, expected: str | None, **fields: object) -> Case:
        return Case(name, kind, expected, {"chain": f"{chain}.pem", **fields})

    twin, twin_east = f"{WEST}.twin.pem", f"{EAST}.twin.pem"
    return [
        case("SVID and key are read", "svid", "leaf", api, key="leaf.key"),
        case("[leaf] against its bundle", "spiffe", "leaf", api),
        case("[leaf] with a DNS name against its bundle", "spiffe", "leaf-dns", api),
        case("[leaf] of the other domain against its bundle", "spiffe", "leaf-east", orders),
        case("root chain against its bundle", "spiffe", "root-chain", api),
        case("expired leaf", "spiffe", "leaf-expired", None),
        case("same ID signed by the other domain's authority", "spiffe", "leaf-wrong-twin", None),
        case("ID of a domain without a bundle", "spiffe", "leaf-no-bundle", None),
        case("leaf with two IDs", "spiffe", "leaf-two-ids", None),
        case("twin: [leaf]", "pkix", "leaf", "", anchors=twin),
        case("twin: [leaf] with a DNS name", "pkix", "leaf-dns", "", anchors=twin),
        case("twin: expired leaf", "pkix", "leaf-expired", None, anchors=twin),
        case("twin: [leaf] against the other domain's twin", "pkix", "leaf", None, anchors=twin_east),
        case("root: chain", "pkix", "root-chain", "", anchors="root.pem"),
        case("root: chain with a DNS name within the suffixes", "pkix", "root-chain-dns", "", anchors="root.pem"),
        case("root: chain of a domain without suffixes", "pkix", "root-chain-east", "", anchors="root.pem"),
        case("root: expired leaf", "pkix", "root-chain-expired", None, anchors="root.pem"),
        case("root: DNS name outside the suffixes", "pkix", "root-chain-outside-dns", None, anchors="root.pem"),
        case("root: DNS name where all are excluded", "pkix", "root-chain-excluded-dns", None, anchors="root.pem"),
        case("root: ID of the other domain", "pkix", "root-chain-other-domain", None, anchors="root.pem"),
        case("root: IP address", "pkix", "root-chain-ip", None, anchors="root.pem"),
        case("root: [leaf] without its intermediate", "pkix", "leaf", None, anchors="root.pem"),
    ]


async def _jwt_cases(west: Domain, east: Domain, now: datetime) -> list[Case]:
    api, path = f"spiffe://{WEST}/ns/web/sa/api", "/ns/web/sa/api"
    good = await west.token(path, now)
    header, payload, signature = good.split(".")
    other = await west.token("/ns/web/sa/admin", now)

    async def foreign(kid: str) -> str:
        """The west's subject, signed by the east's key."""
        end = now.replace(microsecond=0) + timedelta(minutes=5)
        text = jwtsvid.signing_input(SpiffeId.parse(api), (AUDIENCE,), now.replace(microsecond=0), end, kid)
        (signed,) = await east.keys.sign("jwt", [text])
        return jwtsvid.assemble(text, signed)

    def case(name: str, token: str, expected: str | None, audience: str = AUDIENCE) -> Case:
        return Case(name, "jwt", expected, {"token": token, "audience": audience})

    return [
        case("token", good, api),
        case("token of the other domain", await east.token("/a", now), f"spiffe://{EAST}/a"),
        case("token for another audience", good, None, audience="spiffe://prod-us-east/other"),
        case("token with another token's claims", f"{header}.{other.split('.')[1]}.{signature}", None),
        case("token with a changed signature", f"{header}.{payload}.{other.split('.')[2]}", None),
        case("expired token", await west.token(path, now - timedelta(hours=1), ttl=60), None),
        case("token signed by the other domain's key, its kid", await foreign(east.jwt.kid), None),
        case("token signed by the other domain's key, our kid", await foreign(west.jwt.kid), None),
    ]


def _pem(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


def _write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
