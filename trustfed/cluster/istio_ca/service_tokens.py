"""A Kubernetes service-account token, verified with the keys of its issuer. Pure: token, keys, rules and time in, account out.

The steps (RFC 7519, RFC 8725; Kubernetes' bound service-account tokens):

 1. compact, three segments, at most MAX_TOKEN bytes; a header of alg, kid and typ only: so no jwk, jku, x5c, crit
 2. alg is RS256 or ES256, whatever the keys would allow
 3. the key of that kid, of the kind that alg needs; nothing in the token chooses another
 4. the signature
 5. claims: one JSON object, no member twice; exp and nbf are whole numbers, exp is required, both hold within LEEWAY
 6. the issuer is exactly the one expected, and one of the audiences is one of ours
 7. sub is a service account's, and the `kubernetes.io` object, if there, names the same account
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from trustfed.cluster.istio_ca.accounts import Account, account_of, is_object_name
from trustfed.errors import Denied, Invalid
from trustfed.spiffe import jose, strict_json
from trustfed.spiffe.ids import shown
from trustfed.spiffe.keys import PublicKey

ALGORITHMS = ("RS256", "ES256")
LEEWAY = 30
"""Seconds that two clocks may differ by."""
MAX_AUDIENCES = 32
_WHAT = "service-account token"
_KUBERNETES = "kubernetes.io"


class Reviewer(Protocol):
    """Says whose token this is, by whatever means."""

    async def review(self, token: str) -> Account:
        """The account. Raises Denied or Invalid for a token that is not to be believed, Unavailable when nobody can say."""
        ...


@dataclass(frozen=True)
class Expected:
    """Who must have issued a token, and for whom."""

    issuer: str
    audiences: tuple[str, ...]


def parse(token: str) -> jose.Jws:
    """Steps 1 and 2: what a token says of itself. Raises Invalid, Denied."""
    taken = jose.parse(token, _WHAT)
    if taken.algorithm not in ALGORITHMS:
        raise Denied(f"{_WHAT}: the algorithm {shown(taken.algorithm)} is not accepted", hint=" or ".join(ALGORITHMS))
    return taken


def verify(token: str, key_of: Callable[[str], PublicKey | None], expected: Expected, now: datetime) -> Account:
    """The account whose token this is, now. Raises Invalid for what is malformed, Denied for what is not believed."""
    taken = parse(token)  # 1, 2
    key = key_of(taken.key_id)  # 3
    if key is None:
        raise Denied(f"{_WHAT}: its issuer has no key {shown(taken.key_id)}", hint="is it of this Kubernetes cluster?")
    jose.check_key(taken.algorithm, key, _WHAT)
    jose.check_signature(token, taken.algorithm, key, _WHAT)  # 4
    claims = strict_json.parse_object(taken.payload, what=f"{_WHAT} claims", limit=jose.MAX_TOKEN)  # 5
    seconds = now.timestamp()
    if seconds >= _time(claims, "exp", required=True) + LEEWAY:
        raise Denied(f"{_WHAT}: it has expired", hint="the caller must read its token file again")
    if seconds < _time(claims, "nbf") - LEEWAY:
        raise Denied(f"{_WHAT}: it is not valid yet", hint="check both clocks")
    if claims.get("iss") != expected.issuer:  # 6
        raise Denied(f"{_WHAT}: its issuer is {shown(claims.get('iss'))}", hint=f"expected is {expected.issuer}")
    check_audience(claims.get("aud"), expected.audiences)
    return _account(claims)  # 7


def check_audience(said: object, ours: Sequence[str]) -> None:
    """Raise Denied unless one of the audiences that a token is for (text or a list of it) is one of ours."""
    listed = [said] if isinstance(said, str) else said
    if not isinstance(listed, list) or len(listed) > MAX_AUDIENCES or not all(isinstance(one, str) for one in listed):
        raise Denied(f"{_WHAT}: it names no audience, or too many", hint=f"at most {MAX_AUDIENCES}")
    if not set(listed) & set(ours):
        raise Denied(f"{_WHAT}: it is for another audience", hint=f"a token for {' or '.join(ours)} is wanted")


def bound_to(account: Account, **names: object) -> Account:
    """`account` with the pod and node that its token names. Raises Denied for what can be no name."""
    for what, name in names.items():
        if name != "" and not is_object_name(name):
            raise Denied(f"{_WHAT}: its {what.replace('_', ' ')} is malformed")
    return replace(account, **names)  # type: ignore[arg-type]


def _time(claims: Mapping[str, object], name: str, *, required: bool = False) -> int:
    value = claims.get(name)
    if value is None and not required:
        return 0
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise Invalid(f"{_WHAT}: {name} is missing or no whole number of seconds")
    return value


def _account(claims: Mapping[str, object]) -> Account:
    account = account_of(claims.get("sub"))
    said = claims.get(_KUBERNETES)
    if said is None:
        return account
    about = _member(claims, _KUBERNETES)
    named = _member(about, "serviceaccount")
    if about.get("namespace") != account.namespace or named.get("name") != account.name:
        raise Denied(f"{_WHAT}: its subject and its {_KUBERNETES} claim name different accounts")
    pod, node = _member(about, "pod"), _member(about, "node")
    return bound_to(account, pod=pod.get("name", ""), pod_uid=pod.get("uid", ""), node=node.get("name", ""))


def _member(claims: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = claims.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Denied(f"{_WHAT}: its {name} claim is no object")
    return value
