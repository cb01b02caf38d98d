"""Trust domains and SPIFFE IDs, parsed by hand to the grammar of the standard (SPIFFE-ID §2).

No URL library is asked: those decode percent escapes, fold case, normalise dots and accept user information, and each
of those has been somebody's hole. A value of these classes is valid however it was made. Two readings are the strict
ones: upper case is refused instead of folded (§2.1 wants lower case), and `.` and `..` are refused as trust domain
names, because names end up as file names and URL segments.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from trustfed.errors import Invalid

MAX_ID = 2048  # bytes of the whole URI (SPIFFE-ID §2.3)
MAX_TRUST_DOMAIN = 255  # bytes (SPIFFE-ID §2.3, RFC 3986 §3.2.2)
SCHEME = "spiffe://"
RESERVED = "/trustfed"  # paths that only trustfed itself may hand out

_NAME = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_RELATIVE = frozenset({".", ".."})
_UPPER = frozenset(string.ascii_uppercase)
_SHOWN = 80  # characters of an input that an error repeats


def shown(value: object) -> str:
    """Return `value` fit for an error message: escaped, on one line, at most about 80 characters long."""
    text = ascii(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


@dataclass(frozen=True, order=True, slots=True)
class TrustDomain:
    """The name of one trust domain, such as `prod-us-west` (SPIFFE-ID §2.1). Raises Invalid for any other text."""

    name: str

    def __post_init__(self) -> None:
        fault = _trust_domain_fault(self.name)
        if fault:
            raise Invalid(f"trust domain {shown(self.name)}: {fault}", hint="a name such as prod-us-west")

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """Read a bare name or `spiffe://name`, nothing behind it. Raises Invalid."""
        return cls(text.removeprefix(SCHEME) if isinstance(text, str) else text)

    @property
    def id(self) -> str:
        """The SPIFFE ID of the trust domain itself, `spiffe://name`: what its authorities carry."""
        return SCHEME + self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, order=True, slots=True)
class SpiffeId:
    """One SPIFFE ID: a trust domain and a path, "" or `/a/b` (SPIFFE-ID §2). Raises Invalid for any other text."""

    trust_domain: TrustDomain
    path: str = ""

    def __post_init__(self) -> None:
        fault = _path_fault(self.path)
        if not fault and len(SCHEME) + len(self.trust_domain.name) + len(self.path) > MAX_ID:
            fault = f"longer than {MAX_ID} bytes (SPIFFE-ID §2.3)"
        if fault:
            text = f"{self.trust_domain.id}{self.path}" if isinstance(self.path, str) else self.path
            raise Invalid(f"SPIFFE ID {shown(text)}: {fault}", hint="an ID such as spiffe://prod-us-west/payments/api")

    @classmethod
    def of(cls, trust_domain: TrustDomain, path: str) -> SpiffeId:
        """Join a trust domain and a path that starts with `/` (or is empty). Raises Invalid."""
        return cls(trust_domain, path)

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read a SPIFFE ID as it stands in a certificate or a token. Raises Invalid; nothing is normalised."""
        fault = ""
        if not isinstance(text, str):
            fault = "not text"
        elif len(text) > MAX_ID:
            fault = f"longer than {MAX_ID} bytes (SPIFFE-ID §2.3)"
        elif not text.startswith(SCHEME):
            fault = "does not start with spiffe:// (SPIFFE-ID §2)"
        if not fault:
            name, slash, rest = text[len(SCHEME) :].partition("/")
            fault = _trust_domain_fault(name) or _path_fault(slash + rest)
        if fault:
            raise Invalid(f"SPIFFE ID {shown(text)}: {fault}", hint="an ID such as spiffe://prod-us-west/payments/api")
        return cls(TrustDomain(name), slash + rest)

    @property
    def is_reserved(self) -> bool:
        """Whether only trustfed itself may hand out this ID: `/trustfed` and everything under it."""
        return self.path == RESERVED or self.path.startswith(RESERVED + "/")

    def __str__(self) -> str:
        return self.trust_domain.id + self.path


def _trust_domain_fault(name: object) -> str:
    """Say what is wrong with a trust domain name, or return ""."""
    if not isinstance(name, str):
        return "not text"
    if len(name) <= MAX_TRUST_DOMAIN and _NAME.fullmatch(name) and name not in _RELATIVE:
        return ""
    odd = next((c for c in name if not _NAME.fullmatch(c)), "")
    faults = (
        (not name, "the trust domain name is empty (SPIFFE-ID §2.1)"),
        (len(name) > MAX_TRUST_DOMAIN, f"the trust domain name is longer than {MAX_TRUST_DOMAIN} bytes (§2.3)"),
        (name in _RELATIVE, "the trust domain name is a relative path"),
        ("/" in name, "a trust domain name has no path (SPIFFE-ID §2.1)"),
        ("%" in name, "the trust domain name is percent-encoded (SPIFFE-ID §2.1)"),
        ("@" in name, "the trust domain name has user information (SPIFFE-ID §2.1)"),
        (":" in name, "the trust domain name has a port or a scheme (SPIFFE-ID §2.1)"),
        (odd in _UPPER, "the trust domain name is not lower case (SPIFFE-ID §2.1)"),
    )
    other = f"the trust domain name has the character {odd!a}; only a-z, 0-9, dot, dash, underscore (SPIFFE-ID §2.1)"
    return next((fault for holds, fault in faults if holds), other)


def _path_fault(path: object) -> str:
    """Say what is wrong with the path of a SPIFFE ID, or return ""."""
    if not isinstance(path, str):
        return "the path is not text"
    segments = path.split("/")[1:]
    if not path or (path[0] == "/" and all(_SEGMENT.fullmatch(s) and s not in _RELATIVE for s in segments)):
        return ""
    odd = next((c for segment in segments for c in segment if not _SEGMENT.fullmatch(c)), "")
    faults = (
        (path[0] != "/", "the path does not start with / (SPIFFE-ID §2.2)"),
        ("%" in path, "the path is percent-encoded (SPIFFE-ID §2.2)"),
        (odd, f"the path has the character {odd!a}; only letters, digits, dot, dash, underscore (SPIFFE-ID §2.2)"),
        (path[-1] == "/", "the path ends with / (SPIFFE-ID §2.2)"),
        ("" in segments, "the path has an empty segment (SPIFFE-ID §2.2)"),
    )
    return next((fault for holds, fault in faults if holds), "the path has a relative segment (SPIFFE-ID §2.2)")
