"""The SDK's side of an S3 target; it blocks. Loaded only where an S3 target is used: the core of boto3 takes 37 MB.

Our own retries, none of the SDK's: an attempt has one outcome. Only what every S3 server knows is used: checksums only
where they are required, the body's SHA-256 in the signature (SigV4) instead.
"""

from __future__ import annotations

import time
from typing import Any

from botocore.config import Config
from botocore.exceptions import ConnectionClosedError
from botocore.handlers import add_expect_header

from bundle_publisher.targets.port import MAX_DOCUMENT, Document, Stored
from bundle_publisher.targets.s3_access import S3Access
from bundle_publisher.targets.s3_credentials import signed_in
from bundle_publisher.targets.s3_errors import refusals
from trustfed.errors import Invalid, Unavailable

_PART = 65_536
_CONNECTIONS = 8


class Bucket:
    """One bucket below one prefix. Safe to use from several threads."""

    def __init__(self, access: S3Access) -> None:
        """Reads configuration and static credentials; roles are assumed when the first call is signed."""
        self._access = access
        with refusals(access, "open"):
            config = _config(access)
            self._client = signed_in(access, config).create_client(
                "s3",
                region_name=access.region or None,
                endpoint_url=access.endpoint or None,
                verify=str(access.ca) if access.ca else None,
                config=config,
            )
            # Asked for "100 Continue", the SDK reads on without end, as fast as it can, where a store breaks off within it.
            self._client.meta.events.unregister("before-call.s3", add_expect_header)

    def get(self, name: str) -> Stored | None:
        """The newest version, or None."""
        end = time.monotonic() + self._access.seconds
        with refusals(self._access, "read", name):
            try:
                answer = self._client.get_object(Bucket=self._access.bucket, Key=self._access.prefix + name)
            except self._client.exceptions.NoSuchKey:
                return None
            with answer["Body"] as body:
                data = _bounded(body, f"{self._access} holds", name, end)
            tag = answer.get("ETag")
            if not tag or answer.get("ContentLength") != len(data):
                raise _cut()  # the SDK takes half a head for a whole one
        return Stored(data, str(tag))

    def put(self, document: Document, if_tag: str | None) -> str:
        """Write over what has the tag, or where nothing is; the new tag."""
        more: dict[str, Any] = {"IfNoneMatch": "*"} if if_tag is None else {"IfMatch": if_tag}
        if document.cache_control:
            more["CacheControl"] = document.cache_control
        if self._access.encryption != "none":
            more["ServerSideEncryption"] = self._access.encryption
        if self._access.kms_key_id:
            more["SSEKMSKeyId"] = self._access.kms_key_id
        with refusals(self._access, "write", document.name):
            answer = self._client.put_object(
                Bucket=self._access.bucket,
                Key=self._access.prefix + document.name,
                Body=document.data,
                ContentType=document.content_type,
                **more,
            )
            tag = answer.get("ETag")
            if not tag:
                raise _cut()
        return str(tag)

    def delete(self, name: str, if_tag: str) -> None:
        """Remove what has the tag."""
        with refusals(self._access, "remove", name):
            self._client.delete_object(Bucket=self._access.bucket, Key=self._access.prefix + name, IfMatch=if_tag)


def _cut() -> Exception:
    error: Exception = ConnectionClosedError(endpoint_url="")
    return error


def _bounded(body: Any, holds: str, name: str, end: float) -> bytes:
    """The whole body. Invalid beyond MAX_DOCUMENT, Unavailable when it drips."""
    parts, length = [], 0
    while part := body.read(_PART):
        length += len(part)
        if length > MAX_DOCUMENT:
            raise Invalid(f"{holds} more than {MAX_DOCUMENT} bytes under {name}")
        if time.monotonic() > end:
            raise Unavailable(f"{holds} {name}, but it comes too slowly", hint="is the store slow, or far away?")
        parts.append(part)
    return b"".join(parts)


def _config(access: S3Access) -> Config:
    return Config(
        connect_timeout=min(access.seconds, 5.0),
        read_timeout=access.seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=_CONNECTIONS,
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": access.addressing, "payload_signing_enabled": True},
        user_agent_extra="trustfed",
    )
