"""What is published: the SPIFFE bundle of each trust domain, byte for byte as its owner signed it, and the bundle map.

    bundles/NAME     the bundle document (SPIFFE Trust Domain and Bundle §4)
    bundle-map       all of them in one (§5)
    routes/NAME.yaml the Istio resources rendered for a cluster, and their digest (bundle_publisher.manifests)

A document never goes backwards: `progress` says which sequence of which domain it holds, and whether it may replace
another. Plain readers trust the place they read from; only envelopes carry the owner's signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bundle_publisher import manifests
from bundle_publisher.targets.port import Document
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import TrustDomain

MAP = "bundle-map"
DEFAULT_HINT = 300
"""Seconds between polls where no bundle says otherwise."""

_PREFIX = "bundles/"

Progress = Mapping[str, int]


def bundle_name(trust_domain: TrustDomain) -> str:
    """The name that the bundle of `trust_domain` is published under."""
    return _PREFIX + trust_domain.name


def trust_domain_of(name: str) -> str | None:
    """The trust domain whose bundle is published under `name`; None for any other document."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def bundle_document(bundle: Bundle, body: bytes) -> Document:
    """The bundle document `body`, exact bytes, whose content `bundle` is."""
    hint = bundle.refresh_hint or DEFAULT_HINT
    return Document(bundle_name(bundle.trust_domain), body, cache_control=f"max-age={hint}")


def bundle_map(bundles: Iterable[Bundle]) -> Document:
    """The bundle map of these domains; its readers poll as often as the most impatient domain asks."""
    held = {bundle.trust_domain: bundle for bundle in sorted(bundles, key=lambda bundle: bundle.trust_domain)}
    hint = min((bundle.refresh_hint or DEFAULT_HINT for bundle in held.values()), default=DEFAULT_HINT)
    return Document(MAP, BundleMap(held).marshal(), cache_control=f"max-age={hint}")


def progress(name: str, data: bytes) -> Progress:
    """The sequence of each domain in a published document; empty for what is no document, which anything follows."""
    try:
        if name == MAP:
            bundles = list(BundleMap.parse(data).bundles.values())
        elif name.startswith(_PREFIX):
            bundles = [Bundle.parse(TrustDomain(name.removeprefix(_PREFIX)), data)]
        elif (domain := manifests.trust_domain_of(name)) is not None:
            return {domain.name: manifests.read_version(data, domain)}
        else:
            raise Invalid(f"{name} is not a document that is published")
    except TrustfedError:
        return {}
    return {bundle.trust_domain.name: bundle.sequence or 0 for bundle in bundles}


def check_continues(document: Document, held: bytes) -> None:
    """Raise Denied when `document` would take a domain back to a lower sequence than the published one `held`."""
    before = progress(document.name, held)
    for name, sequence in progress(document.name, document.data).items():
        if sequence < before.get(name, 0):
            raise Denied(
                f"{document.name}: sequence {before[name]} of {name} is published, {sequence} would go back",
                hint="another publisher knows more: is this one running on an old copy of its data?",
            )
