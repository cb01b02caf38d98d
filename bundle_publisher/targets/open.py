"""From configuration to targets: the one place that knows every driver. All of it is checked before anything starts."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Literal

from bundle_publisher.targets.address import Address
from bundle_publisher.targets.directory import DirectoryTarget
from bundle_publisher.targets.port import Target
from bundle_publisher.targets.s3_access import Addressing, Encryption, S3Access, S3Credentials
from trustfed.errors import Invalid
from trustfed.runtime.secret_file import SecretFile
from trustfed.spiffe.ids import shown

MAX_TARGETS = 16
DIRECTORY = "directory"
"""The name of the target that the short form `directory = ...` makes."""
_COMMON = {"name", "kind", "timeout", "allow_loopback_http", "ca_file"}
_OF_KIND = {
    "directory": {"directory"},
    "http": {"url", "bearer_token_file", "certificate_file", "key_file"},
    "s3": {
        *("bucket", "prefix", "region", "endpoint_url", "addressing", "encryption", "kms_key_id"),
        *("access_key_id", "secret_access_key_file", "session_token_file"),
        *("role_arn", "role_session_name", "external_id", "web_identity_token_file", "sts_endpoint_url"),
    },
}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}/){0,8}")
_REGION = re.compile(r"[a-z0-9-]{0,40}")
_ROLE = re.compile(r"arn:[a-z-]{1,20}:iam::[0-9]{0,12}:role/[!-~]{1,512}")
_ROLE_SESSION = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_EXTERNAL_ID = re.compile(r"(?:[\w+=,.@:/-]{2,1224})?", re.ASCII)


@dataclass(frozen=True)
class TargetTable:
    """One place to publish to; which of the settings count says `kind`."""

    name: str
    kind: Literal["directory", "http", "s3"]
    timeout: timedelta = timedelta(seconds=10)
    allow_loopback_http: bool = False
    ca_file: Path | None = None
    directory: Path | None = None
    url: str = ""
    bearer_token_file: SecretFile | None = None
    certificate_file: Path | None = None
    key_file: SecretFile | None = None
    bucket: str = ""
    prefix: str = ""
    region: str = ""
    endpoint_url: str = ""
    addressing: Addressing = "auto"
    encryption: Encryption = "none"
    kms_key_id: str = ""
    access_key_id: str = ""
    secret_access_key_file: SecretFile | None = None
    session_token_file: SecretFile | None = None
    role_arn: str = ""
    role_session_name: str = "trustfed"
    external_id: str = ""
    web_identity_token_file: Path | None = None
    sts_endpoint_url: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Invalid(f"target name {shown(self.name)} is malformed", hint="a-z 0-9 -, at most 40")
        if not timedelta(milliseconds=100) <= self.timeout <= timedelta(seconds=30):
            raise Invalid(f"timeout of target {self.name} is out of range", hint="from 100ms to 30s")
        strange = _set(self) - _COMMON - _OF_KIND[self.kind]
        if strange:
            raise Invalid(
                f"target {self.name} is of kind {self.kind}: {', '.join(sorted(strange))} means nothing there"
            )
        if self.kind == "directory" and self.directory is None:
            raise Invalid(f"target {self.name} lacks directory")
        if self.kind == "http":
            self._check_http()
        if self.kind == "s3":
            self._check_s3()

    def _check_http(self) -> None:
        if not self.url:
            raise Invalid(f"target {self.name} lacks url")
        address = self._address(self.url, "url")
        if (self.certificate_file is None) != (self.key_file is None):
            raise Invalid(f"target {self.name} needs certificate_file and key_file together")
        if address.scheme == "http" and (self.certificate_file or self.ca_file):
            raise Invalid(f"target {self.name} has TLS files for a URL without TLS")

    def _check_s3(self) -> None:
        for value, form, what, hint in (
            (self.bucket, _BUCKET, "bucket", "3 to 63 of a-z 0-9 - ."),
            (self.prefix, _PREFIX, "prefix", "none, or folders, each ending in /: prod/trust/"),
            (self.region, _REGION, "region", "such as eu-central-1"),
            (self.role_session_name, _ROLE_SESSION, "role_session_name", "2 to 64 of letters, digits, =,.@_+-"),
            (self.external_id, _EXTERNAL_ID, "external_id", "2 to 1224 of letters, digits, =,.@:/_+-"),
            (self.role_arn, _ROLE, "role_arn", "arn:aws:iam::ACCOUNT:role/NAME"),
        ):
            if not form.fullmatch(value) and not (what == "role_arn" and not value):
                raise Invalid(f"{what} {shown(value)} of target {self.name} is malformed", hint=hint)
        for url, what in ((self.endpoint_url, "endpoint_url"), (self.sts_endpoint_url, "sts_endpoint_url")):
            if url:
                self._address(url, what)
        if bool(self.access_key_id) != bool(self.secret_access_key_file):
            raise Invalid(f"target {self.name} needs access_key_id and secret_access_key_file together")
        if self.session_token_file and not self.access_key_id:
            raise Invalid(f"target {self.name} has session_token_file without access_key_id")
        if self.web_identity_token_file and (not self.role_arn or self.access_key_id or self.external_id):
            raise Invalid(
                f"target {self.name}: web_identity_token_file stands with role_arn, and without keys and external_id"
            )
        if (self.external_id or self.sts_endpoint_url) and not self.role_arn:
            raise Invalid(f"target {self.name} has no role_arn to assume")
        if self.kms_key_id and self.encryption != "aws:kms":
            raise Invalid(f'kms_key_id of target {self.name} needs encryption = "aws:kms"')

    def _address(self, url: str, setting: str) -> Address:
        return Address.parse(url, f"{setting} of target {self.name}", loopback_http=self.allow_loopback_http)


@dataclass(frozen=True)
class TargetConfig:
    """Where documents go beside our own HTTPS endpoint; nothing named: nowhere."""

    directory: Path | None = None
    targets: tuple[TargetTable, ...] = ()

    def __post_init__(self) -> None:
        names = [table.name for table in self.targets] + ([DIRECTORY] if self.directory else [])
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Invalid(f"two targets are named {twice[0]}")
        if len(names) > MAX_TARGETS:
            raise Invalid(f"{len(names)} targets; at most {MAX_TARGETS} are published to")


def open_targets(config: TargetConfig) -> dict[str, Target]:
    """The targets that the configuration names; opens no connection and makes no file yet. Raises Invalid."""
    opened: dict[str, Target] = {DIRECTORY: DirectoryTarget(config.directory)} if config.directory else {}
    for table in config.targets:
        opened[table.name] = _opened(table)
    return opened


def _opened(table: TargetTable) -> Target:
    # The drivers that load more than the directory's are imported where one is configured.
    seconds = table.timeout.total_seconds()
    if table.directory is not None:
        return DirectoryTarget(table.directory)
    if table.kind == "http":
        from bundle_publisher.targets.http import HttpAccess, HttpTarget  # noqa: PLC0415

        address = Address.parse(table.url, "url", loopback_http=table.allow_loopback_http)
        access = HttpAccess(
            address, table.bearer_token_file, table.certificate_file, table.key_file, table.ca_file, seconds
        )
        return HttpTarget(access)
    from bundle_publisher.targets.s3 import S3Target  # noqa: PLC0415

    if importlib.util.find_spec("botocore") is None:
        raise Invalid(f"target {table.name} needs boto3", hint="install trustfed[control]")
    if table.ca_file is not None and not table.ca_file.is_file():
        raise Invalid(f"ca_file {table.ca_file} of target {table.name} is no file")
    credentials = S3Credentials(
        table.access_key_id,
        table.secret_access_key_file,
        table.session_token_file,
        table.role_arn,
        table.role_session_name,
        table.external_id,
        table.web_identity_token_file,
        table.sts_endpoint_url,
    )
    return S3Target(
        S3Access(
            table.bucket,
            table.prefix,
            table.region,
            table.endpoint_url,
            table.addressing,
            table.encryption,
            table.kms_key_id,
            table.ca_file,
            credentials,
            seconds,
        )
    )


def _set(table: TargetTable) -> set[str]:
    """The settings that differ from what they are when nothing is said."""
    return {field.name for field in fields(table) if getattr(table, field.name) != field.default}
