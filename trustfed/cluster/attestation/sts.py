"""The judge of AWS identities: one GetCallerIdentity at the configured STS, and its answer read strictly.

Method, path, body and Host are written here; of the machine's request only the headers that trustfed.federation.caller_identity
lets through are sent. No redirect is followed, the answer is bounded in size and time. It is XML of exactly one shape: no
document type, no entities, no attributes, every element once (others took the first or the last of several, or JSON).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from xml.parsers import expat

from trustfed.errors import Denied, Unavailable
from trustfed.federation import caller_identity
from trustfed.runtime.bounded_http import Connection, Limits, Origin

MAX_ANSWER = 65_536
_LIMITS = Limits(seconds=10.0, pause=5.0)
_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_ARN_AT = ("GetCallerIdentityResponse", "GetCallerIdentityResult", "Arn")
_PLACES = {
    _ARN_AT[:1],
    _ARN_AT[:2],
    _ARN_AT,
    (*_ARN_AT[:2], "UserId"),
    (*_ARN_AT[:2], "Account"),
    (_ARN_AT[0], "ResponseMetadata"),
    (_ARN_AT[0], "ResponseMetadata", "RequestId"),
}
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
ARN = re.compile(
    r"arn:aws[a-z-]{0,20}:(?:sts::[0-9]{12}:assumed-role/[\w+=,.@-]{1,64}/[\w+=,.@-]{2,64}"
    r"|iam::[0-9]{12}:user/[\w+=,.@/-]{1,128})",
    re.ASCII,
)
"""Who may attest: a session of a role, or a user."""


@dataclass(frozen=True)
class Sts:
    """The STS at `origin`. `context` is for https."""

    origin: Origin
    context: ssl.SSLContext | None

    def caller(self, headers: Mapping[str, str]) -> str:
        """The ARN of who signed these headers. It blocks. Raises Denied (STS says no), Unavailable (it says nothing)."""
        sent = {"Content-Type": caller_identity.CONTENT_TYPE, "User-Agent": "trustfed", **headers}
        with (
            Connection(self.origin, self.context, _LIMITS) as connection,
            connection.request("POST", "/", sent, caller_identity.BODY) as answer,
        ):
            data = answer.body(MAX_ANSWER)
            status, kind = answer.status, answer.content_type
        if status != 200:
            found = _CODE.search(data)
            code = found[1].decode() if found else f"HTTP {status}"
            if status in (400, 401, 403):
                raise Denied(
                    f"STS does not know who signed this request: {code}",
                    hint="has the credential expired, and does the node sign for this STS (its sts_endpoint_url and region)?",
                )
            raise Unavailable(f"{self.origin} answered {code}", hint="the node tries again")
        if kind not in ("text/xml", "application/xml"):
            raise Unavailable(f"{self.origin} answered with {kind[:80] or 'no type'}, not XML", hint="is that an STS?")
        return read_arn(data)


def read_arn(data: bytes) -> str:
    """The ARN in a GetCallerIdentityResponse. Raises Unavailable for any other document, Denied for another caller."""
    document = _Document()
    try:
        document.read(data)
    except (expat.ExpatError, ValueError, LookupError):
        raise Unavailable("STS answered with something that is no GetCallerIdentityResponse") from None
    arn = document.found.get(_ARN_AT, "")
    if not ARN.fullmatch(arn):
        raise Denied(
            f"the caller {arn[:200]!a} is neither a session of a role nor a user", hint="attest with such credentials"
        )
    return arn


class _Document:
    """One pass over the answer, which ends at the first thing that does not belong there."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, ...], str] = {}
        self._path: tuple[str, ...] = ()

    def read(self, data: bytes) -> None:
        parser = expat.ParserCreate("utf-8", " ")
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._refuse
        parser.ProcessingInstructionHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.Parse(data, True)

    def _refuse(self, *_: object) -> None:
        raise ValueError("not in an answer of STS")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        namespace, _, tag = name.rpartition(" ")
        self._path = (*self._path, tag)
        if namespace != _NAMESPACE or attributes or self._path not in _PLACES or self._path in self.found:
            raise ValueError("not in an answer of STS")
        self.found[self._path] = ""

    def _end(self, name: str) -> None:
        self._path = self._path[:-1]

    def _text(self, text: str) -> None:
        if self._path:
            self.found[self._path] += text
