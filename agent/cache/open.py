"""The sealed cache put together."""

from __future__ import annotations

import os
from pathlib import Path

from agent.cache.config import CacheConfig
from agent.cache.disk import Disk, FolderDisk
from agent.cache.keeper import SealedCache
from agent.cache.keys import NAME, MachineKey, PassphraseKey, SealingKey, read_passphrase
from agent.cache.port import Cache, NoCache
from agent.cache.vault import Vault
from trustfed.errors import Invalid
from trustfed.runtime.clock import Clock, SystemClock
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import SpiffeId

FOLDER = "cache"


def open_cache(
    config: CacheConfig, node: SpiffeId, folder: Path, registry: Registry, clock: Clock | None = None
) -> Cache:
    """The cache of `node`; `folder` is its data_dir (0700), locked by the caller. Nothing is read yet.

    Raises Invalid for a passphrase that is too short or a directory that is data_dir, and what SecretFile raises.
    """
    if not config.enabled:
        return NoCache()
    directory = config.directory or folder / FOLDER
    if directory.resolve() == folder.resolve():
        raise Invalid("cache.directory is data_dir itself", hint="the counter must not lie in the cache's own folder")
    outside = FolderDisk(folder)
    if config.passphrase_file is not None:
        read_passphrase(config.passphrase_file)
    key = sealing_key(config, outside)
    vault = Vault(FolderDisk(directory), outside, key, node, os.urandom)
    return SealedCache(vault, clock or SystemClock(), registry)


def sealing_key(config: CacheConfig, outside: Disk, name: str = NAME) -> SealingKey:
    """Where the key called `name` comes from, by the configuration; it is not read yet."""
    if config.passphrase_file is not None:
        return PassphraseKey(outside, config.passphrase_file, os.urandom, name)
    return MachineKey(outside, os.urandom, name)
