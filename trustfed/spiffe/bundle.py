"""The SPIFFE bundle of one trust domain, and the map of many (SPIFFE Trust Domain and Bundle §4, §5).

What a reader does not know (an entry's `use`, `kty` or `crv`, extra members) it ignores, as the standard says. What it
knows and finds malformed, weak or secret it refuses as a whole, so that the holder keeps the last good bundle.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from trustfed.errors import Invalid, NotFound
from trustfed.spiffe import keys, strict_json
from trustfed.spiffe.ids import TrustDomain, shown
from trustfed.spiffe.keys import PublicKey
from trustfed.spiffe.x509svid import check_authority, pem

MAX_BUNDLE = 1024 * 1024  # bytes of one bundle document
MAX_KEYS = 256  # entries of one bundle document
MAX_MAP = 32 * 1024 * 1024  # bytes of a bundle map
MAX_TRUST_DOMAINS = 10_000  # bundles of a bundle map
MAX_SEQUENCE = 2**63 - 1
MAX_REFRESH_HINT = 366 * 24 * 3600  # seconds


@dataclass(frozen=True)
class JwtAuthority:
    """One key that signs tokens of a trust domain: its `kid` and its public key (JWT-SVID §6, WIT-SVID §6)."""

    key_id: str
    public_key: PublicKey

    def __post_init__(self) -> None:
        keys.accepted(self.public_key, f"key {shown(self.key_id)}")
        _check_key_id(self.key_id, f"key {shown(self.key_id)}")


@dataclass(frozen=True)
class Bundle:
    """The public keys that speak for one trust domain, and for no other.

    `x509_authorities` are CA certificates (DER); `sequence` rises with every change; `refresh_hint` is in seconds. A
    bundle without keys is valid: it says that nothing of that domain may be believed (§4.1.3).
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[bytes, ...] = ()
    jwt_authorities: tuple[JwtAuthority, ...] = ()
    sequence: int | None = None
    refresh_hint: int | None = None
    wit_authorities: tuple[JwtAuthority, ...] = ()

    def __post_init__(self) -> None:
        what = f"bundle of {self.trust_domain}"
        for der in self.x509_authorities:
            check_authority(der, self.trust_domain)
        # WIT-SVID §6.1: one kid, one key, across both kinds of tokens.
        seen: set[str] = set()
        for authority in (*self.jwt_authorities, *self.wit_authorities):
            if authority.key_id in seen:
                raise Invalid(f"{what}: the kid {shown(authority.key_id)} occurs twice")
            seen.add(authority.key_id)
        if self.sequence is not None:
            _bounded(self.sequence, f"{what}: spiffe_sequence", 0, MAX_SEQUENCE)
        if self.refresh_hint is not None:
            _bounded(self.refresh_hint, f"{what}: spiffe_refresh_hint", 1, MAX_REFRESH_HINT)

    @classmethod
    def parse(cls, trust_domain: TrustDomain, data: bytes) -> Bundle:
        """Read a bundle document (JWK set, ≤ 1 MiB) as the bundle of `trust_domain`. Raises Invalid.

        The document does not say whose it is: the caller must know, from the endpoint it asked or the signature it
        checked (SPIFFE Federation §5.1).
        """
        what = f"bundle of {trust_domain}"
        return _read(trust_domain, strict_json.parse_object(data, what=what, limit=MAX_BUNDLE))

    def marshal(self) -> bytes:
        """Write the bundle document; the same bundle gives the same bytes."""
        return strict_json.write(self._document())

    def x509_pem(self) -> bytes:
        """The X.509 authorities as PEM, for software that wants a file."""
        return pem(self.x509_authorities)

    def jwt_authority(self, key_id: str) -> JwtAuthority | None:
        """The JWT-SVID authority with this `kid`, or None. WIT-SVID authorities are never returned."""
        return next((authority for authority in self.jwt_authorities if authority.key_id == key_id), None)

    def _document(self) -> dict[str, object]:
        entries: list[dict[str, object]] = []
        for der in self.x509_authorities:
            key = check_authority(der, self.trust_domain).public_key
            entries.append({**keys.to_jwk(key), "use": "x509-svid", "x5c": [base64.b64encode(der).decode("ascii")]})
        for use, authorities in (("jwt-svid", self.jwt_authorities), ("wit-svid", self.wit_authorities)):
            entries += [{**keys.to_jwk(a.public_key), "use": use, "kid": a.key_id} for a in authorities]
        document: dict[str, object] = {"keys": entries}
        if self.sequence is not None:
            document["spiffe_sequence"] = self.sequence
        if self.refresh_hint is not None:
            document["spiffe_refresh_hint"] = self.refresh_hint
        return document


@dataclass(frozen=True)
class BundleMap:
    """The bundles of several trust domains, each under its name, never merged. It is a `verify.BundleSource`."""

    bundles: Mapping[TrustDomain, Bundle] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, bundle in self.bundles.items():
            if bundle.trust_domain != name:
                raise Invalid(f"bundle map: the bundle of {bundle.trust_domain} stands under the name {name}")

    @classmethod
    def parse(cls, data: bytes) -> BundleMap:
        """Read a bundle map (≤ 32 MiB) as a whole or not at all (§5.1.1, Appendix B.1). Raises Invalid."""
        members = strict_json.parse_object(data, what="bundle map", limit=MAX_MAP).get("trust_domains")
        if not isinstance(members, dict):
            raise Invalid("bundle map: trust_domains is missing or not an object (§5.1.1)")
        if len(members) > MAX_TRUST_DOMAINS:
            raise Invalid(f"bundle map: {len(members)} trust domains, more than the {MAX_TRUST_DOMAINS} allowed")
        bundles: dict[TrustDomain, Bundle] = {}
        for name, document in members.items():
            trust_domain = TrustDomain(name)
            if not isinstance(document, dict):
                raise Invalid(f"bundle map: the bundle of {trust_domain} is not an object")
            bundles[trust_domain] = _read(trust_domain, document)
        return cls(bundles)

    def marshal(self) -> bytes:
        """Write the map, deterministically; refresh hints stay out, as §5.1.1 says: the map has one reader's pace."""
        documents: dict[str, object] = {}
        for name, bundle in self.bundles.items():
            document = bundle._document()
            document.pop("spiffe_refresh_hint", None)
            documents[str(name)] = document
        return strict_json.write({"trust_domains": documents})

    def bundle(self, trust_domain: TrustDomain) -> Bundle:
        """Return the one bundle of `trust_domain`. Raises NotFound."""
        try:
            return self.bundles[trust_domain]
        except KeyError:
            raise NotFound(f"no bundle of trust domain {trust_domain}", hint="is there a grant for it?") from None


def _read(trust_domain: TrustDomain, document: Mapping[str, object]) -> Bundle:
    what = f"bundle of {trust_domain}"
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise Invalid(f"{what}: keys is missing or not an array (§4.1.3)")
    if len(entries) > MAX_KEYS:
        raise Invalid(f"{what}: {len(entries)} keys, more than the {MAX_KEYS} allowed")
    x509: list[bytes] = []
    tokens: dict[str, list[JwtAuthority]] = {"jwt-svid": [], "wit-svid": []}
    for index, jwk in enumerate(entries):
        entry = f"{what}: key {index}"
        if not isinstance(jwk, dict):
            raise Invalid(f"{entry}: not an object")
        key = keys.from_jwk(jwk, entry)  # before `use` is looked at: a secret is refused whatever it is for
        use = jwk.get("use")
        if key is None or not isinstance(use, str):
            continue
        if use == "x509-svid":
            x509 += _x509_authority(jwk, key, trust_domain, entry)
        elif use in tokens:
            tokens[use].append(JwtAuthority(_check_key_id(jwk.get("kid"), entry), key))
    sequence, hint = None, None
    if "spiffe_sequence" in document:
        sequence = _bounded(document["spiffe_sequence"], f"{what}: spiffe_sequence", 0, MAX_SEQUENCE)
    if "spiffe_refresh_hint" in document:
        hint = _bounded(document["spiffe_refresh_hint"], f"{what}: spiffe_refresh_hint", 0, MAX_REFRESH_HINT)
    # A hint of 0 says as little as none; SPIRE's zero value means "not set".
    return Bundle(
        trust_domain, tuple(x509), tuple(tokens["jwt-svid"]), sequence, hint or None, tuple(tokens["wit-svid"])
    )


def _x509_authority(jwk: Mapping[str, object], key: PublicKey, trust_domain: TrustDomain, what: str) -> list[bytes]:
    """Read the certificate of an x509-svid entry (X509-SVID §6.2): none without x5c, of several the first counts.

    The standard tells readers to ignore what follows the first; nothing but the first is ever believed.
    """
    x5c = jwk.get("x5c")
    if x5c is None or x5c == []:
        return []
    if not isinstance(x5c, list):
        raise Invalid(f"{what}: x5c is not an array (X509-SVID §6.2)")
    der = keys.base64_bytes(x5c[0], f"{what}: x5c")
    if check_authority(der, trust_domain).public_key != key:
        raise Invalid(f"{what}: the certificate in x5c has another key than the JWK (RFC 7517 §4.7)")
    return [der]


def _check_key_id(kid: object, what: str) -> str:
    if not isinstance(kid, str) or not kid:
        raise Invalid(f"{what}: kid is missing or empty (JWT-SVID §6.1, WIT-SVID §6.1)")
    if len(kid) > keys.MAX_KEY_ID or not kid.isprintable():
        raise Invalid(f"{what}: kid is longer than {keys.MAX_KEY_ID} characters or not printable")
    return kid


def _bounded(value: object, what: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Invalid(f"{what} is {shown(value)}, not an integer from {least} to {most} (§4.1)")
    return value
