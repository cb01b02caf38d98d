"""Bundle vectors: `NAME.json` is the bundle of HOME, or a map if the name says so (Trust Domain and Bundle §4, §5)."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.vectors.forge import HOME, PEER, Draft, Vector, authority, key, rsa_key, uri, usage


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def document(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def jwk(private: ec.EllipticCurvePrivateKey, use: str, kid: str = "", **more: object) -> dict[str, object]:
    point, size = private.public_key().public_numbers(), (private.key_size + 7) // 8
    crv = {256: "P-256", 384: "P-384", 521: "P-521"}[private.key_size]
    members = {
        "kty": "EC",
        "crv": crv,
        "x": b64(point.x.to_bytes(size, "big")),
        "y": b64(point.y.to_bytes(size, "big")),
    }
    return {**members, "use": use, **({"kid": kid} if kid else {}), **more}


def rsa_jwk(public: rsa.RSAPublicKey, use: str, kid: str, **more: object) -> dict[str, object]:
    n = public.public_numbers().n
    return {
        "kty": "RSA",
        "n": b64(n.to_bytes((n.bit_length() + 7) // 8, "big")),
        "e": "AQAB",
        "use": use,
        "kid": kid,
        **more,
    }


def x509_jwk(draft: Draft, *more: bytes, signer: str = "authority one") -> dict[str, object]:
    return jwk(key(signer), "x509-svid", x5c=[base64.b64encode(der).decode() for der in (draft.der(), *more)])


X509 = x509_jwk(authority())
JWT = jwk(key("jwt one"), "jwt-svid", "one")
WIT = jwk(key("wit"), "wit-svid", "wit")


def _doc(*entries: object, **members: object) -> bytes:
    return document({"keys": list(entries), **members})


def _without(entry: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in entry.items() if name not in names}


def accepted() -> dict[str, bytes]:
    two = x509_jwk(authority(), authority("second").der())
    okp = {"kty": "OKP", "crv": "Ed25519", "x": b64(bytes(32)), "use": "jwt-svid", "kid": "ed"}
    return {
        "whole": _doc(X509, JWT, WIT, spiffe_sequence=7, spiffe_refresh_hint=300),
        "two-authorities": _doc(X509, x509_jwk(authority("second"), signer="second"), spiffe_sequence=2**63 - 1),
        "rsa": _doc(rsa_jwk(rsa_key("jwt rsa", 2048), "jwt-svid", "rsa")),
        "empty": _doc(),
        "refresh-hint-zero": _doc(JWT, spiffe_refresh_hint=0),
        "unknown-member": _doc({**JWT, "note": "x", "alg": "ES256"}, vendor={"a": 1}),
        "ignored-unknown-use": _doc(JWT, {**WIT, "use": "sig"}),
        "ignored-no-use": _doc(JWT, _without(WIT, "use")),
        "ignored-unknown-kty": _doc(JWT, okp),
        "ignored-unknown-crv": _doc(JWT, {**WIT, "crv": "secp256k1"}),
        "ignored-no-x5c": _doc(JWT, _without(X509, "x5c")),
        "ignored-empty-x5c": _doc(JWT, {**X509, "x5c": []}),
        "x5c-two-certificates": _doc(two),
        "kid-on-x509": _doc({**X509, "kid": "tolerated"}),
        "map": document({"trust_domains": {HOME: {"keys": [JWT]}, PEER: {"keys": [JWT], "spiffe_refresh_hint": 5}}}),
        "map-empty": document({"trust_domains": {}}),
    }


def keys() -> dict[str, tuple[bytes, str]]:
    rsa_entry = rsa_jwk(rsa_key("jwt rsa", 2048), "jwt-svid", "rsa")
    secret, symmetric = "a private key (member d)", "a symmetric key"
    octets = {"kty": "oct", "k": b64(b"secret"), "use": "jwt-svid", "kid": "one"}
    zero = b64(bytes(32))
    return {
        "private-ec-key": (_doc({**JWT, "d": zero}), secret),
        "private-rsa-key": (_doc({**rsa_entry, "d": "AQAB"}), secret),
        "private-rsa-factor": (_doc({**rsa_entry, "p": "AQAB"}), "a private key (member p)"),
        "private-key-of-unknown-use": (_doc({**JWT, "use": "sig", "d": zero}), secret),
        "private-key-of-unknown-type": (_doc({"kty": "OKP", "crv": "Ed25519", "x": zero, "d": zero}), secret),
        "symmetric-key": (_doc(octets), symmetric),
        "symmetric-key-of-unknown-use": (_doc({**octets, "use": "sig"}), symmetric),
        "kid-missing": (_doc(_without(JWT, "kid")), "kid is missing"),
        "kid-empty": (_doc({**JWT, "kid": ""}), "kid is missing"),
        "kid-number": (_doc({**JWT, "kid": 1}), "kid is missing"),
        "kid-not-printable": (_doc({**JWT, "kid": "a\nb"}), "not printable"),
        "kid-too-long": (_doc({**JWT, "kid": "a" * 257}), "longer than 256"),
        "kid-twice": (_doc(JWT, {**WIT, "use": "jwt-svid", "kid": "one"}), "the kid 'one' occurs twice"),
        "kid-twice-across-kinds": (_doc(JWT, {**WIT, "kid": "one"}), "the kid 'one' occurs twice"),
        "wit-kid-missing": (_doc(_without(WIT, "kid")), "kid is missing"),
        "kty-missing": (_doc(_without(JWT, "kty")), "kty is missing"),
        "crv-missing": (_doc(_without(JWT, "crv")), "crv is missing"),
        "x-missing": (_doc(_without(JWT, "x")), "x: not base64url"),
        "x-padded": (_doc({**JWT, "x": str(JWT["x"]) + "="}), "x: not base64url"),
        "x-short": (_doc({**JWT, "x": b64(bytes(31))}), "x has 31 bytes, not 32"),
        "point-not-on-curve": (_doc({**JWT, "x": zero, "y": zero}), "make no EC public key"),
        "rsa-1024": (_doc(rsa_jwk(rsa_key("weak", 1024), "jwt-svid", "rsa")), "RSA key of 1024 bits"),
        "rsa-16384": (_doc(rsa_jwk(rsa_key("huge", 16384), "jwt-svid", "rsa")), "n has 2048 bytes"),
        "rsa-exponent-even": (_doc({**rsa_entry, "e": "AQAC"}), "RSA"),
        "rsa-exponent-one": (_doc({**rsa_entry, "e": "AQ"}), "RSA"),
        "x5c-text": (_doc({**X509, "x5c": "MIIB"}), "x5c is not an array"),
        "x5c-number": (_doc({**X509, "x5c": [1]}), "x5c: not text"),
        "x5c-not-base64": (_doc({**X509, "x5c": ["MII*"]}), "x5c: not base64"),
        "x5c-stray-bits": (_doc({**X509, "x5c": ["aGVsbG9="]}), "x5c: base64 with stray bits"),
        "x5c-not-a-certificate": (_doc({**X509, "x5c": ["aGVsbG8="]}), "not a DER certificate"),
        "x5c-of-another-key": (_doc(x509_jwk(authority("second"))), "has another key than the JWK"),
    }


def authorities() -> dict[str, tuple[bytes, str]]:
    def held(error: str, **changes: object) -> tuple[bytes, str]:
        return _doc(x509_jwk(authority(**changes))), error

    leaf = Draft(public_key=key("authority one").public_key())
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    return {
        "authority-is-a-leaf": (_doc(x509_jwk(leaf)), "not a CA certificate"),
        "authority-not-ca": held("not a CA", constraints=x509.BasicConstraints(ca=False, path_length=None)),
        "authority-without-cert-sign": held("lacks keyCertSign", key_usage=usage("crl_sign", "digital_signature")),
        "authority-without-key-usage": held("lacks keyCertSign", key_usage=None),
        "authority-of-other-domain": held(f"of trust domain {PEER}, not {HOME}", names=[uri(f"spiffe://{PEER}")]),
        "authority-with-path": held("has a path", names=[uri(f"spiffe://{HOME}/ca")]),
        "authority-with-two-ids": held("2 URI names", names=[uri(f"spiffe://{HOME}"), uri(f"spiffe://{PEER}")]),
        "authority-with-web-uri": held("does not start with spiffe", names=[uri("https://ca.example/")]),
        "authority-critical-extension": held("critical extension 1.3.6", more=[(unknown, True)]),
    }


def documents() -> dict[str, tuple[bytes, str]]:
    def sequence(text: str) -> tuple[bytes, str]:
        return f'{{"keys":[],"spiffe_sequence":{text}}}'.encode(), "spiffe_sequence is"

    def hint(text: str) -> tuple[bytes, str]:
        return f'{{"keys":[],"spiffe_refresh_hint":{text}}}'.encode(), "spiffe_refresh_hint is"

    deep = b'{"keys":[],"x":' + b"[" * 20 + b"]" * 20 + b"}"
    return {
        "nothing": (b"", "not JSON"),
        "not-json": (b"<html>", "not JSON"),
        "truncated": (_doc(JWT)[:-5], "not JSON"),
        "two-documents": (_doc() + _doc(), "not JSON"),
        "not-an-object": (b"[]", "not a JSON object"),
        "not-utf8": (b'{"keys":[],"x":"\xff"}', "not UTF-8"),
        "byte-order-mark": (b"\xef\xbb\xbf" + _doc(), "not JSON"),
        "lone-surrogate": (b'{"keys":[],"x":"\\udc00"}', "lone surrogate"),
        "not-a-number": (b'{"keys":[],"x":NaN}', "NaN is not JSON"),
        "long-integer": (b'{"keys":[],"x":' + b"1" * 5000 + b"}", "more than 20 digits"),
        "keys-missing": (b"{}", "keys is missing"),
        "keys-twice": (b'{"keys":[],"keys":[]}', "'keys' occurs twice"),
        "keys-not-an-array": (b'{"keys":{}}', "keys is missing or not an array"),
        "keys-null": (b'{"keys":null}', "keys is missing or not an array"),
        "key-not-an-object": (b'{"keys":["a"]}', "key 0: not an object"),
        "use-twice": (_doc(JWT).replace(b'"use"', b'"use": "x509-svid", "use"'), "'use' occurs twice"),
        "deep": (deep, "nested deeper"),
        "very-deep": (b'{"keys":' + b"[" * 9000 + b"]" * 9000 + b"}", "nested deeper"),
        "too-many-keys": (b'{"keys":[' + b"{}," * 256 + b"{}]}", "257 keys"),
        "sequence-true": sequence("true"),
        "sequence-negative": sequence("-1"),
        "sequence-fraction": sequence("1.0"),
        "sequence-text": sequence('"1"'),
        "sequence-null": sequence("null"),
        "sequence-above-63-bits": sequence(str(2**63)),
        "refresh-hint-true": hint("true"),
        "refresh-hint-negative": hint("-1"),
        "refresh-hint-fraction": hint("1e3"),
        "refresh-hint-of-years": hint("100000000"),
    }


def maps() -> dict[str, tuple[bytes, str]]:
    def of(name: str, bundle: object) -> bytes:
        return document({"trust_domains": {name: bundle}})

    twice = f'{{"trust_domains":{{"{HOME}":{{"keys":[]}},"{HOME}":{{"keys":[]}}}}}}'.encode()
    return {
        "map-trust-domain-twice": (twice, f"'{HOME}' occurs twice"),
        "map-without-trust-domains": (b"{}", "trust_domains is missing"),
        "map-trust-domains-array": (b'{"trust_domains":[]}', "trust_domains is missing or not an object"),
        "map-name-with-scheme": (of(f"spiffe://{HOME}", {"keys": []}), "no path"),
        "map-name-upper-case": (of(HOME.upper(), {"keys": []}), "not lower case"),
        "map-name-empty": (of("", {"keys": []}), "name is empty"),
        "map-bundle-not-an-object": (of(HOME, []), f"the bundle of {HOME} is not an object"),
        "map-one-bad-bundle": (of(HOME, {"keys": [{**JWT, "d": "AQAB"}]}), "a private key"),
    }


def vectors() -> list[Vector]:
    good = [Vector(name, "none", {".json": data}) for name, data in accepted().items()]
    bad: Sequence[tuple[str, tuple[bytes, str]]] = [
        *keys().items(),
        *authorities().items(),
        *documents().items(),
        *maps().items(),
    ]
    return good + [Vector(name, name.replace("-", " "), {".json": data}, error) for name, (data, error) in bad]
