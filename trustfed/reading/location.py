"""Where a store is, and by whose credentials it is read: the settings that a configuration, a command and a request share.

No secret is among them: keys and tokens are found by the AWS SDK's own chain (environment, shared files, web identity, container,
instance), or come from STS for the role that is named here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trustfed.errors import Invalid
from trustfed.runtime.bounded_http import Origin

DEFAULT_REGION = "us-east-1"
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61}[a-z0-9])", re.ASCII)
_PREFIX = re.compile(r"(?:[A-Za-z0-9_=+@-][A-Za-z0-9_=+@.-]{0,254}/)*", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{0,32}", re.ASCII)
_WORD = re.compile(r"[\w+=,.@:/-]{0,1224}", re.ASCII)


@dataclass(frozen=True)
class AwsCredentials:
    """An access key; `token` is that of a temporary one, else "". `region` is what the settings or the SDK name."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    region: str = DEFAULT_REGION


@dataclass(frozen=True)
class AwsSettings:
    """How to come by AWS credentials. "" is the SDK's own choice. Raises Invalid.

    `role_arn` is assumed by STS: with the token in `web_identity_token_file` if that is named, else with what the chain gives.
    `role_session_name` is "trustfed" unless set; an attestation by aws_iam shows it.
    """

    region: str = ""
    profile: str = ""
    role_arn: str = ""
    role_session_name: str = ""
    external_id: str = ""
    web_identity_token_file: str = ""
    sts_endpoint: str = ""

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise Invalid(f"region {self.region[:40]!r} is not the name of a region", hint="such as eu-central-1")
        for name in ("profile", "role_arn", "role_session_name", "external_id"):
            if not _WORD.fullmatch(getattr(self, name)):
                raise Invalid(f"{name} has characters that AWS does not allow there, or is too long")
        if self.web_identity_token_file and not self.role_arn:
            raise Invalid("web_identity_token_file needs role_arn: a token is exchanged for a role")
        if self.sts_endpoint and Origin.parse(self.sts_endpoint)[1] not in ("", "/"):
            raise Invalid(
                "sts_endpoint is an address without a path", hint="such as https://sts.eu-central-1.amazonaws.com"
            )


@dataclass(frozen=True)
class Location:
    """A store: `s3://BUCKET[/PREFIX]`, `https://HOST/PATH` or a folder. Raises Invalid.

    `endpoint` is that of an S3 server other than AWS's; `addressing` says where the bucket stands: in the path or in
    the host name ("auto": in the path of an own endpoint). `ca_file` (PEM) holds roots for TLS other than the system's.
    """

    url: str
    endpoint: str = ""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_file: str = ""
    aws: AwsSettings = AwsSettings()

    def __post_init__(self) -> None:
        if self.kind == "s3":
            bucket, prefix = self.bucket
            if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix) or len(prefix) > 512:
                raise Invalid(f"{self.url[:200]!r} is not s3://BUCKET[/PREFIX]")
        elif self.kind == "web":
            Origin.parse(self.url)
        if self.endpoint and (self.kind != "s3" or Origin.parse(self.endpoint)[1] not in ("", "/")):
            raise Invalid("endpoint is the address of an S3 server, without a path, beside an s3:// url")
        if self.addressing not in ("auto", "path", "virtual"):
            raise Invalid("addressing is auto, path or virtual")

    @property
    def kind(self) -> Literal["s3", "web", "directory"]:
        """What kind of place it is."""
        scheme, colon, _ = self.url.partition("://")
        if not colon:
            if not self.url or "\0" in self.url:
                raise Invalid("the store has no address", hint="s3://BUCKET/PREFIX, https://HOST/PATH or a folder")
            return "directory"
        if scheme == "s3":
            return "s3"
        if scheme in ("https", "http"):
            return "web"
        raise Invalid(
            f"{self.url[:200]!r} is no place for a store", hint="s3://BUCKET/PREFIX, https://HOST/PATH or a folder"
        )

    @property
    def bucket(self) -> tuple[str, str]:
        """Bucket, and prefix: "" or ending with /."""
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        return bucket, prefix + "/" if prefix else ""

    @property
    def folder(self) -> Path:
        """The folder of a store of kind "directory"."""
        return Path(self.url)
