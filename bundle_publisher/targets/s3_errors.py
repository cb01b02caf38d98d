"""What S3, STS and the SDK say, mapped once to our errors: what was refused, and what to do about it.

Of what a server says only its error code gets into a message, and only one that looks like a code: the texts beside it
can repeat what was signed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from bundle_publisher.targets.s3_access import S3Access
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable

_CODE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_UNKNOWN_TO_IT = {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"}
_WRONG_SECRET = {"SignatureDoesNotMatch", "IncompleteSignature", "InvalidSignature"}
_WRONG_TOKEN = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidIdentityToken", "IDPRejectedClaim"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_RIGHTS = (
    "allow s3:GetObject, s3:PutObject and s3:DeleteObject on {}*, and s3:ListBucket (else what is missing is denied)"
)


@contextlib.contextmanager
def refusals(access: S3Access, doing: str, name: str = "") -> Iterator[None]:
    """Turn whatever the SDK raises into one of our errors; `doing` is "read", "write", "remove" or "open"."""
    what = f"cannot {doing} {access}/{name}".rstrip("/")
    try:
        yield
    except sdk.ClientError as error:
        raise _answered(error, access, what, name) from None
    except sdk.NoCredentialsError:
        raise Denied(
            f"{what}: there are no credentials", hint="configure access_key_id and its file, a role, or the SDK's chain"
        ) from None
    except (sdk.ConnectTimeoutError, sdk.ReadTimeoutError):
        raise Unavailable(
            f"{what}: no answer within {access.seconds:g} s", hint="is the store slow, far away, or behind a firewall?"
        ) from None
    except sdk.SSLError:
        raise Unavailable(
            f"{what}: its certificate is not accepted, or it speaks no TLS",
            hint="ca_file names other authorities than the system's",
        ) from None
    except (sdk.HTTPClientError, sdk.IncompleteReadError, ResponseParserError, sdk.MetadataRetrievalError) as error:
        raise Unavailable(
            f"{what}: the connection failed ({type(error).__name__})", hint="check the endpoint and that it is up"
        ) from None
    except (sdk.CredentialRetrievalError, sdk.PartialCredentialsError) as error:
        raise Denied(f"{what}: {type(error).__name__}", hint="check where the SDK's chain takes credentials") from None
    except RecursionError:  # the SDK asks where the bucket is of who sends it away
        raise Invalid(f"{what}: it sends us in a circle", hint="correct region or endpoint_url") from None
    except sdk.BotoCoreError as error:
        raise Invalid(f"{what}: {type(error).__name__}", hint="check region, endpoint_url and bucket") from None


def _answered(error: sdk.ClientError, access: S3Access, what: str, name: str) -> TrustfedError:
    """A server's refusal. Some answer without a code, or without a body."""
    response: dict[str, Any] = error.response
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    said = str((response.get("Error") or {}).get("Code") or "")
    code = said if _CODE.fullmatch(said) else ""
    sts = error.operation_name.startswith("AssumeRole")
    if sts:
        what = f"{what}: {error.operation_name} of {access.credentials.role_arn}"
    shown = f"{what}: {code or f'HTTP {status}'}"
    if status in (409, 412) or (status == 404 and code == "NoSuchKey" and not sts):
        return Conflict(f"{name} was changed by another publisher")
    if status == 429 or (status >= 500 and status != 501) or code in ("SlowDown", "Throttling", "RequestTimeout"):
        return Unavailable(shown, hint="the store cannot now: see its own log")
    if code in _UNKNOWN_TO_IT:
        return Denied(shown, hint="it knows no such access key: check access_key_id and the endpoint")
    if code in _WRONG_SECRET:
        return Denied(shown, hint="the secret does not belong to the access key: check secret_access_key_file")
    if code in _WRONG_TOKEN:
        return Denied(shown, hint="the token has expired or is another's: is the token's file renewed?")
    if code in _CLOCK:
        return Denied(shown, hint="this machine's clock and the store's differ: correct them")
    if code in _REGION or status in (301, 307):
        return Invalid(shown, hint="the bucket is elsewhere: correct region or endpoint_url")
    if code == "NoSuchBucket":
        return Invalid(f"{what}: there is no bucket {access.bucket}", hint="create it, or correct bucket")
    if sts:
        hint = "the role's trust policy must let these credentials assume it (and this external_id)"
        return Denied(shown, hint=hint) if status in (400, 401, 403) else Invalid(shown, hint="check role_arn")
    if status in (401, 403):
        return Denied(shown, hint=_RIGHTS.format(f"{access.bucket}/{access.prefix}"))
    if status == 501 or code == "NotImplemented":
        return Invalid(shown, hint="the store must know conditional writes (If-Match, If-None-Match)")
    return Invalid(shown, hint="check region, endpoint_url, bucket and encryption")
