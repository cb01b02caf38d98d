"""The federation's root: its certificates, the intermediates it signs, and its CRL.

A root has versions. Version n + 1 has a key and a subject of its own; at a rollover each of the two certifies the other
(`cross_sign` both ways), so a chain verifies under either while clusters change over. Which versions are trusted is
decided by the signed root set, not here: this module only makes certificates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ca.authority import authority_subject, check_csr
from ca.cacert import CaFields, ca_tbs, crl_tbs, new_serial, sign_with, whole_seconds
from ca.constraints import intermediate_constraints
from ca.keys.port import KeyStore
from ca.malformed import MALFORMED
from ca.profiles import CROSS, INTERMEDIATE, NOT_BEFORE_BACKDATE, ROOT
from ca.publickeys import key_id
from ca.record import FactValue, Randomness, Recorder
from trustfed.errors import Invalid
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import TrustDomain, shown

_FEDERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}", re.ASCII)
_URL = re.compile(r"https?://[!-~]{1,1000}", re.ASCII)
_MAX_REVOKED = 100_000


@dataclass(frozen=True, slots=True)
class Root:
    """One version of the root, ready to sign: its certificate (DER) and the name of its key in the key store."""

    version: int
    certificate: bytes
    key_name: str


@dataclass(frozen=True, slots=True)
class IntermediateRequest:
    """What a domain asks the root for. The CSR proves possession; every name comes from the registry, none from it."""

    trust_domain: TrustDomain
    authority: str
    csr: bytes  # DER
    dns_suffixes: tuple[str, ...]  # the domain's registered suffixes; none: all DNS names excluded
    not_after: datetime
    crl_url: str = ""  # where the root's CRL is published; empty: no distribution point
    command_id: str = ""


class Reason(Enum):
    """Why a certificate was revoked (RFC 5280 §5.3.1)."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"


@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry of the CRL."""

    serial: int
    at: datetime
    reason: Reason


@dataclass(frozen=True, slots=True)
class CaDraft:
    """An intermediate about to be signed, as the record sees it (a `Recordable` of kind "ca.issued")."""

    at: datetime
    serial: int
    issuer_version: int
    request: IntermediateRequest
    not_after: datetime
    key_id: bytes

    kind = "ca.issued"

    @property
    def key(self) -> str:
        return serial_text(self.serial)

    def facts(self) -> Mapping[str, FactValue]:
        return {
            "serial": self.key,
            "trust_domain": self.request.trust_domain.name,
            "authority": self.request.authority,
            "root_version": self.issuer_version,
            "dns_suffixes": list(self.request.dns_suffixes),
            "not_before": int((whole_seconds(self.at) - NOT_BEFORE_BACKDATE).timestamp()),
            "not_after": int(self.not_after.timestamp()),
            "key_id": self.key_id.hex(),
            "command_id": self.request.command_id,
        }


async def make_root(
    federation: str,
    version: int,
    key_name: str,
    keys: KeyStore,
    *,
    now: datetime,
    randomness: Randomness,
    lifetime: timedelta = ROOT.default_lifetime,
) -> Root:
    """A self-signed root of `federation`, subject CN = "<federation> root <version>"; its key must exist in the store.

    `version` counts from 1. Raises Invalid for a malformed name or lifetime and NotFound without the key.
    """
    if not _FEDERATION.fullmatch(federation):
        raise Invalid(f"federation name {shown(federation)} is malformed", hint="1 to 40 letters, digits, space . _ -")
    if not 1 <= version < 1_000_000:
        raise Invalid(f"root version {version} is out of range", hint="versions count from 1")
    key = await keys.public_key(key_name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} root {version}")])
    fields = CaFields(subject, key, subject, key_id(key), now + lifetime)
    tbs = ca_tbs(ROOT, fields, new_serial(randomness), now)
    return Root(version, await sign_with(keys, key_name, key, tbs), key_name)


async def cross_sign(signer: Root, subject: bytes, keys: KeyStore, *, now: datetime, randomness: Randomness) -> bytes:
    """Another version's root key (from its self-signed certificate, DER), certified by `signer` (DER).

    It ends with the earlier of the two. Raises Invalid when `subject` is no self-signed root or is the signer itself.
    """
    issuer, issuer_key = _ca_certificate(signer.certificate)
    other, other_key = _ca_certificate(subject)
    if other.issuer != other.subject or other.subject == issuer.subject or other_key == issuer_key:
        raise Invalid("only another version's self-signed root can be cross-signed", hint="pass its certificate")
    fields = CaFields(
        other.subject,
        other_key,
        issuer.subject,
        key_id(issuer_key),
        min(issuer.not_valid_after_utc, other.not_valid_after_utc),
    )
    tbs = ca_tbs(CROSS, fields, new_serial(randomness), now)
    return await sign_with(keys, signer.key_name, issuer_key, tbs)


async def sign_intermediate(
    root: Root,
    request: IntermediateRequest,
    keys: KeyStore,
    recorder: Recorder,
    *,
    now: datetime,
    randomness: Randomness,
) -> bytes:
    """The intermediate (DER) of one authority, on record (kind "ca.issued") before it is signed.

    Path length 0, the domain's SPIFFE ID as URI SAN, the constraints of `ca.constraints`, never ending after the root.
    Raises what `check_csr` raises; Invalid for malformed suffixes, an end that is past, or a root that has ended.
    """
    issuer, issuer_key = _ca_certificate(root.certificate)
    if not issuer.not_valid_before_utc <= now < issuer.not_valid_after_utc:
        raise Invalid(f"root {root.version} is not valid at {now}", hint="roll the root over")
    key = check_csr(request.csr, request.trust_domain, request.authority)
    if request.crl_url and not _URL.fullmatch(request.crl_url):
        raise Invalid(f"CRL address {shown(request.crl_url)} is not accepted", hint="an http or https URL")
    fields = CaFields(
        authority_subject(request.trust_domain, request.authority),
        key,
        issuer.subject,
        key_id(issuer_key),
        min(request.not_after, issuer.not_valid_after_utc),
        trust_domain=request.trust_domain,
        constraints=intermediate_constraints(request.trust_domain, request.dns_suffixes),
        crl_url=request.crl_url,
    )
    serial = new_serial(randomness)
    tbs = ca_tbs(INTERMEDIATE, fields, serial, now)
    draft = CaDraft(now, serial, root.version, request, whole_seconds(fields.not_after), key_id(key))
    await recorder.record([draft])
    return await sign_with(keys, root.key_name, issuer_key, tbs)


async def make_crl(
    root: Root, revoked: Sequence[Revoked], number: int, keys: KeyStore, *, now: datetime, next_update: datetime
) -> bytes:
    """The root's CRL (DER, RFC 5280 §5), complete and numbered; the caller keeps `number` rising.

    Raises Invalid for a number or time out of range, or a serial named twice.
    """
    issuer, issuer_key = _ca_certificate(root.certificate)
    if not 0 < number < 1 << 63 or len(revoked) > _MAX_REVOKED:
        raise Invalid(f"CRL number {number} or its size {len(revoked)} is out of range", hint="count from 1")
    if next_update <= now:
        raise Invalid(f"the CRL would have ended at {next_update}", hint="choose a later next update")
    if len({entry.serial for entry in revoked}) != len(revoked):
        raise Invalid("a serial is revoked twice in one CRL", hint="keep the first revocation of each serial")
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(whole_seconds(now))
        .next_update(whole_seconds(next_update))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(key_id(issuer_key), None, None), critical=False)
    )
    for entry in sorted(revoked, key=lambda entry: entry.serial):
        item = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(whole_seconds(entry.at))
        if entry.reason is not Reason.UNSPECIFIED:  # RFC 5280 §5.3.1: absent rather than unspecified
            item = item.add_extension(x509.CRLReason(x509.ReasonFlags(entry.reason.value)), critical=False)
        builder = builder.add_revoked_certificate(item.build())
    return await sign_with(keys, root.key_name, issuer_key, crl_tbs(builder))


def _ca_certificate(certificate: bytes) -> tuple[x509.Certificate, ec.EllipticCurvePublicKey]:
    """A CA certificate of ours and its EC key. Raises Invalid."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        is_ca = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except MALFORMED as error:
        raise Invalid("the root certificate is malformed", hint="pass the DER of a root certificate") from error
    if not is_ca or not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("the root certificate is no CA with an EC key", hint="pass the DER of a root certificate")
    return parsed, key
