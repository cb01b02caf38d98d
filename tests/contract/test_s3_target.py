"""The S3 target against a real S3 and STS with real policies, also through a proxy that fails: one clear error each."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundle_publisher.documents import bundle_document
from bundle_publisher.publish import Publisher
from bundle_publisher.targets.port import MAX_DOCUMENT, Document
from bundle_publisher.targets.s3 import S3Target
from bundle_publisher.targets.s3_access import S3Access, S3Credentials
from tests.fakes import seaweed as weed
from tests.fakes.certificates import Authority
from tests.fakes.clocks import ManualClock
from tests.fakes.faulty_proxy import FaultyProxy
from tests.fakes.seaweed import Credentials, SeaweedFs, seaweed
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.secret_file import SecretFile
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

NAME = "bundles/west"
Reach = Callable[..., S3Access]


@pytest.fixture(scope="module")
def server() -> SeaweedFs:
    return seaweed()


@pytest.fixture(scope="module")
def bucket(server: SeaweedFs) -> str:
    return server.bucket()


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., S3Credentials]:
    def made(who: Credentials = weed.PUBLISHER, **more: Any) -> S3Credentials:
        def file(name: str, text: str) -> SecretFile:
            path = tmp_path / f"{name}-{who.key}"
            path.touch(0o600)
            path.write_text(text)
            return SecretFile(path)

        token = file("token", who.token) if who.token else None
        return S3Credentials(who.key, file("secret", who.secret), token, **more)

    return made


@pytest.fixture
def reach(server: SeaweedFs, bucket: str, keys: Callable[..., S3Credentials], request: pytest.FixtureRequest) -> Reach:
    """Access to a prefix of this test's own."""
    prefix = f"{abs(hash(request.node.nodeid))}/"

    def made(**more: Any) -> S3Access:
        given = {"bucket": bucket, "prefix": prefix, "endpoint": server.endpoint, "addressing": "path", **more}
        return S3Access(**{"credentials": more.get("credentials") or keys(), **given})

    return made


# What is written


async def test_objects_have_what_a_cdn_needs(server: SeaweedFs, reach: Reach) -> None:
    access = reach()
    bundle = Bundle(TrustDomain("west"), sequence=1, refresh_hint=60)
    await S3Target(access).write(bundle_document(bundle, bundle.marshal()), None)
    found = server.client().head_object(Bucket=access.bucket, Key=access.prefix + NAME)
    assert (found["ContentType"], found["CacheControl"]) == ("application/json", "max-age=60")


async def test_objects_are_encrypted_where_they_lie(server: SeaweedFs, reach: Reach) -> None:
    access = reach(encryption="AES256")
    target = S3Target(access)
    tag = await target.write(Document(NAME, b"one"), None)
    await target.write(Document(NAME, b"two"), tag)
    found = server.client().head_object(Bucket=access.bucket, Key=access.prefix + NAME)
    assert found["ServerSideEncryption"] == "AES256"
    held = await target.read(NAME)
    assert held is not None and held.data == b"two"


async def test_a_key_of_kms_is_asked_for_by_its_id(reach: Reach) -> None:
    async with FaultyProxy("127.0.0.1", seaweed().port) as proxy:
        access = reach(encryption="aws:kms", kms_key_id="arn:aws:kms:eu:1:key/k", endpoint=proxy.url)
        target = S3Target(access)
        with pytest.raises(TrustfedError):  # this server has no KMS
            await target.write(Document(NAME, b"one"), None)
        head = proxy.sent.lower()
        assert b"x-amz-server-side-encryption: aws:kms" in head
        assert b"x-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:eu:1:key/k" in head


async def test_a_versioned_bucket_keeps_every_version(server: SeaweedFs, reach: Reach) -> None:
    access = reach(bucket=server.bucket(versioned=True))
    target = S3Target(access)
    tag = await target.write(Document(NAME, b"one"), None)
    tag = await target.write(Document(NAME, b"two"), tag)
    await target.remove(NAME, tag)
    assert await target.read(NAME) is None
    found = server.client().list_object_versions(Bucket=access.bucket)
    assert (len(found["Versions"]), len(found["DeleteMarkers"])) == (2, 1)


async def test_a_bucket_is_reached_by_its_host_name_too(
    server: SeaweedFs, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def loopback(host: Any, *more: Any, **named: Any) -> Any:  # a DNS with *.s3.test
        return resolve("127.0.0.1" if str(host).endswith("s3.test") else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", loopback)
    async with FaultyProxy("127.0.0.1", server.port) as proxy:
        access = reach(endpoint=f"http://s3.test:{proxy.port}", addressing="virtual")
        await S3Target(access).write(Document(NAME, b"one"), None)
        assert f"Host: {access.bucket}.s3.test:{proxy.port}\r\n".encode() in proxy.sent
    held = await S3Target(reach()).read(NAME)
    assert held is not None and held.data == b"one"


async def test_an_object_that_is_too_large_is_not_read(server: SeaweedFs, reach: Reach) -> None:
    access = reach()
    server.client().put_object(Bucket=access.bucket, Key=access.prefix + NAME, Body=bytes(MAX_DOCUMENT + 1))
    with pytest.raises(Invalid, match="holds more than"):
        await S3Target(access).read(NAME)


# Who may


async def test_credentials_come_from_the_sdks_chain(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", weed.PUBLISHER.key),
        ("AWS_SECRET_ACCESS_KEY", weed.PUBLISHER.secret),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    await S3Target(reach(credentials=S3Credentials())).write(Document(NAME, b"one"), None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
    with pytest.raises(Denied, match="there are no credentials"):
        await S3Target(reach(credentials=S3Credentials())).read(NAME)


async def test_a_role_is_assumed_and_may_what_it_may(
    server: SeaweedFs, reach: Reach, keys: Callable[..., S3Credentials]
) -> None:
    def role(arn: str, **more: Any) -> S3Credentials:
        return keys(weed.NOBODY, role_arn=arn, sts_endpoint=server.endpoint, external_id="publisher-7", **more)

    with pytest.raises(Denied, match="AccessDenied"):  # without the role
        await S3Target(reach(credentials=keys(weed.NOBODY))).read(NAME)
    publisher = S3Target(reach(credentials=role(weed.PUBLISHER_ROLE)))
    await publisher.write(Document(NAME, b"one"), None)
    reader = S3Target(reach(credentials=role(weed.READER_ROLE)))
    held = await reader.read(NAME)
    assert held is not None and held.data == b"one"
    with pytest.raises(Denied, match=r"cannot write s3://.*AccessDenied"):
        await reader.write(Document(NAME, b"two"), held.tag)
    with pytest.raises(Denied, match="AssumeRole of arn:aws:iam::role/Nobody"):
        await S3Target(reach(credentials=role("arn:aws:iam::role/Nobody"))).read(NAME)


async def test_what_a_role_gave_is_fetched_anew_before_it_ends(
    server: SeaweedFs, reach: Reach, keys: Callable[..., S3Credentials]
) -> None:
    """The server's STS hands out an hour; the SDK fetches anew when less than ten minutes are left."""
    async with FaultyProxy("127.0.0.1", server.port) as sts:
        access = reach(credentials=keys(weed.NOBODY, role_arn=weed.PUBLISHER_ROLE, sts_endpoint=sts.url))
        target = S3Target(access)
        tag = await target.write(Document(NAME, b"one"), None)
        asked = sts.connections
        tag = await target.write(Document(NAME, b"two"), tag)
        assert sts.connections == asked  # once for many calls
        held = target._bucket._client._get_credentials()  # type: ignore[union-attr]
        held._expiry_time -= held._expiry_time - held._time_fetcher()  # the hour is over
        await target.write(Document(NAME, b"three"), tag)
        assert sts.connections > asked


async def test_a_web_identity_assumes_a_role_and_its_token_is_read_anew(
    server: SeaweedFs, reach: Reach, tmp_path: Path
) -> None:
    token = tmp_path / "projected"
    token.write_text(server.web_identity_token(life=-60))
    ours = S3Credentials(role_arn=weed.WEB_ROLE, web_identity_token=token, sts_endpoint=server.endpoint)
    target = S3Target(reach(credentials=ours))
    with pytest.raises(Denied, match=r"AssumeRoleWithWebIdentity.*ExpiredToken") as refused:
        await target.read(NAME)
    assert "renewed" in refused.value.hint
    token.write_text(server.web_identity_token())
    await target.write(Document(NAME, b"one"), None)


async def test_only_the_prefix_that_a_policy_names_is_written(
    server: SeaweedFs, reach: Reach, keys: Callable[..., S3Credentials]
) -> None:
    ours = keys(weed.NOBODY, role_arn=weed.PREFIX_ROLE, sts_endpoint=server.endpoint)
    await S3Target(reach(credentials=ours, prefix="allowed/here/")).write(Document(NAME, b"one"), None)
    outside = S3Target(reach(credentials=ours, prefix="elsewhere/"))
    with pytest.raises(Denied, match=r"cannot write s3://.*/elsewhere/bundles/west: AccessDenied") as refused:
        await outside.write(Document(NAME, b"one"), None)
    assert "s3:PutObject" in refused.value.hint and "/elsewhere/*" in refused.value.hint


async def test_wrong_credentials_say_which(reach: Reach, keys: Callable[..., S3Credentials], tmp_path: Path) -> None:
    wrong = replace(weed.PUBLISHER, secret="a-secret-that-is-in-no-error")
    target = S3Target(reach(credentials=keys(wrong)))
    with pytest.raises(Denied, match="SignatureDoesNotMatch") as refused:
        await target.read(NAME)
    assert "secret_access_key_file" in refused.value.hint and wrong.secret not in str(refused.value)
    (tmp_path / f"secret-{wrong.key}").write_text(weed.PUBLISHER.secret)  # put right: the next attempt reads it
    assert await target.read(NAME) is None
    with pytest.raises(Denied, match="InvalidAccessKeyId") as refused:
        await S3Target(reach(credentials=keys(Credentials("UNKNOWN", "x")))).read(NAME)
    assert "access_key_id" in refused.value.hint


async def test_a_bucket_that_is_not_there_is_named(reach: Reach) -> None:
    target = S3Target(reach(bucket="no-such-bucket"))
    with pytest.raises(Invalid, match="there is no bucket no-such-bucket"):
        await target.read(NAME)
    with pytest.raises(Invalid, match="there is no bucket no-such-bucket"):
        await target.write(Document(NAME, b"one"), None)


async def test_tls_is_checked_against_the_given_authorities(reach: Reach, tmp_path: Path) -> None:
    authority, others = Authority(tmp_path), Authority(tmp_path, "others")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("store"))
    async with FaultyProxy("127.0.0.1", seaweed().port, context) as proxy:
        await S3Target(reach(endpoint=proxy.url, ca=authority.file)).write(Document(NAME, b"one"), None)
        for ca in (None, others.file):
            with pytest.raises(Unavailable, match="certificate is not accepted") as refused:
                await S3Target(reach(endpoint=proxy.url, ca=ca)).read(NAME)
            assert "ca_file" in refused.value.hint


# A server that fails

ANSWERS: list[tuple[int, str, type[TrustfedError], str]] = [
    (403, "RequestTimeTooSkewed", Denied, "clock"),
    (403, "ExpiredToken", Denied, "token"),
    (400, "AuthorizationHeaderMalformed", Invalid, "region"),
    (301, "PermanentRedirect", Invalid, "region"),
    (503, "SlowDown", Unavailable, "cannot now"),
    (500, "InternalError", Unavailable, "cannot now"),
    (501, "NotImplemented", Invalid, "conditional writes"),
    (409, "ConditionalRequestConflict", Conflict, ""),
    (412, "PreconditionFailed", Conflict, ""),
    (404, "NoSuchKey", Conflict, ""),
    (400, "WhoKnows<script>", Invalid, "check"),
]


async def test_each_refusal_is_one_error_with_a_hint_and_repeats_no_text(reach: Reach) -> None:
    async with FaultyProxy("127.0.0.1", seaweed().port) as proxy:
        target = S3Target(reach(endpoint=proxy.url, region="us-east-1"))
        tag = await target.write(Document(NAME, b"one"), None)
        for status, code, kind, hint in ANSWERS:
            proxy.refuse_with(status, code)
            await proxy.hang_up()
            with pytest.raises(kind) as refused:
                await target.write(Document(NAME, b"two"), tag)
            assert hint in refused.value.hint, code
            assert "SECRET-TEXT" not in str(refused.value) and "<" not in str(refused.value)
        proxy.answer = b""
        await target.write(Document(NAME, b"two"), tag)


@pytest.mark.parametrize("mode", ["refuse", "hang", "lose", "cut", "drip"])
async def test_a_server_that_fails_is_unavailable_within_the_time_and_nothing_is_lost(reach: Reach, mode: str) -> None:
    async with FaultyProxy("127.0.0.1", seaweed().port) as proxy:
        target = S3Target(reach(endpoint=proxy.url, seconds=0.4))
        tag = await S3Target(reach()).write(Document(NAME, b"one" * 100), None)
        proxy.mode = mode
        began = time.monotonic()
        for failing in (lambda: target.read(NAME), lambda: target.write(Document(NAME, b"two" * 100), tag)):
            with pytest.raises(Unavailable) as refused:
                await failing()
            assert refused.value.hint and "s3://" in str(refused.value)
        assert time.monotonic() - began < 20
        proxy.mode = "pass"
        await proxy.hang_up()
        held = await S3Target(reach(endpoint=proxy.url)).read(NAME)
        assert held is not None and held.data in (b"one" * 100, b"two" * 100)  # whole: the old or the new


async def test_a_store_that_breaks_off_within_its_100_continue_keeps_no_thread(reach: Reach) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n")
        writer.close()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
        url = "http://{}:{}".format(*server.sockets[0].getsockname())
        with pytest.raises(Unavailable):
            await S3Target(reach(bucket="breaks-off", endpoint=url, seconds=0.4)).write(Document(NAME, b"one"), None)
    left = [thread for thread in threading.enumerate() if "breaks-off" in thread.name]
    await asyncio.gather(*(asyncio.to_thread(thread.join, 5) for thread in left))
    assert not any(thread.is_alive() for thread in left)


async def test_through_every_failure_the_newest_is_there_in_the_end(reach: Reach) -> None:
    """Two publishers, one of them behind a line that fails in every way: no reader sees a sequence fall."""
    async with FaultyProxy("127.0.0.1", seaweed().port) as proxy:
        clock = ManualClock()
        targets = {"far": S3Target(reach(endpoint=proxy.url, seconds=0.4))}, {"near": S3Target(reach())}
        publishers = [Publisher(one, clock, lambda: 1.0) for one in targets]
        running = [asyncio.create_task(publisher.run()) for publisher in publishers]
        reader, highest, end = S3Target(reach()), 0, time.monotonic() + 40
        for sequence, fault in enumerate(["pass", "refuse", "lose", "503", "cut", "pass"], start=1):
            proxy.mode = "pass" if fault == "503" else fault
            proxy.answer = b""
            if fault == "503":
                proxy.refuse_with(503, "SlowDown")
            await proxy.hang_up()
            bundle = Bundle(TrustDomain("west"), sequence=sequence, refresh_hint=60)
            # The near one knows less: what it still wants to write is a sequence older.
            older = Bundle(TrustDomain("west"), sequence=max(sequence - 1, 1), refresh_hint=60)
            publishers[0].want(NAME, lambda bundle=bundle: bundle_document(bundle, bundle.marshal()))  # type: ignore[misc]
            publishers[1].want(NAME, lambda older=older: bundle_document(older, older.marshal()))  # type: ignore[misc]
            while publishers[0].status()[0].wanted and time.monotonic() < end:
                await asyncio.sleep(0.02)
                await clock.advance(30, turns=3)
                held = await reader.read(NAME)
                seen = (Bundle.parse(TrustDomain("west"), held.data).sequence or 0) if held else 0
                assert seen >= highest
                highest = seen
                if publishers[0].status()[0].attempts:
                    proxy.mode, proxy.answer = "pass", b""
            assert not publishers[0].status()[0].wanted, (fault, publishers[0].status())
        held = await reader.read(NAME)
        assert held is not None and Bundle.parse(TrustDomain("west"), held.data).sequence == 6
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_store_that_hangs_delays_no_other_target_and_no_end(reach: Reach) -> None:
    async with FaultyProxy("127.0.0.1", seaweed().port) as proxy:
        proxy.mode = "hang"
        targets = {"hangs": S3Target(reach(endpoint=proxy.url)), "works": S3Target(reach())}
        publisher = Publisher(targets, SystemClock(), lambda: 1.0)
        running = asyncio.create_task(publisher.run())
        began = time.monotonic()
        for n in range(20):
            name = TrustDomain(f"d{n}")
            bundle = Bundle(name, sequence=1, refresh_hint=60)
            publisher.want(
                f"bundles/d{n}",
                lambda bundle=bundle: bundle_document(bundle, bundle.marshal()),  # type: ignore[misc]
            )
        while publisher.targets()[1].waiting:
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < 5
        assert publisher.targets()[0].waiting == 20
        began = time.monotonic()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert time.monotonic() - began < 5


def test_without_an_s3_target_the_sdk_is_not_loaded(tmp_path: Path) -> None:
    program = (
        "import sys, trustfed.hub.compose\n"
        "from bundle_publisher.targets.open import TargetConfig, TargetTable, open_targets\n"
        "open_targets(TargetConfig(targets=(TargetTable('s3', 's3', bucket='bbb'),)))\n"  # opened, not used yet
        "print([name for name in ('boto3', 'botocore', 'tuf') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_server_these_tests_are_skipped_but_not_where_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no `weed` binary"):
        seaweed.__wrapped__()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no `weed` binary"):
        seaweed.__wrapped__()
