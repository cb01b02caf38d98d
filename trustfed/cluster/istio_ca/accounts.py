"""Kubernetes service accounts, and which SPIFFE ID each one has by rule. Pure.

The rule is a path with two places, `{namespace}` and `{service_account}`, each a whole segment: so two accounts never share
an ID, whatever their names hold. `/trustfed/` is no rule's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trustfed.errors import Denied, Invalid
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

RULE = "/ns/{namespace}/sa/{service_account}"
_NAMESPACE, _ACCOUNT = "{namespace}", "{service_account}"
# RFC 1123: a namespace is a label, a service account a subdomain.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_LITERAL = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_SUBJECT = "system:serviceaccount:"
_MAX_ID = 253


@dataclass(frozen=True)
class Account:
    """Whose token it was; `pod` and `node` are what the token is bound to, "" where it is bound to none."""

    namespace: str
    name: str
    pod: str = ""
    pod_uid: str = ""
    node: str = ""

    @property
    def key(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"

    @property
    def caller(self) -> str:
        """What is told apart when callers are paced: the pod, if the token names one."""
        return f"{self.key}/{self.pod_uid or self.pod}"


def account_of(subject: object) -> Account:
    """The account of `system:serviceaccount:NAMESPACE:NAME`. Raises Denied for any other subject."""
    text = subject if isinstance(subject, str) and len(subject) <= 400 else ""
    namespace, _, name = text.removeprefix(_SUBJECT).partition(":")
    if not text.startswith(_SUBJECT) or not is_namespace(namespace) or not is_account(name):
        raise Denied("the token is no Kubernetes service account's", hint="its subject names none")
    return Account(namespace, name)


def is_namespace(text: object) -> bool:
    """Whether it can name a namespace."""
    return isinstance(text, str) and bool(_LABEL.fullmatch(text))


def is_account(text: object) -> bool:
    """Whether it can name a service account."""
    return isinstance(text, str) and ".." not in text and bool(_SUBDOMAIN.fullmatch(text))


def is_object_name(text: object) -> bool:
    """Whether it can name a pod, a node or a UID."""
    return isinstance(text, str) and len(text) <= _MAX_ID and is_account(text)


def check_rule(rule: str) -> None:
    """Raise Invalid unless `rule` gives each account an ID of its own, outside /trustfed/."""
    segments = rule.split("/")[1:]
    if not rule.startswith("/") or len(rule) > 256 or segments.count(_NAMESPACE) != 1 or segments.count(_ACCOUNT) != 1:
        raise Invalid(
            f"the rule {shown(rule)} does not hold {_NAMESPACE} and {_ACCOUNT} as one whole segment each",
            hint=f'such as "{RULE}"',
        )
    for segment in segments:
        if segment not in (_NAMESPACE, _ACCOUNT) and (not _LITERAL.fullmatch(segment) or segment in (".", "..")):
            raise Invalid(f"the rule {shown(rule)} has a segment that no SPIFFE ID may have", hint="a-z, 0-9, . _ -")
    if segments[0] in ("trustfed", _NAMESPACE, _ACCOUNT):
        raise Invalid(f"the rule {shown(rule)} could reach /trustfed/, which is reserved", hint=f'such as "{RULE}"')


def id_of(trust_domain: TrustDomain, rule: str, namespace: str, name: str) -> SpiffeId:
    """The SPIFFE ID of an account; `rule` has passed `check_rule`. Raises Invalid when it would be too long."""
    path = "/".join({_NAMESPACE: namespace, _ACCOUNT: name}.get(segment, segment) for segment in rule.split("/"))
    return SpiffeId.of(trust_domain, path)


def account_in(spiffe_id: SpiffeId, rule: str) -> Account:
    """The account whose ID by `rule` this is. Raises Denied when it is none's."""
    said, segments = spiffe_id.path.split("/"), rule.split("/")
    found = dict(zip(segments, said, strict=False))
    namespace, name = found.get(_NAMESPACE, ""), found.get(_ACCOUNT, "")
    if (
        not is_namespace(namespace)
        or not is_account(name)
        or id_of(spiffe_id.trust_domain, rule, namespace, name) != spiffe_id
    ):
        raise Denied(f"{spiffe_id} is no service account's identity here", hint=f"IDs follow the rule {rule}")
    return Account(namespace, name)


def excluded(account: Account, refused: Sequence[str], allowed: Sequence[str]) -> bool:
    """Whether configuration keeps this account out; a rule is NAMESPACE or NAMESPACE/ACCOUNT. An empty `allowed` is all."""

    def named(rules: Sequence[str]) -> bool:
        return account.namespace in rules or account.key in rules

    return named(refused) or (bool(allowed) and not named(allowed))


def check_account_rules(rules: Sequence[str], what: str, *, whole: bool = False) -> None:
    """Raise Invalid unless each is NAMESPACE or NAMESPACE/ACCOUNT; with `whole` only the second."""
    for rule in rules:
        namespace, slash, name = rule.partition("/")
        if not is_namespace(namespace) or (slash and not is_account(name)) or (whole and not slash):
            form = "NAMESPACE/ACCOUNT" if whole else "NAMESPACE or NAMESPACE/ACCOUNT"
            raise Invalid(f"{what} has {shown(rule)}", hint=form)
