"""Trust domains that sign: authorities, bundles, envelopes, leaves, JWT-SVIDs. All of it is real, none of it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trustfed.federation import envelope
from trustfed.federation.envelope import Envelope, Level, PublicationKey
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import Bundle, JwtAuthority
from trustfed.spiffe.ids import SpiffeId, TrustDomain

Key = ec.EllipticCurvePrivateKey
SLACK = timedelta(seconds=10)


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Authority:
    """One authority of a domain: its key, its twin, and its root-signed intermediate if a root signed one."""

    id: str
    key: Key
    twin: bytes
    intermediate: bytes = b""


@dataclass
class Domain:
    """A trust domain with one X.509 and one JWT authority, and its publication key."""

    name: str
    authorities: list[Authority] = field(default_factory=list)
    jwt_key: Key = field(default_factory=new_key)
    publication: Key = field(default_factory=new_key)
    epoch: int = 1
    sequence: int = 1

    def __post_init__(self) -> None:
        if not self.authorities:
            self.authorities = [self.authority("a1")]

    @property
    def trust_domain(self) -> TrustDomain:
        return TrustDomain(self.name)

    @property
    def publication_key(self) -> PublicationKey:
        return PublicationKey.of(self.publication.public_key())

    def authority(
        self, id_: str, life: timedelta = timedelta(days=2), root: tuple[Key, bytes] | None = None
    ) -> Authority:
        key, subject = new_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.name} authority {id_}")])
        twin = ca_certificate(subject, key, subject, key, self.trust_domain, life)
        made = Authority(id_, key, twin)
        if root is not None:
            issuer = x509.load_der_x509_certificate(root[1]).subject
            made.intermediate = ca_certificate(subject, key, issuer, root[0], self.trust_domain, life)
        return made

    def bundle(self) -> Bundle:
        return Bundle(
            self.trust_domain,
            tuple(a.twin for a in self.authorities),
            (JwtAuthority("j1", self.jwt_key.public_key()),),
            self.sequence,
            60,
        )

    def envelope(self) -> Envelope:
        level, body = Level(self.trust_domain, self.epoch, self.sequence), self.bundle().marshal()
        signature = self.publication.sign(envelope.payload_to_sign(level, body), ec.ECDSA(hashes.SHA256()))
        return envelope.assemble(level, body, signature, self.publication_key)

    def jwt(self, path: str, audience: str, now: datetime, life: timedelta = timedelta(minutes=5)) -> str:
        return jwtsvid.sign(SpiffeId.of(self.trust_domain, path), audience, now, now + life, self.jwt_key, kid="j1")


def ca_certificate(
    subject: x509.Name, key: Key, issuer: x509.Name, signer: Key, domain: TrustDomain | None, life: timedelta
) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if domain else 2), critical=True)
        .add_extension(usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if domain is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(domain.id)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def leaf(
    authority: Authority,
    id_: SpiffeId,
    public_key: ec.EllipticCurvePublicKey,
    life: timedelta,
    dns: tuple[str, ...] = (),
    now: datetime | None = None,
) -> bytes:
    now = now or datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(id_)), *map(x509.DNSName, dns)]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE")]))
        .issuer_name(x509.load_der_x509_certificate(authority.twin).subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number() >> 32)
        .not_valid_before(now - SLACK)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
