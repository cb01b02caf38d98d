"""How a cluster is configured: one TOML file, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from ca.keys.open import KeysConfig
from ca.profiles import JWT_MAX_LIFETIME, NODE_SVID, SYSTEM_SVID, TWIN, X509_SVID
from trustfed.cluster.attestation.config import AttestationConfig
from trustfed.cluster.evidence.config import EvidenceConfig
from trustfed.cluster.foreign.config import ForeignConfig
from trustfed.cluster.grants import LEAST_LIMIT, LONGEST_LIMIT
from trustfed.cluster.istio_ca.config import IstioCaConfig
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.errors import Invalid
from trustfed.journal.approvals import ApprovalsConfig
from trustfed.reading.config import StoreConfig
from trustfed.runtime.config import SecretFile
from trustfed.runtime.logs import LogConfig
from trustfed.runtime.sockets import check_addresses, check_admin_group, check_path, parse_address

_SECOND = timedelta(seconds=1)
MAX_ADDRESSES = 8
"""Of one door, as others are told them."""
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - the addresses that need another one beside them


@dataclass(frozen=True)
class Door:
    """Where to listen, and what others dial when that is another address; `advertise_also` are further ways to it."""

    listen: str
    advertise: str = ""
    advertise_also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_addresses(self.listen, self.advertise, *self.advertise_also)
        if len(self.advertise_also) >= MAX_ADDRESSES:
            raise Invalid(f"advertise_also names {len(self.advertise_also)} addresses", hint=f"below {MAX_ADDRESSES}")
        if not self.advertise and parse_address(self.listen)[0] in _EVERYWHERE:
            raise Invalid(
                f"listen = {self.listen!r} is no address that others can dial",
                hint='say advertise = "HOST:PORT" beside it',
            )

    def addresses(self, listening: str) -> tuple[str, ...]:
        """What others are told, in order of preference; `listening` is where this door is, with the port that it got."""
        return tuple(dict.fromkeys((self.advertise or listening, *self.advertise_also)))


@dataclass(frozen=True)
class WebDoor:
    """The https_web bundle endpoint: a Web PKI certificate from files."""

    listen: str
    certificate_file: Path
    key_file: SecretFile

    def __post_init__(self) -> None:
        check_addresses(self.listen)


@dataclass(frozen=True)
class Policy:
    """Lifetimes and limits of the trust domain."""

    svid_ttl: timedelta = timedelta(hours=1)
    svid_ttl_max: timedelta = timedelta(hours=24)
    jwt_ttl: timedelta = timedelta(minutes=5)
    jwt_ttl_max: timedelta = timedelta(hours=1)
    node_ttl: timedelta = timedelta(hours=1)
    authority_ttl: timedelta = timedelta(hours=72)
    # Beyond the longest SVID lifetime, before the active authority ends: then a prepared one is activated in any case.
    safety_margin: timedelta = timedelta(minutes=10)
    refresh_hint: timedelta = timedelta(minutes=5)
    # Plain SPIFFE readers may poll the bundle endpoint: an activation waits for them. False only where there are none.
    polled_readers: bool = True
    reissue_window: timedelta = timedelta(minutes=5)
    renew_window: timedelta = timedelta(days=30)
    # How long a peer's bundle is used after its domain last confirmed it, unless its grant says otherwise.
    stale_limit: timedelta = timedelta(days=30)
    # The longest life of reserve SVIDs that `trustfed node reserve` may give a group of nodes; 0s: there are none.
    reserve_ttl_max: timedelta = timedelta(0)
    max_entries: int = 100_000
    max_nodes: int = 10_000

    def __post_init__(self) -> None:
        for name in ("svid_ttl", "jwt_ttl", "node_ttl", "refresh_hint"):
            if getattr(self, name) < _SECOND:
                raise Invalid(f"policy.{name} must be at least 1s")
        for name in ("max_entries", "max_nodes"):
            if getattr(self, name) < 1:
                raise Invalid(f"policy.{name} must be at least 1")
        for name, most in (
            ("svid_ttl_max", X509_SVID.max_lifetime),
            ("reserve_ttl_max", X509_SVID.max_lifetime),
            ("stale_limit", LONGEST_LIMIT),
            ("node_ttl", min(NODE_SVID.max_lifetime, SYSTEM_SVID.max_lifetime)),
            ("jwt_ttl_max", JWT_MAX_LIFETIME),
            ("authority_ttl", TWIN.max_lifetime),
        ):
            if getattr(self, name) > most:
                raise Invalid(f"policy.{name} of {getattr(self, name)} is too long", hint=f"at most {most}")
        if self.svid_ttl > self.svid_ttl_max or self.jwt_ttl > self.jwt_ttl_max:
            raise Invalid("policy: svid_ttl and jwt_ttl cannot be above svid_ttl_max and jwt_ttl_max")
        if self.stale_limit < LEAST_LIMIT:
            raise Invalid(f"policy.stale_limit must be at least {LEAST_LIMIT}")
        longest = self.longest_leaf
        if self.authority_ttl <= 2 * (longest + self.safety_margin):
            by = "reserve_ttl_max" if longest > self.longest_regular_leaf else "the other TTLs"
            raise Invalid(
                f"policy.authority_ttl of {self.authority_ttl} is too short for leaves that live up to {longest} ({by})",
                hint=f"more than {2 * (longest + self.safety_margin)}: twice the longest leaf and safety_margin",
            )

    @property
    def longest_leaf(self) -> timedelta:
        """The longest life of anything an authority signs."""
        return max(self.longest_regular_leaf, self.reserve_ttl_max)

    @property
    def longest_regular_leaf(self) -> timedelta:
        """The same without reserve SVIDs: with the root behind them those end with the intermediate, which may be sooner."""
        return max(self.svid_ttl_max, self.jwt_ttl_max, self.node_ttl)


@dataclass(frozen=True)
class ClusterConfig:
    """One trust domain's control plane."""

    data_dir: Path
    grpc: Door
    bundle_spiffe: Door
    admin_socket: Path | None = None
    health: str = ""
    bundle_web: WebDoor | None = None
    keys: KeysConfig = field(default_factory=KeysConfig)
    policy: Policy = field(default_factory=Policy)
    foreign: ForeignConfig = field(default_factory=ForeignConfig)
    attestation: AttestationConfig = field(default_factory=AttestationConfig)
    store: StoreConfig | None = None
    mesh: MeshConfig = field(default_factory=MeshConfig)
    istio_ca: IstioCaConfig | None = None
    admin_group: str = ""
    approvals: ApprovalsConfig = field(default_factory=ApprovalsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)

    def __post_init__(self) -> None:
        check_addresses(self.health)
        check_path(self.admin_path)
        check_admin_group(self.admin_group, self.admin_path, self.data_dir)
        if self.istio_ca is not None:
            self.istio_ca.check(self.policy.svid_ttl_max)

    @property
    def store_directory(self) -> Path:
        """Journal and ledger."""
        return self.data_dir / "store"

    @property
    def admin_path(self) -> Path:
        """The admin socket."""
        return self.admin_socket or self.data_dir / "admin.sock"
