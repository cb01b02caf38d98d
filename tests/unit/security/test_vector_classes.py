"""Every way in which services like ours were deceived before has its vector: none can be dropped unnoticed."""

from __future__ import annotations

import pytest

from tests.vectors.generate import load

# Class of failure → the vectors that stand for it (tests/vectors/KIND/index.json), all of them rejections.
CLASSES: dict[str, tuple[str, str]] = {
    "upper case in the trust domain": ("spiffeid", "upper-case-domain"),
    "percent encoding, dots": ("spiffeid", "percent-dot-in-path"),
    "percent encoding, slash": ("spiffeid", "percent-slash-in-path"),
    "path with ..": ("spiffeid", "dot-dot-segment"),
    "path with .": ("spiffeid", "dot-segment"),
    "path with //": ("spiffeid", "empty-segment"),
    "newline": ("spiffeid", "newline-at-end"),
    "user information": ("spiffeid", "user-information"),
    "port": ("spiffeid", "port"),
    "Unicode in the domain": ("spiffeid", "unicode-domain"),
    "Unicode that folds to ASCII": ("spiffeid", "kelvin-sign-domain"),
    "Unicode in the path": ("spiffeid", "unicode-path"),
    "more than 2048 bytes": ("spiffeid", "too-long"),
    "a domain of more than 255 bytes": ("spiffeid", "domain-too-long"),
    "NUL": ("spiffeid", "nul"),
    "comma and URI: in an ID": ("spiffeid", "comma-uri"),
    "two URI SANs": ("x509svid", "two-uri-sans"),
    "a URI SAN beside the ID": ("x509svid", "uri-beside-id"),
    "comma and URI: in a SAN": ("x509svid", "comma-in-id"),
    "NUL in a SAN": ("x509svid", "nul-in-id"),
    "the ID in a DNS name": ("x509svid", "id-in-dns-name"),
    "the ID in an otherName": ("x509svid", "id-in-other-name"),
    "the ID in the common name": ("x509svid", "id-in-common-name"),
    "a CA as a leaf": ("x509svid", "leaf-is-ca"),
    "a leaf that signs": ("x509svid", "leaf-signs-leaf"),
    "an authority of another domain": ("x509svid", "foreign-authority"),
    "an intermediate of another domain": ("x509svid", "intermediate-other-domain"),
    "path length": ("x509svid", "path-length-exceeded"),
    "weak keys": ("x509svid", "rsa-1024"),
    "huge keys": ("x509svid", "rsa-16384"),
    "huge exponents": ("x509svid", "rsa-huge-exponent"),
    "long chains": ("x509svid", "chain-too-long"),
    "loops": ("x509svid", "loop"),
    "an unknown critical extension": ("x509svid", "unknown-critical-extension"),
    "an expired authority": ("x509svid", "authority-expired"),
    "a DNS wildcard below an exclusion": ("x509svid", "dns-wildcard-hides"),
    "alg none": ("jwtsvid", "alg-none"),
    "alg none in another case": ("jwtsvid", "alg-none-upper-case"),
    "HS256 with the public key": ("jwtsvid", "alg-hs256-with-public-key"),
    "header jwk": ("jwtsvid", "header-jwk"),
    "header jku": ("jwtsvid", "header-jku"),
    "header x5c": ("jwtsvid", "header-x5c"),
    "header x5u": ("jwtsvid", "header-x5u"),
    "header crit": ("jwtsvid", "header-crit"),
    "exp bool": ("jwtsvid", "exp-true"),
    "exp string": ("jwtsvid", "exp-text"),
    "exp infinite": ("jwtsvid", "exp-infinite"),
    "exp missing": ("jwtsvid", "exp-missing"),
    "aud missing": ("jwtsvid", "aud-missing"),
    "aud other": ("jwtsvid", "aud-other"),
    "members twice in the header": ("jwtsvid", "header-member-twice"),
    "members twice in the claims": ("jwtsvid", "claim-twice"),
    "JSON serialisation": ("jwtsvid", "json-serialisation"),
    "encrypted token": ("jwtsvid", "encrypted"),
    "a key id of another domain": ("jwtsvid", "kid-of-other-domain"),
    "a key id that two domains use": ("jwtsvid", "kid-reused-by-other-domain"),
    "sub of another domain": ("jwtsvid", "sub-of-other-domain"),
    "a private key in a bundle": ("bundle", "private-ec-key"),
    "a symmetric key in a bundle": ("bundle", "symmetric-key"),
    "an authority of another domain in a bundle": ("bundle", "authority-of-other-domain"),
    "a bundle member twice": ("bundle", "keys-twice"),
    "a trust domain twice in a map": ("bundle", "map-trust-domain-twice"),
    "a map with one bad bundle": ("bundle", "map-one-bad-bundle"),
    "an empty document": ("bundle", "nothing"),
    "a cut document": ("bundle", "truncated"),
    "a deep document": ("bundle", "very-deep"),
    "too many keys": ("bundle", "too-many-keys"),
}


@pytest.mark.parametrize(("kind", "name"), CLASSES.values(), ids=[name.replace(" ", "-") for name in CLASSES])
def test_every_class_of_known_failures_has_its_vector(kind: str, name: str) -> None:
    """The vector exists and is a rejection; that it is rejected for its fault, test_vectors.py checks."""
    vectors = {vector.name: vector for vector in load(kind)}
    assert name in vectors
    assert vectors[name].error, f"{kind}/{name} is not a rejection"
