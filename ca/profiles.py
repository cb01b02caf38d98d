"""What each kind of certificate may hold: one frozen profile per kind, which the writer follows and the linter checks.

Sources: X509-SVID §2 to §5, RFC 5280 §4.2.1. Sizes: lifetimes are timedeltas, path lengths count certificates below.

The root's path length is 2, not 1: after a rollover a chain may run leaf → intermediate → cross-certificate → old root,
and Go and OpenSSL count the cross-certificate against the old root. Every CA below a root has path length 0, except the
cross-certificate of another root, which has 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

# Clocks of one fleet differ by seconds; SPIRE uses the same allowance.
NOT_BEFORE_BACKDATE = timedelta(seconds=10)

# RFC 5280 §4.1.2.2: positive, at most 20 octets; CA/Browser practice: at least 64 random bits. 128 random bits here.
SERIAL_BITS = 128
MAX_SERIAL_OCTETS = 20

# The X509-SVID's URI is at most 2,048 bytes (SPIFFE-ID §2.3); DNS names are bounded so that a certificate stays small.
MAX_DNS_NAMES = 32

# One call signs at most what the key port takes at once.
MAX_BATCH = 1000


class Paths(Enum):
    """Which SPIFFE ID paths a leaf profile may carry."""

    WORKLOAD = "any path outside /trustfed/"
    NODE = "/trustfed/node/NAME"
    SYSTEM = "a path below /trustfed/ other than /trustfed/node/"


@dataclass(frozen=True, slots=True)
class CaProfile:
    """One kind of CA certificate: BasicConstraints CA:TRUE critical, keyCertSign and cRLSign critical."""

    name: str
    path_length: int
    default_lifetime: timedelta
    max_lifetime: timedelta
    uri_san: bool  # carries its trust domain's SPIFFE ID (X509-SVID §2: signing certificates)
    constrained: bool  # carries critical name constraints


@dataclass(frozen=True, slots=True)
class LeafProfile:
    """One kind of SVID: CA:FALSE critical, digitalSignature critical, EKU serverAuth and clientAuth, one URI SAN."""

    name: str
    paths: Paths
    default_lifetime: timedelta
    max_lifetime: timedelta


ROOT = CaProfile("root", 2, timedelta(days=3650), timedelta(days=7300), uri_san=False, constrained=False)
CROSS = CaProfile("cross", 1, timedelta(days=3650), timedelta(days=7300), uri_san=False, constrained=False)
INTERMEDIATE = CaProfile("intermediate", 0, timedelta(days=1), timedelta(days=366), uri_san=True, constrained=True)
TWIN = CaProfile("twin", 0, timedelta(days=1), timedelta(days=366), uri_san=True, constrained=False)

# Thirty days leave room for the reserve SVIDs of long partitions; entries name far shorter lives.
X509_SVID = LeafProfile("x509-svid", Paths.WORKLOAD, timedelta(hours=1), timedelta(days=30))
NODE_SVID = LeafProfile("node-svid", Paths.NODE, timedelta(hours=6), timedelta(days=30))
SYSTEM_SVID = LeafProfile("system-svid", Paths.SYSTEM, timedelta(hours=6), timedelta(days=30))

JWT_MAX_LIFETIME = timedelta(hours=24)
