"""The protected publication in a real S3: read back by python-tuf's client over plain HTTP, and two publishers that race."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface

from bundle_publisher.targets.s3 import S3Target
from bundle_publisher.targets.s3_access import S3Access, S3Credentials
from tests.fakes import seaweed as weed
from tests.fakes.seaweed import seaweed
from tests.fakes.tuf_repository import BASE, Reader, TufRepository
from trustfed.runtime.secret_file import SecretFile


class _Bucket(FetcherInterface):
    """python-tuf's client reads with the credentials of somebody who may only read."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._s3, self._bucket, self._prefix = seaweed().client("s3", weed.READER), bucket, prefix

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            found = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + url.removeprefix(BASE))
        except self._s3.exceptions.NoSuchKey:
            raise DownloadHTTPError(f"{url} is not there", 404) from None
        return iter([found["Body"].read()])


@pytest.fixture(scope="module")
def bucket() -> str:
    return seaweed().bucket()


@pytest.fixture
def target(tmp_path: Path, bucket: str) -> S3Target:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(weed.PUBLISHER.secret)
    credentials = S3Credentials(weed.PUBLISHER.key, SecretFile(secret), None)
    return S3Target(
        S3Access(
            bucket=bucket,
            prefix=f"{tmp_path.name}/",
            endpoint=seaweed().endpoint,
            addressing="path",
            credentials=credentials,
        )
    )


def reader(made: TufRepository, folder: Path, bucket: str, prefix: str) -> Reader:
    found = made.reader(folder)
    found.fetcher = _Bucket(bucket, prefix)
    return found


async def test_a_change_is_published_and_verified_in_a_moment(tmp_path: Path, target: S3Target, bucket: str) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    await made.bring(target)
    client = reader(made, tmp_path / "reader", bucket, f"{tmp_path.name}/")
    assert await asyncio.to_thread(client.envelope, "td-a") == a.envelope
    await made.publish(a)
    began = time.monotonic()
    await made.bring(target)
    assert await asyncio.to_thread(client.envelope, "td-a") == a.envelope
    assert time.monotonic() - began < 10  # measured: 0.1 to 0.3 s; the bound only tells something that waits
    head = seaweed().client("s3", weed.READER).head_object(Bucket=bucket, Key=f"{tmp_path.name}/tuf/timestamp.json")
    assert head["CacheControl"] == "no-cache"
    role = (
        seaweed().client("s3", weed.READER).head_object(Bucket=bucket, Key=f"{tmp_path.name}/tuf/{a.version}.td-a.json")
    )
    assert (role["CacheControl"], role["ContentType"]) == ("public, max-age=31536000, immutable", "application/json")


async def test_two_publishers_race_on_a_real_store(tmp_path: Path, target: S3Target, bucket: str) -> None:
    made = await TufRepository.make()
    a = await made.domain("td-a")
    one, two = made.another(), made.another()
    client = reader(made, tmp_path / "reader", bucket, f"{tmp_path.name}/")
    for _ in range(4):
        made.clock.move(1)
        await made.publish(a)
        await asyncio.gather(one.bring(target), two.bring(target))
        assert await asyncio.to_thread(client.envelope, "td-a") == a.envelope
