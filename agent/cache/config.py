"""The table [cache] of the agent's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trustfed.errors import Invalid
from trustfed.runtime.secret_file import SecretFile


@dataclass(frozen=True)
class CacheConfig:
    """Whether and how the agent keeps, over a restart, what it holds.

    `sealing` "machine" seals with a random key in data_dir, "passphrase" with one made of what stands in
    `passphrase_file`. `directory` is data_dir/cache unless set; one agent per directory.
    """

    enabled: bool = True
    sealing: Literal["machine", "passphrase"] = "machine"
    passphrase_file: SecretFile | None = None
    directory: Path | None = None

    def __post_init__(self) -> None:
        if self.sealing == "passphrase" and self.passphrase_file is None:
            raise Invalid("cache.passphrase_file is missing", hint='sealing = "passphrase" needs it')
        if self.sealing == "machine" and self.passphrase_file is not None:
            raise Invalid("cache.passphrase_file is not used", hint='set sealing = "passphrase", or remove it')
