"""SPIFFE ID vectors: the text is the content of `NAME.txt`, byte for byte (SPIFFE-ID §2)."""

from __future__ import annotations

from tests.vectors.forge import Vector

_LONGEST = "spiffe://" + "a" * 255 + "/" + "b" * (2048 - 9 - 255 - 1)
_GOOD = {
    "plain": "spiffe://prod-us-west/payments/api",
    "trust-domain": "spiffe://prod-us-west",
    "every-character": "spiffe://abcdefghijklmnopqrstuvwxyz0123456789.-_/AZaz09.-_/...",
    "dotted-quad": "spiffe://10.0.0.1/a",
    "longest": _LONGEST,
    "only-dashes": "spiffe://-/-",
}
_CHARACTER = "has the character"
_BAD = {
    "empty": ("", "does not start with spiffe://"),
    "no-scheme": ("prod-us-west/a", "does not start with spiffe://"),
    "other-scheme": ("https://prod-us-west/a", "does not start with spiffe://"),
    "upper-case-scheme": ("SPIFFE://prod-us-west/a", "does not start with spiffe://"),
    "one-slash": ("spiffe:/prod-us-west/a", "does not start with spiffe://"),
    "leading-blank": (" spiffe://prod-us-west/a", "does not start with spiffe://"),
    "no-trust-domain": ("spiffe:///a", "name is empty"),
    "nothing-behind-scheme": ("spiffe://", "name is empty"),
    "upper-case-domain": ("spiffe://Prod-us-west/a", "not lower case"),
    "user-information": ("spiffe://root@prod-us-west/a", "user information"),
    "port": ("spiffe://prod-us-west:8443/a", "port"),
    "ipv6": ("spiffe://[::1]/a", "port"),
    "percent-in-domain": ("spiffe://prod%2dus/a", "name is percent-encoded"),
    "percent-dot-in-path": ("spiffe://prod-us-west/a/%2e%2e/b", "path is percent-encoded"),
    "percent-slash-in-path": ("spiffe://prod-us-west/a%2fb", "path is percent-encoded"),
    "domain-is-dots": ("spiffe://../a", "relative path"),
    "unicode-domain": ("spiffe://prod-\u00fcs/a", _CHARACTER),
    "unicode-digit-domain": ("spiffe://prod-\u0663/a", _CHARACTER),
    "kelvin-sign-domain": ("spiffe://\u212aube/a", _CHARACTER),
    "unicode-path": ("spiffe://prod-us-west/\u00e9", _CHARACTER),
    "domain-too-long": ("spiffe://" + "a" * 256 + "/b", "longer than 255"),
    "too-long": (_LONGEST + "b", "longer than 2048"),
    "trailing-slash": ("spiffe://prod-us-west/a/", "ends with /"),
    "root-path": ("spiffe://prod-us-west/", "ends with /"),
    "empty-segment": ("spiffe://prod-us-west/a//b", "empty segment"),
    "dot-segment": ("spiffe://prod-us-west/a/./b", "relative segment"),
    "dot-dot-segment": ("spiffe://prod-us-west/a/../b", "relative segment"),
    "newline-at-end": ("spiffe://prod-us-west/a\n", _CHARACTER),
    "newline-in-domain": ("spiffe://prod-us-west\n/a", _CHARACTER),
    "nul": ("spiffe://prod-us-west/a\0b", _CHARACTER),
    "query": ("spiffe://prod-us-west/a?b", _CHARACTER),
    "query-without-path": ("spiffe://prod-us-west?b", _CHARACTER),
    "fragment": ("spiffe://prod-us-west/a#b", _CHARACTER),
    "backslash": ("spiffe://prod-us-west\\@evil/a", "user information"),
    "comma-uri": ("spiffe://prod-us-west/a,URI:spiffe://prod-eu-north/b", _CHARACTER),
    "blank": ("spiffe://prod-us-west/a b", _CHARACTER),
    "tilde": ("spiffe://prod-us-west/~a", _CHARACTER),
}


def vectors() -> list[Vector]:
    good = [Vector(name, "none", {".txt": text.encode()}) for name, text in _GOOD.items()]
    bad = [Vector(name, name.replace("-", " "), {".txt": text.encode()}, error) for name, (text, error) in _BAD.items()]
    return [*good, *bad]
