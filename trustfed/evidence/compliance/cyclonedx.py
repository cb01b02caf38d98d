"""The inventory as a CycloneDX 1.7 CBOM: certificates, their keys and algorithms.

CycloneDX's `fingerprint` of a certificate excludes the signature; the SHA-256 over the DER stands beside it as a property and
as the component's hash.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

from trustfed.evidence.compliance.data import Asset, Report, moment

_SPACE = UUID("9c1a7a1e-5d2b-5a0d-8d56-0a7e1f1c1b52")


def cbom(report: Report) -> dict[str, Any]:
    """The bill of materials of `report.assets`."""
    algorithms = sorted({one.algorithm for one in report.assets if one.algorithm})
    strength = {one.algorithm: (one.strength, one.quantum_safe) for one in report.assets}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid5(_SPACE, repr((report.scope, report.as_of_ms)))}",
        "version": 1,
        "metadata": {
            "timestamp": moment(report.as_of_ms),
            "component": {"type": "application", "name": ", ".join(report.scope)[:1_000], "bom-ref": "scope"},
            "properties": [{"name": "trustfed:definition", "value": report.definition}],
        },
        "components": [
            *(_algorithm(name, *strength[name]) for name in algorithms),
            *(_asset(number, one) for number, one in enumerate(report.assets)),
        ],
    }


def _algorithm(name: str, bits: int, quantum_safe: bool) -> dict[str, Any]:
    return {
        "type": "cryptographic-asset",
        "bom-ref": f"algorithm/{name}",
        "name": name,
        "cryptoProperties": {
            "assetType": "algorithm",
            "algorithmProperties": {
                "primitive": "signature",
                "parameterSetIdentifier": name,
                "cryptoFunctions": ["sign", "verify"],
                "classicalSecurityLevel": bits,
                "nistQuantumSecurityLevel": 1 if quantum_safe else 0,
            },
        },
    }


def _asset(number: int, one: Asset) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "cryptographic-asset",
        "bom-ref": f"asset/{number}/{one.serial or one.name}",
        "name": one.name,
        "properties": [
            {"name": f"trustfed:{name}", "value": value}
            for name, value in (
                ("trust_domain", one.trust_domain),
                ("purpose", one.purpose),
                ("custodian", one.custodian),
                ("owner", one.owner),
                ("sha256_der", one.sha256),
            )
            if value
        ],
    }
    if one.sha256:
        component["hashes"] = [{"alg": "SHA-256", "content": one.sha256}]
        component["cryptoProperties"] = {"assetType": "certificate", "certificateProperties": _certificate(one)}
    else:
        component["cryptoProperties"] = {
            "assetType": "related-crypto-material",
            "relatedCryptoMaterialProperties": _key(one),
        }
    return component


def _certificate(one: Asset) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "serialNumber": one.serial,
        "subjectName": one.name,
        "issuerName": one.issuer,
        "notValidBefore": moment(one.not_before_ms),
        "notValidAfter": moment(one.not_after_ms),
        "certificateFormat": "X.509",
        "certificateState": [{"state": "revoked" if one.state == "tainted" else _state(one.state)}],
    }
    if one.algorithm:
        properties["relatedCryptographicAssets"] = [{"type": "algorithm", "ref": f"algorithm/{one.algorithm}"}]
    return properties


def _key(one: Asset) -> dict[str, Any]:
    properties: dict[str, Any] = {"type": "private-key", "id": one.serial or one.name, "state": _state(one.state)}
    if one.algorithm:
        properties["algorithmRef"] = f"algorithm/{one.algorithm}"
    if one.not_after_ms:
        properties["expirationDate"] = moment(one.not_after_ms)
    if one.not_before_ms:
        properties["creationDate"] = moment(one.not_before_ms)
    if one.custodian:
        properties["securedBy"] = {"mechanism": one.custodian}
    return properties


def _state(state: str) -> str:
    return {
        "prepared": "pre-activation",
        "distributed": "pre-activation",
        "retiring": "deactivated",
        "tainted": "compromised",
        "removed": "destroyed",
    }.get(state, "active")
