"""From configuration to a store: each mistake has its own words, and nothing is started or written for it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ca.keys.file import FileKeys
from ca.keys.memory import MemoryKeys
from ca.keys.open import STORES, KeysConfig, VaultConfig, close_keys, open_keys
from ca.keys.pool import SigningPool
from trustfed.errors import Invalid

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "key-stores.md"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: KeysConfig(store="pkcs12"), "store = 'pkcs12' is unknown"),
        (KeysConfig, "has no directory"),
        (lambda: KeysConfig(directory=Path("d"), workers=-1), "workers = -1 is out of bounds"),
        (lambda: KeysConfig(directory=Path("d"), workers=65), "workers = 65 is out of bounds"),
        (lambda: KeysConfig(directory=Path("d"), machine_key_file=Path("m"), passphrase_file=Path("p")), "names both"),
        (lambda: KeysConfig(directory=Path("d"), machine_key_file=Path("d/m")), "lies among the key files"),
        (lambda: KeysConfig(store="transit"), r"has no \[keys.vault\] table"),
        (lambda: KeysConfig(store="transit", vault=VaultConfig("https://x")), "must say how to log in"),
        (
            lambda: KeysConfig(
                store="transit", vault=VaultConfig("https://x", token_file=Path("t"), role_id_file=Path("r"))
            ),
            "must say how to log in",
        ),
        (lambda: KeysConfig(store="transit", vault=VaultConfig("http://x", token_file=Path("t"))), "in clear"),
    ],
)
def test_mistakes_have_their_own_words(config: Callable[[], KeysConfig], words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        open_keys(config())
    assert refused.value.hint


async def test_each_store_opens(tmp_path: Path) -> None:
    assert isinstance(open_keys(KeysConfig(store="memory")), MemoryKeys)
    assert isinstance(open_keys(KeysConfig(directory=tmp_path / "keys", workers=0)), FileKeys)
    pool = open_keys(KeysConfig(directory=tmp_path / "keys"))
    assert isinstance(pool, SigningPool)
    await pool.create("a")
    await close_keys(pool)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "keys-machine"]


def test_a_cluster_with_key_files_does_not_import_the_vault_client() -> None:
    program = "import sys; import ca.keys.open; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(found.stdout.split()) & {"hvac", "requests", "urllib3"}


def test_every_example_of_the_reference_is_a_configuration_that_opens(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    seen = set()
    for example in examples:
        table = tomllib.loads(example)["keys"]
        vault = table.pop("vault", None)
        for member in ("ca_file", "token_file", "role_id_file", "secret_id_file"):
            if vault and member in vault:
                path = tmp_path / member
                path.touch()
                vault[member] = path
        for member in ("directory", "machine_key_file", "passphrase_file"):
            if member in table:
                table[member] = tmp_path / Path(table[member]).relative_to("/")
        if table.get("store", "file") == "file":
            table["workers"] = 0
        config = KeysConfig(**table, vault=VaultConfig(**vault) if vault else None)
        open_keys(config)
        seen.add(config.store)
    assert seen == set(STORES)
