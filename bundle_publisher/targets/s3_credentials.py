"""Credentials for S3 by every way that configuration names; those that end are fetched anew before they do.

1. static: an access key, its secret (and token) from files, read again at each refresh of what is built on them
2. nothing given: the SDK's own chain (environment, shared files, web identity, container, instance)
3. `role_arn`: AssumeRole signed with 1 or 2; with a web identity token: AssumeRoleWithWebIdentity, the file read anew each time
"""

from __future__ import annotations

from typing import Any

import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials

from bundle_publisher.targets.s3_access import S3Access
from trustfed.runtime.files import read_bounded

MAX_TOKEN = 20_000
_LOADER = botocore.loaders.create_loader()
"""Reads the SDK's descriptions of S3 and STS once for all sessions: they are most of its time and memory."""
_REGION = "us-east-1"
"""Only to sign for a store of one's own that has no regions."""


def signed_in(access: S3Access, config: Config) -> Any:
    """An SDK session that has the credentials; asks nobody yet. Raises what reading the files raises."""
    ours = access.credentials
    session = _plain(access)
    if not ours.role_arn:
        return session
    assume = _by_token if ours.web_identity_token else _by_role

    def fetch() -> dict[str, Any]:
        # A new base each time: its files, too, may have been replaced.
        made = assume(access, _plain(access), config.merge(Config(s3=None)))["Credentials"]
        return {
            "access_key": made["AccessKeyId"],
            "secret_key": made["SecretAccessKey"],
            "token": made["SessionToken"],
            "expiry_time": made["Expiration"].isoformat(),
        }

    assumed = _session()
    assumed.set_config_variable("region", access.region or session.get_config_variable("region") or _REGION)
    assumed._credentials = DeferredRefreshableCredentials(fetch, "assume-role")  # the SDK has no public door for this
    return assumed


def _plain(access: S3Access) -> Any:
    """A session with static credentials, or with the chain's."""
    ours = access.credentials
    session = _session()
    if access.region or access.endpoint:
        session.set_config_variable("region", access.region or session.get_config_variable("region") or _REGION)
    if ours.access_key_id and ours.secret_access_key:
        token = ours.session_token.read().decode("ascii") if ours.session_token else None
        session.set_credentials(ours.access_key_id, ours.secret_access_key.read().decode("ascii"), token)
    return session


def _session() -> Any:
    session = botocore.session.Session()
    session.register_component("data_loader", _LOADER)
    return session


def _sts(access: S3Access, session: Any, config: Config, **more: Any) -> Any:
    return session.create_client(
        "sts",
        endpoint_url=access.credentials.sts_endpoint or None,
        verify=str(access.ca) if access.ca and access.credentials.sts_endpoint else None,
        config=config.merge(Config(**more)),
    )


def _by_role(access: S3Access, session: Any, config: Config) -> Any:
    ours = access.credentials
    more = {"ExternalId": ours.external_id} if ours.external_id else {}
    sts = _sts(access, session, config)
    return sts.assume_role(RoleArn=ours.role_arn, RoleSessionName=ours.role_session_name, **more)


def _by_token(access: S3Access, session: Any, config: Config) -> Any:
    ours = access.credentials
    assert ours.web_identity_token is not None
    token = read_bounded(ours.web_identity_token, MAX_TOKEN).decode("ascii", errors="replace").strip()
    sts = _sts(access, session, config, signature_version=botocore.UNSIGNED)
    return sts.assume_role_with_web_identity(
        RoleArn=ours.role_arn, RoleSessionName=ours.role_session_name, WebIdentityToken=token
    )
