"""X509-SVID vectors: a chain (`NAME.pem`, leaf first) and the authorities to hold it against (`….authorities.pem`)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from tests.vectors.forge import DAY, HOME, NOW, PEER, Draft, Vector, authority, key, pem, resigned, rsa_key, uri, usage

LEAF = Draft()
AUTHORITY = authority()
ID = f"spiffe://{HOME}/payments/api"
TWO_IDS = [uri(ID), uri(f"spiffe://{HOME}/payments/db")]
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
DNS = x509.DNSName("api.payments.svc")
NO_CA = x509.BasicConstraints(ca=False, path_length=None)
CA_0 = x509.BasicConstraints(ca=True, path_length=0)


def _good(name: str, fault: str, chain: Sequence[bytes], anchors: Sequence[bytes] = ()) -> Vector:
    return _bad(name, fault, "", chain, anchors)


def _bad(name: str, fault: str, error: str, chain: Sequence[bytes], anchors: Sequence[bytes] = ()) -> Vector:
    files = {".pem": pem(*chain), ".authorities.pem": pem(*(anchors or [AUTHORITY.der()]))}
    return Vector(name, fault, files, error)


def _leaf(name: str, fault: str, error: str, **changes: object) -> Vector:
    return _bad(name, fault, error, [LEAF.but(**changes).der()])


def _named(name: str, fault: str, error: str, *names: x509.GeneralName) -> Vector:
    return _leaf(name, fault, error, names=names)


def _intermediate(**changes: object) -> Draft:
    """A signing certificate below AUTHORITY that signs the leaf of `_below`."""
    return authority("intermediate", issuer="authority one", signer=key("authority one")).but(**changes)


def _below(**changes: object) -> Draft:
    return LEAF.but(issuer="intermediate", signer=key("intermediate")).but(**changes)


def _through(name: str, fault: str, error: str, leaf: Draft | None = None, **changes: object) -> Vector:
    """A leaf under an intermediate that has the fault."""
    return _bad(name, fault, error, [(leaf or _below()).der(), _intermediate(**changes).der()])


def _limits(*permitted: x509.GeneralName, excluded: Sequence[x509.GeneralName] = ()) -> dict[str, object]:
    return {"more": [(x509.NameConstraints(list(permitted) or None, list(excluded) or None), True)]}


def accepted() -> list[Vector]:
    rooted = authority("authority one", issuer="root", signer=key("root"), **_limits(uri(HOME)), constraints=CA_0)
    namesake = authority("namesake").but(subject="authority one", issuer="authority one")
    with_dns = _below(names=[uri(ID), DNS])
    return [
        _good("leaf", "none: the plain case", [LEAF.der()]),
        _good("leaf-p384", "none: a P-384 key", [LEAF.but(public_key=key("l", ec.SECP384R1()).public_key()).der()]),
        _good("leaf-rsa", "none: an RSA key of 2048 bits", [LEAF.but(public_key=rsa_key("leaf", 2048)).der()]),
        _good("leaf-sha384", "none: signed over SHA-384", [LEAF.but(digest=hashes.SHA384()).der()]),
        _good("other-names", "none: a DNS name beside the ID", [LEAF.but(names=[DNS, uri(ID)]).der()]),
        _good("empty-subject", "none: no subject, names critical", [LEAF.but(subject=None, names_critical=True).der()]),
        _good("no-extended-key-usage", "none: it is optional", [LEAF.but(purposes=()).der()]),
        _good("no-basic-constraints", "none: absent means no CA", [LEAF.but(constraints=None).der()]),
        _good("unknown-extension", "none: not critical", [LEAF.but(more=[(UNKNOWN, False)]).der()]),
        _good("root-signed-behind", "none: a certificate that is not needed", [LEAF.der(), rooted.der()]),
        _good("intermediate", "none: a path of two", [_below().der(), _intermediate(constraints=CA_0).der()]),
        _good("namesakes", "none: two authorities of one name", [LEAF.der()], [namesake.der(), AUTHORITY.der()]),
        _good("uri-constraint-held", "none", [_below().der(), _intermediate(**_limits(uri(HOME))).der()]),
        _good(
            "dns-constraint-held",
            "none",
            [with_dns.der(), _intermediate(**_limits(x509.DNSName("payments.svc"))).der()],
        ),
        _good(
            "authority-without-id", "none: an SVID is only what it should be", [LEAF.der()], [authority(names=()).der()]
        ),
    ]


def names() -> list[Vector]:
    hidden = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"), b"\x0c" + bytes([len(ID)]) + ID.encode())
    none = "no URI name"
    return [
        _named("two-uri-sans", "two URI names", "2 URI names, not one", *TWO_IDS),
        _named("uri-twice", "the same URI name twice", "2 URI names, not one", uri(ID), uri(ID)),
        _named("uri-beside-id", "a second URI that is no SPIFFE ID", "2 URI names", uri(ID), uri("https://a.example/")),
        _named("no-uri-san", "only a DNS name", none, DNS),
        _leaf("no-names", "no names at all", none, names=()),
        _named("id-in-dns-name", "the ID stands in a DNS name", none, x509.DNSName(ID)),
        _named("id-in-other-name", "the ID stands in an otherName", none, hidden),
        _leaf("id-in-common-name", "the ID stands in the subject", none, names=(), subject=ID[:60]),
        _named("nul-in-id", "a NUL ends the ID for C readers", "the character '\\x00'", uri(f"{ID}\0.evil")),
        _named("comma-in-id", "a second URI after a comma", "the character ','", uri(f"{ID},URI:spiffe://{PEER}/x")),
        _named("newline-in-id", "a newline at the end", "the character '\\n'", uri(f"{ID}\n")),
        _named("upper-case-domain", "upper case", "not lower case", uri(f"spiffe://{HOME.upper()}/payments/api")),
        _named("percent-encoded-id", "an escape", "percent-encoded", uri(f"spiffe://{HOME}/payments%2fapi")),
        _named("relative-id", "a relative segment", "relative segment", uri(f"spiffe://{HOME}/a/../payments/api")),
        _named("other-scheme", "not a SPIFFE ID", "does not start with spiffe://", uri(f"https://{HOME}/payments/api")),
        _named("upper-case-scheme", "scheme in upper case", "does not start with spiffe://", uri(f"SPIFFE://{HOME}/a")),
        _named("id-with-port", "a port", "port", uri(f"spiffe://{HOME}:443/payments/api")),
        _named("id-with-query", "a query", "the character '?'", uri(f"{ID}?admin")),
        _named(
            "id-too-long", "2,049 bytes", "longer than 2048", uri(f"spiffe://{HOME}/{'a' * (2049 - 10 - len(HOME))}")
        ),
        _named("no-path", "the ID of the trust domain", "no path", uri(f"spiffe://{HOME}")),
        _named("trailing-slash", "a slash at the end", "ends with /", uri(f"spiffe://{HOME}/")),
        _named("too-many-names", "101 names", "more than 100", uri(ID), *(x509.DNSName(f"n{at}") for at in range(100))),
        _leaf("empty-subject-not-critical", "no subject, names not critical", "not critical", subject=None),
    ]


def _with_negative_serial() -> bytes:
    number = LEAF.certificate().serial_number.to_bytes(8, "big")
    return resigned(LEAF.certificate(), LEAF.signer, b"\x02\x08" + number, b"\x02\x08\x80" + number[1:])


def leaves() -> list[Vector]:
    ca, sign = x509.BasicConstraints(ca=True, path_length=None), "digital_signature"
    key_usage = bytes.fromhex("0603551d0f")
    repeated = LEAF.but(
        more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\x03\x02\x07\x80"), True)]
    )
    broken = LEAF.but(more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\xff\xff"), True)])
    other = bytes.fromhex("0603551d63")
    issuer = LEAF.signer
    bulk = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x04\x82\x42\x68" + b"\0" * 17000)
    ed = ed25519.Ed25519PrivateKey.from_private_bytes(b"\1" * 32).public_key()
    k1 = key("leaf", ec.SECP256K1()).public_key()
    der = LEAF.der()
    return [
        _leaf("leaf-is-ca", "cA is true", "the leaf is a CA", constraints=ca),
        _leaf("leaf-key-cert-sign", "keyCertSign", "may sign certificates", key_usage=usage(sign, "key_cert_sign")),
        _leaf("leaf-crl-sign", "cRLSign", "may sign certificates or CRLs", key_usage=usage(sign, "crl_sign")),
        _leaf("no-key-usage", "no key usage", "no key usage", key_usage=None),
        _leaf("key-usage-not-critical", "key usage not critical", "usage is not critical", key_usage_critical=False),
        _leaf("no-digital-signature", "only encipherment", "lacks digitalSig", key_usage=usage("key_encipherment")),
        _leaf("no-client-auth", "only serverAuth", "lacks serverAuth or clientAuth", purposes=[Purpose.SERVER_AUTH]),
        _leaf("no-server-auth", "only clientAuth", "lacks serverAuth or clientAuth", purposes=[Purpose.CLIENT_AUTH]),
        _leaf("unknown-critical-extension", "unknown, critical", "critical extension 1.3.6", more=[(UNKNOWN, True)]),
        _bad(
            "repeated-extension",
            "two key usages",
            "repeated extension",
            [resigned(repeated.certificate(), issuer, other, key_usage)],
        ),
        _bad(
            "malformed-extension",
            "names that are not DER",
            "malformed or repeated extension",
            [resigned(broken.but(names=()).certificate(), issuer, other, bytes.fromhex("0603551d11"))],
        ),
        _bad("serial-negative", "a negative serial number", "serial number is not positive", [_with_negative_serial()]),
        _leaf("rsa-1024", "a weak key", "RSA key of 1024 bits", public_key=rsa_key("weak", 1024)),
        _leaf("rsa-16384", "a huge key", "RSA key of 16384 bits", public_key=rsa_key("huge", 16384)),
        _leaf("rsa-huge-exponent", "a huge exponent", "public exponent", public_key=rsa_key("e", 2048, 2**64 + 1)),
        _leaf("ed25519", "a key of another kind", "neither EC nor RSA", public_key=ed),
        _leaf("secp256k1", "a curve that we do not accept", "curve secp256k1", public_key=k1),
        _leaf("too-large", "17 KiB", "more than the 16384 allowed", more=[(bulk, False)]),
        _bad("truncated", "half a certificate", "not a DER certificate", [der[: len(der) // 2]]),
        _bad("trailing-byte", "one byte more", "not a DER certificate", [der + b"\0"]),
        _bad("not-a-certificate", "text", "not a DER certificate", [b"hello"]),
        _bad("no-certificate", "an empty chain", "a chain of 0 certificates", []),
    ]


def paths() -> list[Vector]:
    forged = authority("forger").but(subject="authority one", issuer="authority one")
    peer_id, expired = uri(f"spiffe://{PEER}/payments/api"), {"not_before": NOW - 9 * DAY, "not_after": NOW - 2 * DAY}
    later = {"not_before": NOW + DAY, "not_after": NOW + 2 * DAY}
    own = key("leaf")
    crowd = [authority(f"namesake {at}").but(subject="authority one", issuer="authority one").der() for at in range(20)]
    loop_a = authority("loop a", issuer="loop b", signer=key("loop b"))
    loop_b = authority("loop b", issuer="loop a", signer=key("loop a"))
    looped = LEAF.but(issuer="loop a", signer=key("loop a"))
    second = authority("second", issuer="intermediate", signer=key("intermediate"))
    deep = LEAF.but(issuer="second", signer=key("second"))
    altered, odd_bits = bytearray(LEAF.der()), bytearray(LEAF.der())
    altered[-1] ^= 1
    odd_bits[-len(LEAF.certificate().signature) - 1] = 1
    links = [AUTHORITY, *(authority(f"link {at}") for at in range(1, 6))]
    long = [
        below.but(issuer=above.subject, signer=key(str(above.subject))).der()
        for below, above in zip(links[1:], links, strict=False)
    ]
    return [
        _leaf("expired", "the leaf has expired", "expired at 2025-12-30", **expired),
        _leaf("not-yet-valid", "the leaf is not valid yet", "not valid before 2026-01-02", **later),
        _leaf(
            "other-trust-domain",
            "signed by our authority for another domain",
            f"not of trust domain {HOME}",
            names=[peer_id],
        ),
        _leaf("foreign-authority", "our ID, their authority", "no authority of", issuer="theirs", signer=key("theirs")),
        _leaf("forged-name", "our ID, our authority's name, another key", "did not sign it", signer=key("forger")),
        _bad(
            "forged-chain",
            "the forger's authority comes along",
            "did not sign it",
            [LEAF.but(signer=key("forger")).der(), forged.der()],
        ),
        _bad("unused-bits", "a signature of so many bytes less one bit", "whole number of bytes", [bytes(odd_bits)]),
        _bad("altered", "one bit of the signature", "did not sign it", [bytes(altered)]),
        _leaf("signed-over-sha224", "a short digest", "not ECDSA or RSA with SHA-256", digest=hashes.SHA224()),
        _leaf("self-signed-leaf", "signed by itself", "no authority of", issuer="workload", signer=own),
        _bad(
            "leaf-signs-leaf",
            "a workload makes another's SVID",
            "not a CA certificate",
            [LEAF.but(issuer="workload", signer=own, subject="other").der(), LEAF.der()],
        ),
        _bad(
            "chain-too-long",
            "6 certificates",
            "a chain of 6",
            [LEAF.but(issuer="link 5", signer=key("link 5")).der(), *long[::-1]],
        ),
        _bad(
            "authority-expired", "its authority has expired", "expired at", [LEAF.der()], [authority(**expired).der()]
        ),
        _bad(
            "authority-not-yet-valid",
            "its authority is too new",
            "not valid before",
            [LEAF.der()],
            [authority(**later).der()],
        ),
        _bad(
            "no-authorities",
            "a bundle without X.509 keys",
            "no authority of",
            [LEAF.der()],
            [authority("unrelated").der()],
        ),
        _bad("too-many-namesakes", "20 authorities of one name", "within 16 signature checks", [LEAF.der()], crowd),
        _bad(
            "loop",
            "two certificates that sign each other",
            "no authority of",
            [looped.der(), loop_a.der(), loop_b.der()],
        ),
        _through("intermediate-not-ca", "cA is false", "not a CA certificate", constraints=NO_CA),
        _through("intermediate-no-basic-constraints", "no cA", "not a CA certificate", constraints=None),
        _through("intermediate-no-cert-sign", "no keyCertSign", "lacks keyCertSign", key_usage=usage("crl_sign")),
        _through("intermediate-no-key-usage", "no key usage", "lacks keyCertSign", key_usage=None),
        _through("intermediate-expired", "expired", "expired at", **expired),
        _through(
            "intermediate-other-domain", "of another domain", f"of trust domain {PEER}", names=[uri(f"spiffe://{PEER}")]
        ),
        _through("intermediate-with-path", "a workload's ID", "has a path", names=[uri(ID)]),
        _through(
            "intermediate-two-ids", "two IDs", "2 URI names", names=[uri(f"spiffe://{HOME}"), uri(f"spiffe://{PEER}")]
        ),
        _through("intermediate-critical-extension", "unknown, critical", "critical extension", more=[(UNKNOWN, True)]),
        _through("intermediate-forged", "not signed by the authority", "did not sign it", signer=key("forger")),
        _bad(
            "path-length-exceeded",
            "an intermediate below one that allows none",
            "allows 0 signing certificates",
            [deep.der(), second.der(), _intermediate(constraints=CA_0).der()],
        ),
        _bad(
            "authority-path-length",
            "an intermediate below an authority that allows none",
            "allows 0 signing certificates",
            [_below().der(), _intermediate().der()],
            [authority(constraints=CA_0).der()],
        ),
    ]


def constraints() -> list[Vector]:
    def held(name: str, fault: str, error: str, *more: x509.GeneralName, **limits: object) -> Vector:
        return _through(name, fault, error, _below(names=[uri(ID), *more]), **limits)

    mail = x509.RFC822Name("a@example.org")
    address = x509.IPAddress(ip_address("10.1.2.3"))
    network = x509.IPAddress(ip_network("10.2.0.0/16"))
    directory = x509.DirectoryName(x509.Name([]))
    other, exc = "is not permitted below", "is excluded below"
    return [
        held("uri-not-permitted", "an ID outside the permitted host", other, **_limits(uri(PEER))),
        held("uri-below-permitted", "a host is not its subdomains", other, **_limits(uri("us-west"))),
        held("uri-dot-needs-subdomain", "a dot wants a host below", other, **_limits(uri(f".{HOME}"))),
        held("uri-excluded", "an ID in the excluded host", exc, **_limits(excluded=[uri(HOME)])),
        held("dns-not-permitted", "a DNS name outside", other, DNS, **_limits(x509.DNSName("orders.svc"))),
        held("dns-not-a-label", "a suffix that is no label", other, DNS, **_limits(x509.DNSName("ments.svc"))),
        held("dns-excluded", "all DNS names excluded", exc, DNS, **_limits(excluded=[x509.DNSName("")])),
        held(
            "dns-wildcard-hides",
            "an excluded name under a wildcard",
            exc,
            x509.DNSName("*.payments.svc"),
            **_limits(excluded=[DNS]),
        ),
        held("ip-not-permitted", "an address outside", other, address, **_limits(network)),
        held(
            "mail-constrained",
            "a form that we do not process",
            "RFC822Name are constrained",
            mail,
            **_limits(excluded=[mail]),
        ),
        held(
            "directory-constrained",
            "a subject under a constraint",
            "DirectoryName are constrained",
            **_limits(directory),
        ),
        _bad(
            "authority-constraint",
            "the authority's own constraint",
            other,
            [LEAF.der()],
            [authority(**_limits(uri(PEER))).der()],
        ),
    ]


def vectors() -> list[Vector]:
    return [*accepted(), *names(), *leaves(), *paths(), *constraints()]
