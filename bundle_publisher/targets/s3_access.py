"""What is needed to reach one bucket, as configured and checked; nothing here loads the SDK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trustfed.runtime.secret_file import SecretFile

Addressing = Literal["auto", "path", "virtual"]
Encryption = Literal["none", "AES256", "aws:kms"]


@dataclass(frozen=True)
class S3Credentials:
    """Where credentials come from: nothing given means the SDK's chain (environment, shared files, container, instance).

    `role_arn` is assumed with what the other fields (or the chain) give, or, with `web_identity_token`, with that token.
    """

    access_key_id: str = ""
    secret_access_key: SecretFile | None = None
    session_token: SecretFile | None = None
    role_arn: str = ""
    role_session_name: str = "trustfed"
    external_id: str = ""
    web_identity_token: Path | None = None
    sts_endpoint: str = ""


@dataclass(frozen=True)
class S3Access:
    """One bucket, the prefix of every key ("" or ending in /), and how to get there; `seconds` for each call."""

    bucket: str
    prefix: str = ""
    region: str = ""
    endpoint: str = ""
    addressing: Addressing = "auto"
    encryption: Encryption = "none"
    kms_key_id: str = ""
    ca: Path | None = None
    credentials: S3Credentials = S3Credentials()
    seconds: float = 10.0

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")
