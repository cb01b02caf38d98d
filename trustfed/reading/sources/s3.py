"""A store in S3: signed GETs (AWS Signature Version 4, by botocore's own signer) over one bounded connection.

The SDK's client would retry, follow regions and read on as it thinks fit; here the same bounds hold as for a web server. What
S3 says of a failure is told apart by its code, for a person has another thing to do about each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.reading.location import AwsCredentials, Location
from trustfed.reading.sources.port import Absent, Refused, check_name
from trustfed.runtime.bounded_http import Connection, Limits, Origin, tls_context

_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_MAX_ERROR = 65_536
_WRONG = {
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is not that of the access key",
    "InvalidToken": "the session token is not valid",
    "InvalidClientTokenId": "the session token is not valid",
    "ExpiredToken": "the session token has expired",
    "TokenRefreshRequired": "the session token has expired",
}
_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}


class S3Source:
    """Objects below one prefix of one bucket."""

    def __init__(self, location: Location, credentials: AwsCredentials, limits: Limits) -> None:
        self._bucket, self._prefix = location.bucket
        self._origin, self._path = _place(location, credentials.region)
        held = Credentials(credentials.access_key, credentials.secret_key, credentials.token or None)
        self._signer = S3SigV4Auth(held, "s3", credentials.region)
        context = tls_context(location.ca_file) if self._origin.scheme == "https" else None
        self._open = ExitStack()
        self._connection = self._open.enter_context(Connection(self._origin, context, limits))

    def parts(self, name: str, limit: int) -> Iterator[bytes]:
        """See Source."""
        key = self._prefix + check_name(name)
        target = self._path + quote(key, safe="/~")
        signed = AWSRequest("GET", f"{self._origin}{target}", headers={"Host": self._origin.authority})
        self._signer.add_auth(signed)
        with self._connection.request("GET", target, dict(signed.headers.items())) as answer:
            if answer.status == 200:
                yield from answer.parts(limit)
                return
            found = _CODE.search(answer.body(_MAX_ERROR))
            raise self._fault(answer.status, found[1].decode() if found else "", f"s3://{self._bucket}/{key}")

    def close(self) -> None:
        """See Source."""
        self._open.close()

    def _fault(self, status: int, code: str, what: str) -> TrustfedError:
        where = f"{what} at {self._origin}"
        if code == "NoSuchBucket":
            return NotFound(
                f"there is no bucket {self._bucket} at {self._origin}", hint="is the name or the endpoint wrong?"
            )
        if code in _WRONG:
            return Denied(
                f"{self._origin} refuses these credentials: {_WRONG[code]} ({code})",
                hint="which key does this process use?",
            )
        if code == "RequestTimeTooSkewed":
            return Denied(f"{self._origin} says that this machine's clock is wrong", hint="set the clock")
        if code in _REGION:
            return Invalid(f"bucket {self._bucket} is not in this region ({code})", hint="say region, or endpoint")
        if status == 404:
            return Absent(f"{where} does not exist", hint="is this the prefix that the hub publishes to?")
        if status in (401, 403):
            return Refused(
                f"{where} is denied to us ({code or status})",
                hint=f"these credentials need s3:GetObject on s3://{self._bucket}/{self._prefix}*",
            )
        return Unavailable(f"{where}: S3 answered {status} {code}".rstrip(), hint="it is tried again")


def _place(location: Location, region: str) -> tuple[Origin, str]:
    """Which origin is asked, and what stands before a key in the path."""
    bucket, _ = location.bucket
    if location.endpoint:
        origin, _ = Origin.parse(location.endpoint)
        virtual = location.addressing == "virtual"
    else:
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        origin = Origin("https", f"s3.{region}.{suffix}", 443)
        # A bucket with a dot in its name is below no certificate of AWS.
        virtual = location.addressing == "virtual" or (location.addressing == "auto" and "." not in bucket)
    if virtual:
        return Origin(origin.scheme, f"{bucket}.{origin.host}", origin.port), "/"
    return origin, f"/{bucket}/"
