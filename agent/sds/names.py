"""What Envoy calls things (API v3), and which secret a resource's name asks for. Pure.

| name | secret |
|---|---|
| `default` | the caller's first identity, as the Workload API orders them |
| `spiffe://td/path` | that identity of the caller |
| `ROOTCA`, `ALL` | validation: home and what the caller's entries federate with, one anchor set per domain |
| `spiffe://td` | validation: that domain alone |
"""

from __future__ import annotations

from collections.abc import Collection

from agent.sds.config import SdsConfig
from trustfed.errors import Invalid
from trustfed.spiffe.ids import SCHEME, SpiffeId, TrustDomain, shown

_TYPE = "type.googleapis.com/"
_TLS = "envoy.extensions.transport_sockets.tls.v3."
SECRET_TYPE = _TYPE + _TLS + "Secret"
SPIFFE_VALIDATOR_TYPE = _TYPE + _TLS + "SPIFFECertValidatorConfig"
SPIFFE_VALIDATOR = "envoy.tls.cert_validator.spiffe"

MAX_NAMES = 256
"""Names that one stream may ask for."""
MAX_NAME = 2048

Wanted = SpiffeId | TrustDomain | str
"""An identity; one domain's anchors; or DEFAULT or EVERY_DOMAIN."""
DEFAULT = "default"
EVERY_DOMAIN = "every domain"


def wanted(name: str, config: SdsConfig) -> Wanted:
    """What a resource's name asks for. Raises Invalid for a name that can never be one."""
    if name == config.default_svid_name:
        return DEFAULT
    if name in (config.default_bundle_name, config.default_all_bundles_name):
        return EVERY_DOMAIN
    if not name.startswith(SCHEME):
        raise Invalid(
            f"no secret is called {shown(name)} here",
            hint=f"{config.default_svid_name}, {config.default_bundle_name}, {config.default_all_bundles_name}, "
            "spiffe://DOMAIN/PATH or spiffe://DOMAIN",
        )
    id_ = SpiffeId.parse(name)
    return id_ if id_.path else id_.trust_domain


def names_identity(name: str, config: SdsConfig) -> bool:
    """Whether a name that `check_names` took asks for a certificate, not for whom to believe."""
    what = wanted(name, config)
    return what == DEFAULT or isinstance(what, SpiffeId)


def check_names(names: Collection[str], config: SdsConfig) -> None:
    """Raises Invalid for too many names, and for one that can never be a secret's."""
    if len(names) > MAX_NAMES:
        raise Invalid(f"{len(names)} secrets in one stream", hint=f"at most {MAX_NAMES}; open another stream")
    for name in names:
        if len(name) > MAX_NAME:
            raise Invalid(f"a secret's name of {len(name)} characters", hint=f"at most {MAX_NAME}")
        wanted(name, config)


def check_type(type_url: str) -> None:
    """Raises Invalid for any type but secrets; none stands for them."""
    if type_url not in ("", SECRET_TYPE):
        raise Invalid(f"type {shown(type_url)} is not served here", hint=SECRET_TYPE)
