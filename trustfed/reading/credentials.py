"""AWS credentials by the SDK's own chain, or of a role by STS. In the reader's process only: botocore weighs 20 MB.

botocore is the core of boto3; boto3 itself adds resources and transfers, which nothing here needs, and 0.2 s to load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.reading.location import DEFAULT_REGION, AwsCredentials, AwsSettings
from trustfed.runtime.files import read_bounded

_MAX_TOKEN = 65_536
_AWAY = (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError)


def find(settings: AwsSettings, ca_file: str, seconds: float) -> AwsCredentials:
    """The credentials to read with. Raises Denied (none, or STS refuses), Invalid, Unavailable."""
    try:
        session = botocore.session.Session(profile=settings.profile or None)
        region = settings.region or session.get_config_variable("region") or DEFAULT_REGION
        if settings.role_arn:
            return _assumed(session, settings, region, ca_file, seconds)
        held = session.get_credentials()
        found = held.get_frozen_credentials() if held is not None else None
    except _AWAY as error:
        raise _away(error) from None
    except ClientError as error:
        raise _refused(error, settings) from None
    except BotoCoreError as error:
        raise Invalid(f"AWS credentials cannot be had: {str(error)[:300]}", hint="see the AWS SDK's settings") from None
    if found is None or not found.access_key:
        raise Denied(
            "no AWS credentials were found",
            hint="the SDK's own chain looks in the environment, ~/.aws, web identity, container and instance",
        )
    return AwsCredentials(found.access_key, found.secret_key, found.token or "", region)


def _assumed(session: Any, settings: AwsSettings, region: str, ca_file: str, seconds: float) -> AwsCredentials:
    own: dict[str, Any] = {"connect_timeout": seconds / 3, "read_timeout": seconds / 3}
    by_token = bool(settings.web_identity_token_file)
    if by_token:
        own["signature_version"] = UNSIGNED
    client = session.create_client(
        "sts",
        region_name=region,
        endpoint_url=settings.sts_endpoint or None,
        verify=ca_file or None,
        config=Config(retries={"total_max_attempts": 2, "mode": "standard"}, **own),
    )
    order = {"RoleArn": settings.role_arn, "RoleSessionName": settings.role_session_name or "trustfed"}
    if by_token:
        token = _token(Path(settings.web_identity_token_file))
        made = client.assume_role_with_web_identity(**order, WebIdentityToken=token)["Credentials"]
    else:
        if settings.external_id:
            order["ExternalId"] = settings.external_id
        made = client.assume_role(**order)["Credentials"]
    return AwsCredentials(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"], region)


def _token(path: Path) -> str:
    try:
        return read_bounded(path, _MAX_TOKEN).decode("ascii").strip()
    except UnicodeDecodeError:
        raise Invalid(f"{path} holds no token") from None


def _away(error: Exception) -> Unavailable:
    return Unavailable(f"STS cannot be reached: {str(error)[:200]}", hint="is sts_endpoint, or the region, right?")


def _refused(error: ClientError, settings: AwsSettings) -> Denied | Unavailable:
    code = str(error.response.get("Error", {}).get("Code", ""))[:64]
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        return Unavailable(f"STS answered with {code or 'a fault'}", hint="it is tried again")
    what = f"role {settings.role_arn}" if settings.role_arn else "credentials"
    return Denied(
        f"STS refuses {what}: {code or 'no reason given'}",
        hint="may these credentials assume the role, and have they not expired?",
    )
