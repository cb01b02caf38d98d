"""The official client against a server that misbehaves: one error, bounds, and never half a list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from kubernetes.config import incluster_config

from tests.fakes import kubernetes_api as fakes
from tests.fakes.kubernetes_api import Answer, KubernetesApi, pod, rule, service, status_object
from tests.unit.cluster_kubernetes.kubernetes_house import config_of, until
from trustfed.cluster.mesh.kubernetes import driver
from trustfed.cluster.mesh.kubernetes.config import KubernetesConfig
from trustfed.cluster.mesh.kubernetes.driver import OfficialClient
from trustfed.cluster.mesh.kubernetes.port import RULES, SERVICES, Change, Gone, Object, pods_of
from trustfed.errors import Invalid, Unavailable

PATH = SERVICES.path


def whole(item: Object) -> Object:
    """Keep everything."""
    return item


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    with KubernetesApi(tmp_path_factory.mktemp("api")) as made:
        for number in range(5):
            made.put("services", service(f"s{number}", "shop"))
        made.put("pods", pod("p1", "shop", "s1"))
        made.put("pods", pod("p2", "other", "s1"))
        yield made


@pytest.fixture
def api(server: KubernetesApi) -> Iterator[KubernetesApi]:
    server.requests.clear()
    yield server
    server.clear_faults()


@pytest_asyncio.fixture
async def client(api: KubernetesApi) -> AsyncIterator[OfficialClient]:
    made = OfficialClient(config_of(api))
    yield made
    made.close()


async def test_a_list_is_read_page_by_page(
    client: OfficialClient, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "PAGE", 2)
    listed = await client.list(SERVICES, whole)
    assert [name for _, name in listed.items] == [f"s{number}" for number in range(5)]
    assert int(listed.version) >= 105
    assert [request.query.get("continue") for request in api.requests] == [None, "2", "4"]
    assert {request.headers["authorization"] for request in api.requests} == {f"Bearer {api.token}"}


async def test_a_list_without_an_end_is_left(
    client: OfficialClient, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "PAGE", 1)
    monkeypatch.setattr(driver, "MAX_PAGES", 3)
    with pytest.raises(Unavailable, match="the API server's list of services does not come to an end"):
        await client.list(SERVICES, lambda item: None)
    assert len(api.requests) == 3


async def test_pods_of_one_namespace_are_all_that_is_asked_for(client: OfficialClient) -> None:
    listed = await client.list(pods_of("shop"), whole)
    assert [name for _, name in listed.items] == ["p1"]


async def test_a_watch_tells_what_came_changed_and_went(client: OfficialClient, api: KubernetesApi) -> None:
    listed = await client.list(SERVICES, whole)
    seen: list[Change] = []

    async def watch() -> None:
        async for changes in client.watch(SERVICES, listed.version):
            seen.extend(changes)

    task = asyncio.create_task(watch())
    await until(lambda: api.watching, "the watch")
    api.put("services", service("new", "shop"))
    api.delete("services", "shop", "new")
    await until(lambda: len(seen) == 2, "the events")
    api.send_to_watches(
        b'{"type": "BOOKMARK", "object": {"kind": "Service", "metadata": {"resourceVersion": "999"}}}\n'
    )
    await until(lambda: len(seen) == 3, "the bookmark")
    assert [(c.item and c.item["metadata"]["name"], c.gone) for c in seen] == [
        ("new", False),
        ("new", True),
        (None, False),
    ]
    assert seen[2].version == "999"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


FAULTS: dict[str, tuple[Answer, str]] = {
    "an error": (fakes.status(500), "answered 500 Broken"),
    "refused": (fakes.status(403), "answered 403"),
    "a token that is not known": (fakes.status(401), "answered 401"),
    "too many requests": (fakes.status(429, Retry_After="1"), "answered 429"),
    "a redirect": (fakes.status(302, Location="https://169.254.169.254/"), "answered 302"),
    "garbage": (fakes.bytes_instead(b"\x00\xff{{{"), "is no JSON"),
    "deep": (fakes.bytes_instead(b"[" * 200_000), "is no JSON"),
    "a list that is none": (fakes.bytes_instead(b"[1, 2]"), "is no object"),
    "nothing": (fakes.bytes_instead(b"{}"), "no list of services"),
    "another list": (
        fakes.bytes_instead(b'{"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": []}'),
        "no list of services",
    ),
    "no items": (
        fakes.bytes_instead(b'{"kind": "ServiceList", "metadata": {"resourceVersion": "1"}, "items": null}'),
        "no list of services",
    ),
    "no version": (fakes.bytes_instead(b'{"kind": "ServiceList", "metadata": {}, "items": []}'), "no version"),
    "one without a name": (
        fakes.bytes_instead(b'{"kind": "ServiceList", "metadata": {"resourceVersion": "1"}, "items": [{}]}'),
        "without a name",
    ),
    "half of it": (fakes.cut, "broke off"),
    "not there": (fakes.status(404), "knows no services"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_list_that_is_not_whole_is_none(client: OfficialClient, api: KubernetesApi, fault: str) -> None:
    answer, said = FAULTS[fault]
    api.fault("list", answer, path=PATH)
    with pytest.raises(Unavailable, match=said) as caught:
        await client.list(SERVICES, whole)
    assert api.token not in f"{caught.value.message} {caught.value.hint}"
    assert api.count("list", PATH) == 1  # tried again by who asks, with back-off; not here
    assert len((await client.list(SERVICES, whole)).items) == 5


async def test_a_list_that_changed_between_two_pages_begins_anew(
    client: OfficialClient, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "PAGE", 2)
    api.fault("list", lambda handler, request: handler.say(*api._list(request, "services", None, "Service", "v1")))
    api.fault("list", fakes.status(410))
    with pytest.raises(Gone):
        await client.list(SERVICES, whole)


async def test_what_is_too_large_is_not_read_to_its_end(
    client: OfficialClient, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MAX_PAGE_BYTES", 1 << 20)
    api.fault("list", fakes.huge(1 << 24))
    with pytest.raises(Unavailable, match="longer than"):
        await client.list(SERVICES, whole)
    monkeypatch.setattr(driver, "MAX_OBJECTS", 3)
    with pytest.raises(Unavailable, match="more than 3 services"):
        await client.list(SERVICES, whole)


async def test_an_answer_that_drips_ends_when_its_time_is_over(
    client: OfficialClient, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hasty:
        """Each look at the clock is a second later."""

        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 1.0
            return self.seconds

    monkeypatch.setattr(driver, "time", Hasty())
    api.fault("list", fakes.drip(20))
    with pytest.raises(Unavailable, match="does not come to an end"):
        await client.list(SERVICES, whole)


async def test_a_group_that_is_not_installed_has_no_objects(client: OfficialClient, api: KubernetesApi) -> None:
    api.groups = []
    try:
        assert (await client.list(RULES, whole)).version == ""
        api.fault("list", fakes.status(500), path="/apis")
        with pytest.raises(Unavailable):  # not known, so nothing is concluded
            await client.list(RULES, whole)
    finally:
        api.groups = ["networking.istio.io"]
    api.fault("list", fakes.status(404), path=RULES.path)
    with pytest.raises(Unavailable, match="and no destinationrules"):
        await client.list(RULES, whole)
    api.put("destinationrules", rule("r", "shop", "payments"))
    assert len((await client.list(RULES, whole)).items) == 1


WATCH_FAULTS: dict[str, tuple[Callable[[KubernetesApi], None], str]] = {
    "garbage": (lambda api: api.send_to_watches(b"no json\n"), "is no JSON"),
    "no event": (lambda api: api.send_to_watches(b'{"type": "ELSE"}\n'), "is no event"),
    "no version": (lambda api: api.send_to_watches(b'{"type": "ADDED", "object": {"metadata": {}}}\n'), "no version"),
    "a line without an end": (lambda api: api.send_to_watches(b"x" * (1 << 21)), "longer than"),
    "an error": (
        lambda api: api.send_to_watches(
            json.dumps({"type": "ERROR", "object": status_object(500, "Internal", "x")}).encode() + b"\n"
        ),
        "ended with an error",
    ),
    "cut": (lambda api: api.cut_watches(), "broke off"),
}


@pytest.mark.parametrize("fault", WATCH_FAULTS)
async def test_a_watch_that_breaks_says_so(
    client: OfficialClient, api: KubernetesApi, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MAX_LINE_BYTES", 1 << 20)
    listed = await client.list(SERVICES, whole)
    act, said = WATCH_FAULTS[fault]

    async def watch() -> None:
        async for _ in client.watch(SERVICES, listed.version):
            pass

    task = asyncio.create_task(watch())
    await until(lambda: api.watching, "the watch")
    act(api)
    with pytest.raises(Unavailable, match=said):
        await task
    await until(lambda: not api.watching, "the end of the connection")


async def test_a_version_that_is_forgotten_is_said_so(client: OfficialClient, api: KubernetesApi) -> None:
    listed = await client.list(SERVICES, whole)
    api.forget_history()
    with pytest.raises(Gone):
        async for _ in client.watch(SERVICES, listed.version):
            pass
    api.fault("watch", fakes.status(410))
    with pytest.raises(Gone):
        async for _ in client.watch(SERVICES, listed.version):
            pass


async def test_closing_ends_a_watch_at_once(client: OfficialClient, api: KubernetesApi) -> None:
    listed = await client.list(SERVICES, whole)

    async def watch() -> None:
        async for _ in client.watch(SERVICES, listed.version):
            pass

    task = asyncio.create_task(watch())
    await until(lambda: api.watching, "the watch")
    client.close()
    await asyncio.wait({task}, timeout=20)
    assert task.done()
    with pytest.raises(Unavailable):
        await client.list(SERVICES, whole)
    task.exception()


async def test_a_server_that_is_away_is_an_error(tmp_path: Path) -> None:
    with KubernetesApi(tmp_path) as away:
        config = config_of(away)
    with pytest.raises(Unavailable, match="is not reached"):
        await OfficialClient(config).list(SERVICES, whole)


async def test_a_server_of_another_authority_is_not_believed(api: KubernetesApi, tmp_path: Path) -> None:
    with KubernetesApi(tmp_path) as other:
        document = json.loads(other.kubeconfig.read_text())
        document["clusters"][0]["cluster"]["server"] = api.url
        (tmp_path / "mixed").write_text(json.dumps(document))
    with pytest.raises(Unavailable, match="is not reached"):
        await OfficialClient(KubernetesConfig(tmp_path / "mixed")).list(SERVICES, whole)
    assert api.requests == []


@pytest.mark.parametrize(
    "change",
    [
        {"insecure-skip-tls-verify": True},
        {"server": "http://127.0.0.1:8080"},
        {"certificate-authority": "/nowhere"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_configuration_that_verifies_nobody_is_refused(
    api: KubernetesApi, tmp_path: Path, change: dict[str, object]
) -> None:
    document = json.loads(api.kubeconfig.read_text())
    cluster = document["clusters"][0]["cluster"]
    if "insecure-skip-tls-verify" in change:
        del cluster["certificate-authority"]
    cluster.update(change)
    (tmp_path / "k").write_text(json.dumps(document))
    with pytest.raises(Invalid):
        OfficialClient(KubernetesConfig(tmp_path / "k"))


@pytest.mark.parametrize("text", ["", "}{", "a: [", "users: 3"])
def test_a_file_that_is_no_kubeconfig_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(Invalid, match="cannot be used"):
        OfficialClient(KubernetesConfig(tmp_path / "k"))


async def test_in_a_pod_its_service_account_is_used(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token file is read again when it is a minute old: the kubelet rotates it."""
    token = tmp_path / "token"
    token.write_text("the one before")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rsplit(":", 1)[1])
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(api.ca_file))
    client = OfficialClient(KubernetesConfig())
    with pytest.raises(Unavailable, match="answered 401"):
        await client.list(SERVICES, whole)
    loaded = client._client.configuration.refresh_api_key_hook.__closure__
    (loader,) = [cell.cell_contents for cell in loaded if hasattr(cell.cell_contents, "token_expires_at")]
    token.write_text("")  # half of a rotation
    loader.token_expires_at -= timedelta(minutes=2)
    with pytest.raises(Unavailable, match="is not reached: ConfigException"):
        await client.list(SERVICES, whole)
    token.write_text(api.token)
    assert len((await client.list(SERVICES, whole)).items) == 5
    client.close()


def test_no_file_and_no_pod_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Invalid, match="cannot be used"):
        OfficialClient(KubernetesConfig(tmp_path / "none"))
    with pytest.raises(Invalid, match="service account cannot be used"):
        OfficialClient(KubernetesConfig())
