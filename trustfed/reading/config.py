"""The table [store] of an agent and of a cluster: which store, from which root on, and by whose credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from trustfed.errors import Invalid
from trustfed.reading.location import AwsSettings, Location
from trustfed.reading.order import MAX_ROOT, Order, SignIdentity, Wanted
from trustfed.runtime.bounded_http import Limits
from trustfed.runtime.files import read_bounded
from trustfed.spiffe.ids import TrustDomain

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class StoreConfig:
    """A store to read from. `root_file` is the TUF root metadata that this machine was given, and the only thing believed.

    `trust_domain` is the domain that a new node joins; `publication_key` (its fingerprint) pins who speaks for that domain, so
    that not even the hub can put itself in its place. `state` is where what was seen is kept; below data_dir unless set.
    """

    url: str
    root_file: Path
    state: Path | None = None
    trust_domain: str = ""
    publication_key: str = ""
    accept_stale: timedelta = timedelta(0)
    timeout: timedelta = timedelta(seconds=30)
    endpoint_url: str = ""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_file: Path | None = None
    region: str = ""
    profile: str = ""
    role_arn: str = ""
    role_session_name: str = ""
    external_id: str = ""
    web_identity_token_file: Path | None = None
    sts_endpoint_url: str = ""

    def __post_init__(self) -> None:
        self.location()
        if self.trust_domain:
            TrustDomain.parse(self.trust_domain)
        if self.publication_key and not _FINGERPRINT.fullmatch(self.publication_key):
            raise Invalid(
                "store.publication_key is not sha256: and 64 hex digits", hint="trustfed bundle fetch shows it"
            )
        if not timedelta(seconds=1) <= self.timeout <= timedelta(minutes=10):
            raise Invalid("store.timeout is 1s to 10m")

    def location(self) -> Location:
        """The store as the reader is told. Raises Invalid."""
        aws = AwsSettings(
            region=self.region,
            profile=self.profile,
            role_arn=self.role_arn,
            role_session_name=self.role_session_name,
            external_id=self.external_id,
            web_identity_token_file=str(self.web_identity_token_file or ""),
            sts_endpoint=self.sts_endpoint_url,
        )
        return Location(self.url, self.endpoint_url, self.addressing, str(self.ca_file or ""), aws)

    def order(
        self, data_dir: Path, now: datetime, wanted: tuple[Wanted, ...], *, sign: SignIdentity | None = None
    ) -> Order:
        """A visit to this store. It reads the root file: not on the loop. Raises NotFound, Invalid."""
        seconds = self.timeout.total_seconds()
        return Order(
            self.location(),
            read_bounded(self.root_file, MAX_ROOT),
            self.state or data_dir / "store-seen",
            now,
            wanted,
            accept_stale=self.accept_stale,
            limits=Limits(seconds=seconds, pause=min(10.0, seconds / 2)),
            sign=sign,
        )
