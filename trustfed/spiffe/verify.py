"""Is this chain genuine, now, for this trust domain? (X509-SVID §5, RFC 5280 §6)

The trust domain is named first, and only the bundle of that one domain is looked at; bundles are never merged, so no
authority can speak for another domain. The steps, cheap ones first:

 1. the chain has one to MAX_CHAIN certificates
 2. the leaf is a leaf by its own rules (x509svid.parse_leaf)
 3. its trust domain is the bundle's, and its ID the expected one, if one is expected
 4. `now` lies within its validity
 5. a path is found from it over presented signing certificates to an authority of the bundle; at each step the issuer
    a. has the name that the certificate below gives as its issuer
    b. is a signing certificate by its own rules, of the same trust domain
    c. is valid at `now`
    d. allows that many signing certificates below it (path length)
    e. has name constraints, if any, that hold for everything below it
    f. made the signature, with an algorithm we accept
    g. is not marked as one whose key is held outside (EXTERNAL) where the ID is reserved: what signs for a mesh's
       workloads does not speak for a cluster, a hub or a node
    Several candidates may have the same name; all are tried, at most MAX_SIGNATURES signatures in all.

Presented certificates that are not on the path must parse and are not believed: a root-signed intermediate may follow a
leaf whose authority the bundle holds. CRLs do not exist in SPIFFE: an authority that is not believed leaves the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from trustfed.errors import Denied, Invalid
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.certificate import Certificate, check_signature_algorithm, read
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.name_constraints import check_names
from trustfed.spiffe.x509svid import MAX_CHAIN, X509Svid, check_authority, check_signing, read_leaf

MAX_SIGNATURES = 16  # signature checks for one chain
EXTERNAL = " external authority "
"""Stands in the subject of an authority of a domain whose key somebody else signs with; no trust domain's name has a blank."""


class BundleSource(Protocol):
    """Holds the bundle of each trust domain that is believed at all."""

    def bundle(self, trust_domain: TrustDomain) -> Bundle:
        """Return the one bundle of `trust_domain`. Raises NotFound."""
        ...


def verify_x509_svid(
    chain: Sequence[bytes], bundle: Bundle, now: datetime, *, expected: SpiffeId | None = None
) -> X509Svid:
    """Return the X509-SVID that `chain` (DER, leaf first) proves at `now` (aware) by the authorities of `bundle`.

    Raises Invalid for what is malformed, Denied for what is well-formed and not to be believed.
    """
    leaf, svid = _read_leaf(chain)
    return _verified(chain, leaf, svid, bundle, now, expected=expected)


def verify_peer(
    chain: Sequence[bytes], bundles: BundleSource, now: datetime, *, expected: SpiffeId | None = None
) -> X509Svid:
    """Like `verify_x509_svid`, in the one bundle that the leaf's own ID names. Raises NotFound if there is none."""
    leaf, svid = _read_leaf(chain)
    return _verified(chain, leaf, svid, bundles.bundle(svid.id.trust_domain), now, expected=expected)


def _read_leaf(chain: Sequence[bytes]) -> tuple[Certificate, X509Svid]:
    if not 1 <= len(chain) <= MAX_CHAIN:  # 1
        raise Invalid(f"X509-SVID: a chain of {len(chain)} certificates, not 1 to {MAX_CHAIN}")
    return read_leaf(chain[0])  # 2


def _verified(
    chain: Sequence[bytes],
    leaf: Certificate,
    svid: X509Svid,
    bundle: Bundle,
    now: datetime,
    *,
    expected: SpiffeId | None,
) -> X509Svid:
    what = f"X509-SVID of {svid.id}"
    if svid.id.trust_domain != bundle.trust_domain:  # 3
        raise Denied(f"{what}: it is not of trust domain {bundle.trust_domain}")
    if expected is not None and svid.id != expected:
        raise Denied(f"{what}: the peer must be {expected}")
    fault = _validity_fault(leaf, now)  # 4
    if fault:
        raise Denied(f"{what}: it {fault}", hint="check both clocks and whether the peer's SVID is being renewed")
    presented = [read(der, f"certificate {at} of the chain") for at, der in enumerate(chain[1:], start=1)]
    search = _Search(bundle, now, presented, reserved=svid.id.is_reserved)
    if not search.anchored([leaf]):  # 5
        raise Denied(f"{what}: {search.reason}", hint=f"is the bundle of {bundle.trust_domain} up to date?")
    return replace(svid, chain=tuple(bytes(der) for der in chain))


class _Search:
    """One bounded search for a path; `reason` says, after a failure, what was wrong with the first candidate."""

    def __init__(self, bundle: Bundle, now: datetime, presented: list[Certificate], *, reserved: bool) -> None:
        self.reason = f"no authority of trust domain {bundle.trust_domain} has the name of its issuer"
        self._trust_domain = bundle.trust_domain
        self._anchors = [check_authority(der, bundle.trust_domain) for der in bundle.x509_authorities]
        self._presented = presented
        self._now, self._reserved = now, reserved
        self._signatures = MAX_SIGNATURES
        self._failed = False

    def anchored(self, path: list[Certificate]) -> bool:
        """Whether `path` (leaf first, each signed by the next) can be continued to an authority of the bundle."""
        for issuer in self._issuers(path[-1], self._anchors):
            if self._signs(issuer, path, f"an authority of {self._trust_domain}"):
                return True
        unused = [issuer for issuer in self._presented if issuer not in path]
        for issuer in self._issuers(path[-1], unused):
            if self._signs(issuer, path, "a certificate of the chain") and self.anchored([*path, issuer]):
                return True
        return False

    def _issuers(self, child: Certificate, candidates: list[Certificate]) -> list[Certificate]:
        """5a. The candidates with the right name; those that the key identifier points at come first."""
        named = [issuer for issuer in candidates if issuer.subject == child.issuer]
        return sorted(named, key=lambda issuer: issuer.subject_key_id != child.authority_key_id)

    def _signs(self, issuer: Certificate, path: list[Certificate], what: str) -> bool:
        fault = self._fault(issuer, path)
        if fault and not self._failed:
            self._failed, self.reason = True, f"{what}, named as issuer, {fault}"
        return not fault

    def _fault(self, issuer: Certificate, path: list[Certificate]) -> str:
        try:
            check_signing(issuer, self._trust_domain, "certificate")  # 5b
        except Invalid as invalid:
            return f"may not be one: {invalid.message}"
        if self._reserved and EXTERNAL.encode() in issuer.subject:  # 5g
            return "is external: it signs for workloads, and for nothing below /trustfed/"
        fault = _validity_fault(issuer, self._now)  # 5c
        if fault:
            return fault
        intermediates = sum(1 for below in path[1:] if below.subject != below.issuer)
        if issuer.path_length is not None and issuer.path_length < intermediates:  # 5d
            return f"allows {issuer.path_length} signing certificates below it, not {intermediates}"
        if issuer.name_constraints is not None:  # 5e
            for below in path:
                fault = check_names(issuer.name_constraints, below)
                if fault:
                    return f"has name constraints: {fault}"
        return self._signature_fault(path[-1], issuer)  # 5f

    def _signature_fault(self, child: Certificate, issuer: Certificate) -> str:
        if self._signatures == 0:
            raise Denied(f"X509-SVID: no path found within {MAX_SIGNATURES} signature checks")
        self._signatures -= 1
        try:
            check_signature_algorithm(child, "the certificate below it")
            child.parsed.verify_directly_issued_by(issuer.parsed)
        except Invalid as invalid:
            return f"cannot be checked: {invalid.message}"
        except InvalidSignature:
            return "did not sign it"
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return "cannot have signed it: signature and key are of different kinds"
        return ""


def _validity_fault(certificate: Certificate, now: datetime) -> str:
    """Say why `now` is outside the validity, both ends of which belong to it (RFC 5280 §4.1.2.5), or return ""."""
    if now < certificate.not_before:
        return f"is not valid before {certificate.not_before:%Y-%m-%dT%H:%M:%SZ}"
    if now > certificate.not_after:
        return f"expired at {certificate.not_after:%Y-%m-%dT%H:%M:%SZ}"
    return ""
