"""The secrets of SDS, made once per rotation: certificates with keys, validation contexts with one anchor set per domain.

A validation context never pools anchors and bears no SAN matchers: Envoy would ignore the list that istiod put into the
listener (`match_subject_alt_names`) where `match_typed_subject_alt_names` stands beside it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from agent.sds.config import SdsConfig
from agent.sds.names import DEFAULT, EVERY_DOMAIN, SECRET_TYPE, SPIFFE_VALIDATOR, SPIFFE_VALIDATOR_TYPE, wanted
from agent.sds.nobody import nobodys_anchor
from agent.store import HeldBundle, Store, Svid
from agent.streams import no_identity, not_yet
from trustfed.errors import Denied, TrustfedError
from trustfed.proto import envoy_pb2 as pb
from trustfed.spiffe.ids import SpiffeId, TrustDomain

MAX_PREPARED = 1024
"""Secrets kept ready; more are made again when they are asked for."""
MAX_NOBODIES = 64
"""The same of contexts that trust nobody: whoever asks for many of them costs others nothing."""


class Prepared:
    """One secret, ready to be sent. `version` is made of what it holds that is public; it holds a private key."""

    __slots__ = ("_delta", "entry_id", "name", "resource", "serial", "source", "version")

    def __init__(self, name: str, secret: pb.Secret, version: str, source: object, svid: tuple[str, str]) -> None:
        self.name, self.version, self.source = name, version, source
        self.entry_id, self.serial = svid
        """Of a certificate; both "" for a validation context."""
        response = pb.DiscoveryResponse()
        response.resources.add(type_url=SECRET_TYPE, value=secret.SerializeToString(deterministic=True))
        # Messages written one after the other are one message: these are put behind what differs per stream.
        self.resource = response.SerializeToString()
        """Of a DiscoveryResponse, the bytes of this resource."""
        self._delta = b""

    @property
    def delta(self) -> bytes:
        """Of a DeltaDiscoveryResponse, the bytes of this resource; made when the first stream of that kind asks."""
        if not self._delta:
            (resource,) = pb.DiscoveryResponse.FromString(self.resource).resources
            response = pb.DeltaDiscoveryResponse()
            response.resources.add(name=self.name, version=self.version, resource=resource)
            self._delta = response.SerializeToString()
        return self._delta


class Secrets:
    """What a set of entries may have under which name; the same object until it changes, whoever asks."""

    def __init__(self, store: Store, config: SdsConfig) -> None:
        self._store, self._config = store, config
        self._prepared: dict[tuple[str, object], Prepared] = {}
        self._nobody = b""
        self._nobodies: dict[str, Prepared] = {}
        store.on_change(self._forget)

    def find(self, name: str, ids: tuple[str, ...], now: datetime, *, had: bool = False) -> Prepared | None:
        """The secret called `name` for a process with these entries; None while there is none.

        `had` says that the process holds one of this name: then a domain that it may trust no more is replaced by
        anchors that trust nobody, since Envoy keeps what is only withheld.
        """
        what = wanted(name, self._config)
        if what == DEFAULT:
            return self._certificate(name, ids[:1], now)
        if isinstance(what, SpiffeId):
            entries = self._store.entries
            return self._certificate(name, [id_ for id_ in ids if entries[id_].spiffe_id == what], now)
        if not ids:
            return None
        domains = self._store.answers(ids, now).domains()
        if what == EVERY_DOMAIN:
            return self._context(name, domains)
        assert isinstance(what, TrustDomain)
        found = self._context(name, [what]) if what in domains else None
        return found or (self._trusts_nobody(name, what) if had else None)

    def why_not(self, name: str, ids: tuple[str, ...]) -> TrustfedError:
        """Why `find` gives nothing: Denied where it is not for this process, Unavailable where it is on its way."""
        if not self._store.synced:
            return not_yet()
        if not ids:
            return no_identity()
        what = wanted(name, self._config)
        if isinstance(what, SpiffeId) and all(self._store.entries[id_].spiffe_id != what for id_ in ids):
            return Denied(f"{what} is not an identity of this process", hint="trustfed entry list shows whose it is")
        if isinstance(what, TrustDomain):
            return Denied(
                f"this process has no bundle of trust domain {what}",
                hint="its entry must federate with that domain, a grant must stand and its bundle be confirmed",
            )
        return not_yet()

    def _certificate(self, name: str, ids: Sequence[str], now: datetime) -> Prepared | None:
        for id_ in ids:
            svid = self._store.served(id_)
            if svid is not None and svid.not_after > now:
                held = self._prepared.get((name, id_))
                return (
                    held if held is not None and held.source is svid else self._keep((name, id_), _own(name, id_, svid))
                )
        return None

    def _context(self, name: str, domains: Iterable[TrustDomain]) -> Prepared | None:
        bundles = self._store.bundles
        # A domain without authorities believes in nothing, and Envoy takes no empty set: it is left out.
        held = {domain: bundles[domain] for domain in domains if bundles[domain].bundle.x509_authorities}
        if not held:
            return None
        place, source = (name, tuple(held)), tuple(held.values())
        before = self._prepared.get(place)
        if before is not None and _same(before.source, source):
            return before
        anchors = {domain: one.bundle.x509_authorities for domain, one in held.items()}
        return self._keep(place, _validation(name, anchors, source))

    def _trusts_nobody(self, name: str, domain: TrustDomain) -> Prepared:
        made = self._nobodies.get(name)
        if made is None:
            self._nobody = self._nobody or nobodys_anchor()
            if len(self._nobodies) >= MAX_NOBODIES:
                del self._nobodies[next(iter(self._nobodies))]
            made = self._nobodies[name] = _validation(name, {domain: (self._nobody,)}, ())
        return made

    def _keep(self, place: tuple[str, object], made: Prepared) -> Prepared:
        if place not in self._prepared and len(self._prepared) >= MAX_PREPARED:
            del self._prepared[next(iter(self._prepared))]
        self._prepared[place] = made
        return made

    def _forget(self) -> None:
        """Keys that are not served any more are not kept."""
        gone = [
            at
            for at, one in self._prepared.items()
            if one.entry_id and self._store.served(one.entry_id) is not one.source
        ]
        for at in gone:
            del self._prepared[at]


def _own(name: str, id_: str, svid: Svid) -> Prepared:
    secret = pb.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = b"".join(_pem("CERTIFICATE", der) for der in svid.chain)
    secret.tls_certificate.private_key.inline_bytes = _pem("PRIVATE KEY", svid.key)
    return Prepared(name, secret, _version(svid.chain), svid, (id_, svid.serial))


def _validation(name: str, anchors: dict[TrustDomain, tuple[bytes, ...]], source: object) -> Prepared:
    config = pb.SPIFFECertValidatorConfig()
    for domain in sorted(anchors):
        bundle = b"".join(_pem("CERTIFICATE", der) for der in anchors[domain])
        config.trust_domains.add(name=domain.name).trust_bundle.inline_bytes = bundle
    secret = pb.Secret(name=name)
    validator = secret.validation_context.custom_validator_config
    validator.name = SPIFFE_VALIDATOR
    validator.typed_config.type_url = SPIFFE_VALIDATOR_TYPE
    validator.typed_config.value = config.SerializeToString(deterministic=True)
    return Prepared(name, secret, _version([validator.typed_config.value]), source, ("", ""))


def _same(before: object, source: tuple[HeldBundle, ...]) -> bool:
    """Whether these are the same objects: a bundle that is confirmed anew stays the one it was."""
    return (
        isinstance(before, tuple)
        and len(before) == len(source)
        and all(a is b for a, b in zip(before, source, strict=True))
    )


def _version(parts: Iterable[bytes]) -> str:
    """By content, and the same in every process: 32 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:32]


def _pem(label: str, der: bytes) -> bytes:
    """RFC 7468."""
    text = base64.b64encode(der)
    lines = b"".join(text[at : at + 64] + b"\n" for at in range(0, len(text), 64))
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), lines, label.encode())
