"""A real hub that publishes to a folder, a real S3 and a web server at once, through their failures and its own restart."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.http_store import HttpStore
from tests.fakes.seaweed import PUBLISHER, SeaweedFs, seaweed
from tests.system.hub_world import Cluster, HubProcess
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import TrustDomain

TARGETS = """
[[publication.targets]]
name = "cdn"
kind = "s3"
bucket = "{bucket}"
prefix = "prod/"
endpoint_url = "{s3}"
allow_loopback_http = true
addressing = "path"
access_key_id = "{key}"
secret_access_key_file = "s3-secret"
[[publication.targets]]
name = "mirror"
kind = "http"
url = "{web}"
allow_loopback_http = true
bearer_token_file = "web-token"
timeout = "1s"
"""


async def test_three_targets_at_once_and_one_that_is_down_holds_back_no_other(tmp_path: Path) -> None:
    server, store = seaweed(), HttpStore(token="mirror-token")
    hub, bucket = _hub(tmp_path, server, store)
    try:
        cluster = await Cluster.enrolled(hub, "west")
        s3 = server.client()
        await _until(lambda: _sequence(_object(s3, bucket, "prod/bundles/west")) == 1)
        plain = (tmp_path / "public" / "bundles" / "west").read_bytes()
        assert _object(s3, bucket, "prod/bundles/west") == plain
        await _until(lambda: _target(hub, "mirror")["errors"] > 0)
        mirror = _target(hub, "mirror")
        assert mirror["waiting"] == 2  # the bundle and the map
        assert "has not answered within 1 s" in mirror["error"] and mirror["hint"] and mirror["next_try"]
        assert hub.admin("GET", "/domains/west").json()["published_at"] is None  # not everywhere yet
        assert 'trustfed_hub_publication_errors_total{target="mirror"}' in hub.admin("GET", "/metrics").text
        await _until(lambda: 'publication_lag_seconds{target="cdn"} 0\n' in hub.admin("GET", "/metrics").text)
        table, answer = _status(hub), json.loads(_status(hub, "--output", "json"))
        assert "mirror" in table and "has not answered within 1 s" in table and "failing" in table
        assert {one["target"] for one in answer["targets"]} == {"directory", "cdn", "mirror"}
        assert all(one["state"] == "published" for one in answer["documents"] if one["target"] == "cdn")

        async with cluster.stream() as stream:  # who gates by polled readers is told that they have to wait
            said = await stream.until("stored")
            assert (said.publishes, said.published_at_ms, said.level.sequence) == (True, 0, 1)

        with store:  # it comes up: all of it arrives
            await _until(lambda: not _target(hub, "mirror")["waiting"], 40)
            assert store.held["bundles/west"][0] == plain
            assert set(BundleMap.parse(store.held["bundle-map"][0]).bundles) == {TrustDomain("west")}
            await _until(lambda: hub.admin("GET", "/domains/west").json()["published_at"] is not None)

            # A change goes on to S3 at once; how fast is measured elsewhere, on a quiet machine.
            began, began_at = time.monotonic(), time.time() * 1000
            async with cluster.stream() as stream:
                await stream.send(envelope=await cluster.domain.envelope())
                await stream.until("stored")
                await _until(lambda: _sequence(_object(s3, bucket, "prod/bundles/west")) == 2, pause=0.01)
                assert time.monotonic() - began < 5
                while (said := await stream.until("stored")).level.sequence < 2 or not said.published_at_ms:
                    assert said.publishes
                places = [(tmp_path / "public" / "bundles" / "west").read_bytes(), store.held["bundles/west"][0]]
                assert [_sequence(held) for held in (*places, _object(s3, bucket, "prod/bundles/west"))] == [2, 2, 2]
                assert began_at <= said.published_at_ms <= time.time() * 1000
            await _until(lambda: not any(one["waiting"] for one in _targets(hub)))

            hub.kill()  # and nothing goes backwards, nor is anything written again
            writes = len([one for one in store.requests if one[0] == "PUT"])
            hub.start()
            await _until(lambda: not any(one["waiting"] for one in _targets(hub)), 30)
            assert _sequence(_object(s3, bucket, "prod/bundles/west")) == 2
            assert len([one for one in store.requests if one[0] == "PUT"]) == writes
            assert "mirror-token" not in hub.log.read_text() and PUBLISHER.secret not in hub.log.read_text()
    finally:
        assert hub.stop() == 0


def test_a_target_that_is_configured_wrongly_keeps_the_hub_from_starting(tmp_path: Path) -> None:
    wrong = '[[publication.targets]]\nname = "cdn"\nkind = "s3"\nbucket = "b"\nurl = "x"\n'
    hub = HubProcess(tmp_path, wrong)
    made = hub.run("init")
    assert made.returncode != 0
    assert "publication.targets[0]" in made.stderr and "url means nothing there" in made.stderr


def _hub(folder: Path, server: SeaweedFs, store: HttpStore) -> tuple[HubProcess, str]:
    for name, secret in (("s3-secret", PUBLISHER.secret), ("web-token", store.token)):
        (folder / name).touch(0o600)
        (folder / name).write_text(secret)
    bucket = server.bucket()
    hub = HubProcess(folder, TARGETS.format(bucket=bucket, s3=server.endpoint, key=PUBLISHER.key, web=store.url))
    made = hub.run("init")
    assert made.returncode == 0, made.stderr
    hub.start()
    return hub, bucket


def _status(hub: HubProcess, *options: str) -> str:
    argv = [sys.executable, "-m", "trustfed.cli", "publication", "status", "--socket", hub.addresses["admin_socket"]]
    return subprocess.run([*argv, *options], capture_output=True, text=True, check=True, timeout=30).stdout


def _targets(hub: HubProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hub.admin("GET", "/publication").json()["targets"]
    return found


def _target(hub: HubProcess, name: str) -> dict[str, Any]:
    return next(one for one in _targets(hub) if one["target"] == name)


def _object(s3: Any, bucket: str, key: str) -> bytes | None:
    try:
        return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None


def _sequence(data: bytes | None) -> int | None:
    return Bundle.parse(TrustDomain("west"), data).sequence if data else None


async def _until(holds: Callable[[], bool], seconds: float = 10, pause: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < end
        await asyncio.sleep(pause)
