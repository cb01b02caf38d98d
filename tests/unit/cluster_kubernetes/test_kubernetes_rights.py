"""The rights in deploy/ are those that are used: no fewer, and no more."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.fakes.kubernetes_api import KubernetesApi, Request, pod, service
from tests.unit.cluster_kubernetes.kubernetes_house import EXPORTED, KubernetesHouse, until
from tests.unit.cluster_mesh.probing_house import ProbingHouse

MANIFEST = Path(__file__).parents[3] / "deploy" / "kubernetes" / "cluster-reader.yaml"
Right = tuple[str, str, str]
"""Group, resource and verb; a path in place of the first two."""


def granted() -> set[Right]:
    (role,) = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "ClusterRole"]
    found: set[Right] = set()
    for rule in role["rules"]:
        paths = [("", path) for path in rule.get("nonResourceURLs", ())]
        of = paths or [(group, name) for group in rule["apiGroups"] for name in rule["resources"]]
        found |= {(*one, verb) for one in of for verb in rule["verbs"]}
    return found


def used(request: Request) -> Right:
    parts = request.path.strip("/").split("/")
    if len(parts) == 1:
        return "", request.path, "get"
    return (parts[1] if parts[0] == "apis" else ""), parts[-1], request.verb


async def test_the_manifest_grants_what_is_asked_for_and_nothing_else(tmp_path: Path) -> None:
    journalled = await ProbingHouse.make()
    with KubernetesApi(tmp_path) as api:
        house = KubernetesHouse(api, journalled)
        api.put("services", service("payments", "shop", EXPORTED))
        api.put("pods", pod("payments-1", "shop", "payments"))
        async with house.running():
            await until(house.export, "the export")
            await until(lambda: api.watching == 4, "the watches")
        api.groups = []
        again = KubernetesHouse(api, journalled)
        async with again.running():
            await until(lambda: any(one.path == "/apis" for one in api.requests), "whether Istio is there")
        assert {used(request) for request in api.requests} == granted()
    await journalled.close()


def test_the_manifest_grants_no_secrets_and_no_writes() -> None:
    assert {verb for _, _, verb in granted()} <= {"get", "list", "watch"}
    assert "secrets" not in {name for _, name, _ in granted()}
    assert "*" not in str(granted())
