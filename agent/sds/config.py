"""How secrets are called in SDS: the table [sds] of the agent's file."""

from __future__ import annotations

from dataclasses import dataclass

from trustfed.errors import Invalid
from trustfed.spiffe.ids import shown

_LONGEST = 256


@dataclass(frozen=True)
class SdsConfig:
    """The names that are no SPIFFE ID. The defaults are Istio's and SPIRE's."""

    # The caller's first identity.
    default_svid_name: str = "default"
    # The validation context that Istio's listeners name.
    default_bundle_name: str = "ROOTCA"
    # The same under the name that SPIRE gives it.
    default_all_bundles_name: str = "ALL"

    def __post_init__(self) -> None:
        names = {
            "default_svid_name": self.default_svid_name,
            "default_bundle_name": self.default_bundle_name,
            "default_all_bundles_name": self.default_all_bundles_name,
        }
        for field, name in names.items():
            if not 1 <= len(name) <= _LONGEST or not name.isprintable() or name.startswith("spiffe:"):
                raise Invalid(
                    f"sds.{field} is {shown(name)}", hint=f"1 to {_LONGEST} printable characters, and no SPIFFE ID"
                )
        if len(set(names.values())) < len(names):
            raise Invalid("two names in [sds] are the same", hint="an SVID, ROOTCA and ALL need one name each")
