"""What is configured, what the admin socket shows, and that nobody else pays for it."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import httpx
import pytest

from tests.fakes.kubernetes_api import KubernetesApi
from tests.unit.cluster_kubernetes.kubernetes_house import config_of
from tests.unit.cluster_mesh.probing_house import ProbingHouse, gateway
from trustfed.cli.main import main
from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.mesh.kubernetes import driver
from trustfed.cluster.mesh.kubernetes.config import KubernetesConfig
from trustfed.cluster.mesh.kubernetes.parts import KubernetesParts
from trustfed.cluster.mesh.probe_admin import Probes
from trustfed.errors import Invalid
from trustfed.runtime import web
from trustfed.runtime.config import load
from trustfed.runtime.metrics import Registry
from trustfed.runtime.paths import Paths
from trustfed.runtime.sockets import listen_unix

FILE = """
data_dir = "data"
[grpc]
listen = "127.0.0.1:8443"
[bundle_spiffe]
listen = "127.0.0.1:8444"
[mesh]
probe_interval = "2s"
tls_probe_interval = "0s"
[mesh.kubernetes]
kubeconfig = "kubeconfig"
cluster_domain = "cluster.example"
"""


def test_the_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(FILE)
    mesh = load(tmp_path / "cluster.toml", ClusterConfig).mesh
    assert mesh.probe_interval.total_seconds() == 2
    assert mesh.kubernetes == KubernetesConfig(tmp_path / "kubeconfig", "", "cluster.example")


@pytest.mark.parametrize(
    "changed",
    [
        'probe_interval = "100ms"',
        'probe_timeout = "2m"',
        'tls_probe_interval = "1s"',
        '[mesh.kubernetes]\ncluster_domain = "Über"',
        '[mesh.kubernetes]\ncontext = "x"',
        '[mesh.kubernetes]\ntimeout = "0s"',
        '[mesh.kubernetes]\ntoken = "secret"',
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changed: str) -> None:
    text = FILE.split("[mesh]", maxsplit=1)[0] + "[mesh]\n" + changed
    (tmp_path / "cluster.toml").write_text(text)
    with pytest.raises(Invalid) as caught:
        load(tmp_path / "cluster.toml", ClusterConfig)
    assert "secret" not in caught.value.message


async def test_the_admin_socket_shows_what_is_probed_and_followed(tmp_path: Path) -> None:
    house = await ProbingHouse.make()
    await house.told("east.test", gateway("a", "203.0.113.1"))
    with KubernetesApi(tmp_path) as api:
        app = Paths()
        probes = Probes(house.fold, MeshConfig(), house.clock, Registry(), house.prober)
        parts = KubernetesParts(house.fold, config_of(api), house.clock, house.registry, root_namespace="istio-system")
        probes.paths(app)
        parts.paths(app)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
            shown = (await client.get("/mesh/probes")).json()
            followed = (await client.get("/mesh/kubernetes")).json()
        parts.close()
    (one,) = shown["gateways"]
    assert (one["exporter"], one["gateway"], one["up"], one["answers"]) == ("east.test", "a", True, None)
    assert (followed["configured"], followed["server"]) == (True, api.url)
    assert [collection["complete"] for collection in followed["collections"]] == [False, False, False]
    await house.close()


async def test_the_commands_show_it_to_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    house = await ProbingHouse.make()
    app, socket = Paths(), tmp_path / "s"
    with KubernetesApi(tmp_path) as api:
        parts = KubernetesParts(house.fold, config_of(api), house.clock, house.registry, root_namespace="istio-system")
        parts.paths(app)
        Probes(house.fold, MeshConfig(), house.clock, Registry(), house.prober).paths(app)
        door = await web.serve(app, listen_unix(socket))
        for command, said in (
            (["mesh", "kubernetes"], "0 annotated Services refused"),
            (["mesh", "kubernetes", "--refused"], "none"),
            (["mesh", "kubernetes", "--unknown", "--output", "json"], "[]"),
            (["gateway", "probe"], "every service that was asked answers"),
            (["gateway", "list", "--remote"], "none"),
        ):
            await asyncio.to_thread(main, [*command, "--socket", str(socket)])
            assert said in capsys.readouterr().out, command
        await door.close()
        parts.close()
    await house.close()


async def test_without_the_table_nothing_is_followed() -> None:
    house = await ProbingHouse.make()
    parts = KubernetesParts(house.fold, None, house.clock, house.registry, root_namespace="istio-system")
    assert (parts.jobs(), parts.status(), parts.summary()) == ([], {"configured": False}, {"configured": False})
    parts.close()
    await house.close()


def test_the_client_is_not_imported_by_those_who_do_not_configure_it() -> None:
    """Only inside functions of the driver."""
    folder = Path(driver.__file__).parents[2]
    for path in folder.rglob("*.py"):
        for statement in ast.parse(path.read_text()).body:
            named = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            named += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in named} & {"kubernetes", "urllib3"}, path
