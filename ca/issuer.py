"""The signing side of one authority: its certificates, read and checked once, and what issuing needs of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import authority_subject
from ca.constraints import check_suffixes
from ca.lint import Signer
from ca.malformed import MALFORMED
from ca.publickeys import key_id
from ca.template import LeafTemplate
from trustfed.errors import Invalid, Unavailable
from trustfed.spiffe.ids import TrustDomain


@dataclass(frozen=True)
class Issuer:
    """One authority, ready to sign leaves. Make it with `Issuer.load`."""

    trust_domain: TrustDomain
    authority: str
    key_name: str
    twin: bytes
    intermediate: bytes | None  # None while the root has not answered: chain "root" is then refused (Unavailable)
    dns_suffixes: tuple[str, ...]
    not_before: datetime  # of the twin, as `not_after`: what the root signs changes neither
    not_after: datetime
    root_chain_until: datetime | None  # the intermediate's end: no leaf with the root's chain outlives it
    public_key: ec.EllipticCurvePublicKey = field(repr=False)
    template: LeafTemplate = field(repr=False)
    signer: Signer = field(repr=False)

    @classmethod
    def load(
        cls,
        trust_domain: TrustDomain,
        authority: str,
        key_name: str,
        twin: bytes,
        *,
        intermediate: bytes | None = None,
        dns_suffixes: tuple[str, ...] = (),
    ) -> Issuer:
        """Read both certificates and check that they are this authority's: same subject, same key, CA, path length 0.

        `dns_suffixes` are the domain's registered suffixes: no DNS name outside is issued. Raises Invalid.
        """
        check_suffixes(dns_suffixes)
        anchor = _read(twin, trust_domain, authority, "twin")
        key = anchor.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Invalid(f"authority {authority} has no EC key", hint="prepare a new authority")
        begin, end, root_chain_until = anchor.not_valid_before_utc, anchor.not_valid_after_utc, None
        if intermediate is not None:
            other = _read(intermediate, trust_domain, authority, "intermediate")
            if other.public_key() != key:
                raise Invalid(f"the intermediate of authority {authority} has another key than its twin")
            root_chain_until = other.not_valid_after_utc
        return cls(
            trust_domain,
            authority,
            key_name,
            twin,
            intermediate,
            dns_suffixes,
            begin,
            end,
            root_chain_until,
            key,
            LeafTemplate(anchor.subject.public_bytes(), key_id(key)),
            Signer(trust_domain, anchor.subject.public_bytes(), _authority_key(anchor), dns_suffixes, begin, end),
        )

    def check_valid(self, now: datetime) -> None:
        """Raise Unavailable unless the authority is valid at `now`."""
        if now < self.not_before:
            raise Unavailable(
                f"authority {self.authority} is not valid before {self.not_before}", hint="check the clock"
            )
        if now >= self.not_after:
            raise Unavailable(
                f"authority {self.authority} ended at {self.not_after}", hint="trustfed authority prepare"
            )


def _read(certificate: bytes, trust_domain: TrustDomain, authority: str, what: str) -> x509.Certificate:
    hint = "prepare a new authority"
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        subject, extensions = parsed.subject, parsed.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except MALFORMED as error:
        raise Invalid(f"the {what} of authority {authority} is malformed", hint=hint) from error
    if subject != authority_subject(trust_domain, authority):
        raise Invalid(f"the {what} is not the one of authority {authority} of {trust_domain}", hint=hint)
    if not basic.ca or basic.path_length != 0 or names != [x509.UniformResourceIdentifier(trust_domain.id)]:
        raise Invalid(
            f"the {what} of authority {authority} is not a CA of {trust_domain} with path length 0", hint=hint
        )
    return parsed


def _authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The AKI that leaves must carry: the SKI that the certificate states, nothing computed."""
    try:
        stated = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier(stated.digest, None, None)
    except x509.ExtensionNotFound as error:
        raise Invalid("the authority's certificate has no subject key id", hint="prepare a new authority") from error
