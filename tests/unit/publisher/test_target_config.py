"""Targets as configured: every fault is found before anything starts, and says what to write instead."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bundle_publisher.targets.directory import DirectoryTarget
from bundle_publisher.targets.http import HttpTarget
from bundle_publisher.targets.open import TargetConfig, open_targets
from bundle_publisher.targets.s3 import S3Target
from trustfed.errors import Invalid
from trustfed.runtime.config import build

S3 = 'name = "cdn"\nkind = "s3"\nbucket = "bundles"\n'
HTTP = 'name = "web"\nkind = "http"\nurl = "https://store.example/x"\n'


def _config(folder: Path, *tables: str, before: str = "") -> TargetConfig:
    text = before + "".join(f"[[targets]]\n{table}\n" for table in tables)
    return build(tomllib.loads(text), TargetConfig, folder=folder)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for name in ("secret", "token"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text("SECRET")
    (tmp_path / "open").write_text("SECRET")
    (tmp_path / "open").chmod(0o644)
    return tmp_path


def test_all_kinds_beside_the_short_form(secrets: Path) -> None:
    s3 = S3 + (
        'prefix = "prod/trust/"\nregion = "eu-central-1"\nendpoint_url = "http://127.0.0.1:9000"\n'
        'allow_loopback_http = true\naddressing = "path"\nencryption = "aws:kms"\nkms_key_id = "k"\n'
        'access_key_id = "AKIA"\nsecret_access_key_file = "secret"\nrole_arn = "arn:aws:iam::123456789012:role/p"\n'
        'external_id = "seven"\ntimeout = "3s"\n'
    )
    web = HTTP + 'bearer_token_file = "token"\n'
    folder = 'name = "second"\nkind = "directory"\ndirectory = "other"\n'
    config = _config(secrets, s3, web, folder, before='directory = "public"\n')
    opened = open_targets(config)
    assert {name: type(target) for name, target in opened.items()} == {
        "directory": DirectoryTarget,
        "cdn": S3Target,
        "web": HttpTarget,
        "second": DirectoryTarget,
    }
    assert "SECRET" not in repr(config)
    assert open_targets(_config(secrets)) == {}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('name = "x"\nkind = "ftp"\n', "must be"),
        ('name = "X"\nkind = "directory"\ndirectory = "d"\n', "name 'X' is malformed"),
        ('name = "x"\nkind = "directory"\n', "lacks directory"),
        ('name = "x"\nkind = "http"\n', "lacks url"),
        ('name = "x"\nkind = "s3"\n', "bucket '' of target x is malformed"),
        (HTTP + 'bucket = "b"\n', "bucket means nothing there"),
        (S3 + 'url = "https://a"\n', "url means nothing there"),
        (S3 + 'directory = "a"\n', "directory means nothing there"),
        (S3 + 'bukcet = "a"\n', "bucket"),
        (S3 + 'timeout = "1h"\n', "timeout of target cdn is out of range"),
        (S3 + 'prefix = "/a/"\n', "prefix"),
        (S3 + 'prefix = "../"\n', "prefix"),
        (S3 + 'prefix = "a"\n', "each ending in /"),
        (S3 + 'endpoint_url = "http://127.0.0.1:9000"\n', "allow_loopback_http = true"),
        (S3 + 'endpoint_url = "http://s3.example"\nallow_loopback_http = true\n', "use https"),
        (S3 + 'access_key_id = "AKIA"\n', "together"),
        (S3 + 'secret_access_key_file = "secret"\n', "together"),
        (S3 + 'access_key_id = "AKIA"\nsecret_access_key_file = "open"\n', "chmod 600"),
        (S3 + 'access_key_id = "AKIA"\nsecret_access_key_file = "missing"\n', "does not exist"),
        (S3 + 'session_token_file = "secret"\n', "without access_key_id"),
        (S3 + 'role_arn = "publisher"\n', "role_arn 'publisher'"),
        (S3 + 'external_id = "seven"\n', "no role_arn"),
        (S3 + 'web_identity_token_file = "token"\n', "stands with role_arn"),
        (S3 + 'kms_key_id = "k"\n', 'encryption = "aws:kms"'),
        (S3 + 'encryption = "rot13"\n', "AES256"),
        (S3 + 'ca_file = "missing"\n', "is no file"),
        (HTTP + 'certificate_file = "open"\n', "together"),
        (HTTP + 'ca_file = "open"\n', "TLS files"),
        (HTTP + 'bearer_token_file = "open"\n', "chmod 600"),
    ],
)
def test_a_fault_is_named_with_what_to_do(secrets: Path, table: str, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        open_targets(_config(secrets, table))
    assert words in f"{refused.value.message} {refused.value.hint}"
    assert "SECRET" not in str(refused.value)


def test_names_are_used_once_and_targets_are_few(secrets: Path) -> None:
    with pytest.raises(Invalid, match="two targets are named cdn"):
        _config(secrets, S3, S3)
    with pytest.raises(Invalid, match="two targets are named directory"):
        _config(secrets, S3.replace("cdn", "directory"), before='directory = "d"\n')
    with pytest.raises(Invalid, match="at most 16"):
        _config(secrets, *(S3.replace("cdn", f"cdn-{n}") for n in range(17)))
