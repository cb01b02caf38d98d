"""From configuration to a KeyStore: the one place that knows every driver."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path

from ca.keys.file import FileKeys
from ca.keys.memory import MemoryKeys
from ca.keys.pool import SigningPool
from ca.keys.port import KeyStore
from ca.keys.wrapping import MachineKeyFile, PassphraseFile, Wrapping
from trustfed.errors import Invalid

STORES = ("file", "memory", "transit")
MAX_WORKERS = 64


@dataclass(frozen=True)
class VaultConfig:
    """The table [keys.vault]: `token_file`, or else `role_id_file` with `secret_id_file`. Times are in seconds."""

    url: str
    token_file: Path | None = None
    role_id_file: Path | None = None
    secret_id_file: Path | None = None
    approle_mount: str = "approle"
    mount: str = "transit"
    prefix: str = ""
    namespace: str | None = None
    ca_file: Path | None = None
    timeout: float = 3.0
    deadline: float = 10.0


@dataclass(frozen=True)
class KeysConfig:
    """The table [keys]. `directory`, the two wrapping files and `workers` belong to the file store.

    With neither `machine_key_file` nor `passphrase_file` a machine key is made in the directory DIRECTORY-machine.
    """

    store: str = "file"
    directory: Path | None = None
    machine_key_file: Path | None = None
    passphrase_file: Path | None = None
    workers: int = 1
    vault: VaultConfig | None = None

    def __post_init__(self) -> None:
        if self.store not in STORES:
            raise Invalid(f"[keys] store = {self.store[:40]!r} is unknown", hint=f"one of: {', '.join(STORES)}")
        if self.store == "transit" and self.vault is None:
            raise Invalid('[keys] store = "transit" has no [keys.vault] table', hint="url and token_file at least")
        if self.machine_key_file is not None and self.passphrase_file is not None:
            raise Invalid("[keys] names both a machine_key_file and a passphrase_file", hint="name one of them")
        if not 0 <= self.workers <= MAX_WORKERS:
            raise Invalid(
                f"[keys] workers = {self.workers} is out of bounds", hint=f"0 to {MAX_WORKERS}; 0: no workers"
            )

    def within(self, data_dir: Path) -> KeysConfig:
        """This, with the keys of the file store in DATA_DIR/keys unless a directory is named."""
        return replace(self, directory=data_dir / "keys") if self.store == "file" and self.directory is None else self


def open_keys(config: KeysConfig) -> KeyStore:
    """Return the key store that the configuration names; call `close_keys` at the end.

    Opens no connection and makes no file yet, but starts the signing workers. Raises Invalid.
    """
    if config.store == "memory":
        return MemoryKeys()
    if config.store == "file":
        return _file(config)
    assert config.vault is not None  # KeysConfig has checked
    return _transit(config.vault)


async def close_keys(keys: KeyStore) -> None:
    """End the processes, threads and connections that a store of `open_keys` holds: its `close`, plain or async, if any."""
    close = getattr(keys, "close", None)
    ended = close() if close else None
    if inspect.isawaitable(ended):
        await ended


def _file(config: KeysConfig) -> KeyStore:
    if config.directory is None:
        raise Invalid('[keys] store = "file" has no directory', hint="directory = ...")
    directory = config.directory
    wrapping: Wrapping
    if config.passphrase_file is not None:
        wrapping = PassphraseFile(config.passphrase_file)
    else:
        # Beside the key files, not among them: a copy of the directory alone shall be worth nothing.
        beside = directory.with_name(f"{directory.name}-machine") / "wrapping-key"
        wrapping = MachineKeyFile(config.machine_key_file or beside)
        if wrapping.path.parent.absolute() == directory.absolute():
            raise Invalid("[keys] machine_key_file lies among the key files", hint="keep it in another directory")
    keys = FileKeys(directory, wrapping)
    return SigningPool(keys, workers=config.workers) if config.workers else keys


def _transit(config: VaultConfig) -> KeyStore:
    # Here and not above: hvac and requests take 0.15 s to import, and only this store needs them.
    from ca.keys.transit import TransitKeys  # noqa: PLC0415
    from ca.keys.vault_client import VaultServer  # noqa: PLC0415
    from ca.keys.vault_login import AppRole, Login, TokenFile  # noqa: PLC0415

    login: Login
    if config.token_file is not None and config.role_id_file is None and config.secret_id_file is None:
        login = TokenFile(config.token_file)
    elif config.token_file is None and config.role_id_file is not None and config.secret_id_file is not None:
        login = AppRole(config.role_id_file, config.secret_id_file, config.approle_mount)
    else:
        raise Invalid(
            "[keys.vault] must say how to log in, in one way", hint="token_file, or role_id_file and secret_id_file"
        )
    server = VaultServer(config.url, config.ca_file, config.namespace, config.timeout, config.deadline)
    return TransitKeys(server, login, mount=config.mount, prefix=config.prefix)
