"""The HTTP target against a real server that misbehaves: one clear error each, and nothing lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle_publisher.documents import bundle_document
from bundle_publisher.publish import Publisher
from bundle_publisher.targets.address import Address
from bundle_publisher.targets.http import HttpAccess, HttpTarget
from bundle_publisher.targets.port import Document
from tests.fakes.certificates import Authority
from tests.fakes.clocks import ManualClock
from tests.fakes.http_store import HttpStore, Tls
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.runtime.secret_file import SecretFile
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

NAME = "bundles/west"
SECRET = "token-that-is-in-no-error"


@pytest.fixture
def store() -> Iterator[HttpStore]:
    with HttpStore() as running:
        yield running


def _target(store: HttpStore, seconds: float = 5.0, **more: object) -> HttpTarget:
    return HttpTarget(HttpAccess(Address.parse(store.url, "url", loopback_http=True), seconds=seconds, **more))  # type: ignore[arg-type]


def _secret(path: Path, text: str) -> SecretFile:
    path.touch(0o600)
    path.write_text(text)
    return SecretFile(path)


FAULTS: list[tuple[str, type[TrustfedError], str]] = [
    ("401", Denied, "does not know us"),
    ("403", Denied, "may not do that"),
    ("302", Invalid, "redirects are not followed"),
    ("405", Invalid, "takes no PUT"),
    ("413", Invalid, "too large"),
    ("418", Invalid, "with 418"),
    ("429", Unavailable, "cannot now"),
    ("500", Unavailable, "cannot now"),
    ("503", Unavailable, "cannot now"),
    ("garbage", Unavailable, "no whole HTTP"),
    ("slow", Unavailable, "within 0.3 s"),
    ("lost", Unavailable, "cannot be used"),
]


@pytest.mark.parametrize(("fault", "kind", "words"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
async def test_a_failing_write_says_what_failed(
    store: HttpStore, fault: str, kind: type[TrustfedError], words: str
) -> None:
    target = _target(store)
    tag = await target.write(Document(NAME, b"one"), None)
    store.fault(fault)
    with pytest.raises(kind, match=words) as refused:
        await (_target(store, seconds=0.3) if fault == "slow" else target).write(Document(NAME, b"two"), tag)
    assert refused.value.hint
    held = await target.read(NAME)  # the old, or the new when only the answer was lost
    assert held is not None and held.data in (b"one", b"two")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("cut", Unavailable, "no whole HTTP"),
        ("weak-etag", Invalid, "weak ETag"),
        ("no-etag", Invalid, "no usable ETag"),
        ("drip", Unavailable, "within 0.3 s"),
        ("endless", Invalid, "more than"),
        ("503", Unavailable, "cannot now"),
        ("403", Denied, "may not"),
    ],
)
async def test_a_failing_read_says_what_failed(
    store: HttpStore, fault: str, kind: type[TrustfedError], words: str
) -> None:
    store.put(NAME, b"one" * 100)
    store.fault(fault)
    with pytest.raises(kind, match=words):
        await _target(store, seconds=5 if fault == "endless" else 0.3).read(NAME)


async def test_a_server_that_is_down_or_gone_is_named() -> None:
    with HttpStore() as store:
        target = _target(store)
    with pytest.raises(Unavailable, match=f"{store.url} cannot be used"):
        await target.read(NAME)


async def test_a_server_that_ignores_conditions_is_not_used(store: HttpStore) -> None:
    store.ignores_conditions = True
    with pytest.raises(Invalid, match="ignores If-Match"):
        await _target(store).write(Document(NAME, b"one"), None)


async def test_a_server_that_keeps_the_new_tag_to_itself_is_asked_for_it(store: HttpStore) -> None:
    target = _target(store)
    tag = await target.write(Document(NAME, b"one"), None)
    store.fault("no-etag")
    second = await target.write(Document(NAME, b"two"), tag)
    assert second == store.held[NAME][1]


async def test_a_tag_that_is_not_what_it_was_is_a_conflict(store: HttpStore) -> None:
    target = _target(store)
    await target.write(Document(NAME, b"one"), None)
    store.fault("other-etag")
    held = await target.read(NAME)
    assert held is not None
    with pytest.raises(Conflict):
        await target.write(Document(NAME, b"two"), held.tag)
    with pytest.raises(Conflict):
        await target.write(Document(NAME, b"two"), 'a"\r\nX: y')


async def test_a_document_goes_out_as_a_reader_and_a_cdn_want_it(store: HttpStore) -> None:
    bundle = Bundle(TrustDomain("west"), sequence=1, refresh_hint=60)
    await _target(store).write(bundle_document(bundle, bundle.marshal()), None)
    sent = store.headers[NAME]
    assert (sent["content-type"], sent["cache-control"]) == ("application/json", "max-age=60")
    assert "if-none-match" in sent and "authorization" not in sent


async def test_the_bearer_token_is_read_at_each_request_and_shown_nowhere(tmp_path: Path) -> None:
    with HttpStore(token=SECRET) as store:
        token = _secret(tmp_path / "token", "another-" + SECRET)
        target = _target(store, token=token)
        with pytest.raises(Denied) as refused:
            await target.read(NAME)
        assert SECRET not in f"{refused.value} {refused.value.hint}"
        (tmp_path / "token").write_text(SECRET + "\n")  # renewed
        assert await target.read(NAME) is None
        (tmp_path / "token").write_text("two words")
        with pytest.raises(Invalid, match="holds no bearer token") as refused_too:
            await target.read(NAME)
        assert "two words" not in str(refused_too.value)


async def test_both_sides_show_a_certificate_and_a_renewed_one_is_used(tmp_path: Path) -> None:
    authority, others = Authority(tmp_path), Authority(tmp_path, "others")
    server, client = authority.issue("server"), authority.issue("client")
    with HttpStore(Tls(*server, clients=authority.file)) as store:
        address = Address.parse(store.url, "url")

        def target(**more: Path | SecretFile) -> HttpTarget:
            return HttpTarget(HttpAccess(address, seconds=5, **more))  # type: ignore[arg-type]

        good = target(ca=authority.file, certificate=client[0], key=SecretFile(client[1]))
        await good.write(Document(NAME, b"one"), None)
        with pytest.raises(Unavailable, match="cannot be used"):  # no certificate: TLS 1.3 hangs up after its handshake
            await target(ca=authority.file).read(NAME)
        with pytest.raises(Unavailable, match="not accepted"):  # not below the system's authorities
            await target(certificate=client[0], key=SecretFile(client[1])).read(NAME)
        with pytest.raises(Unavailable, match="not accepted"):
            await target(ca=others.file, certificate=client[0], key=SecretFile(client[1])).read(NAME)
        with pytest.raises(Invalid, match="TLS files"):
            target(ca=authority.file, certificate=server[0], key=SecretFile(client[1]))
        stranger = others.issue("client")  # the same files, another certificate
        with pytest.raises(Unavailable):
            await good.read(NAME)
        assert stranger == client
        authority.issue("client")
        held = await good.read(NAME)
        assert held is not None and held.data == b"one"


async def test_through_every_fault_the_newest_is_there_in_the_end(store: HttpStore) -> None:
    """The publisher on a server that fails in every way, one after the other: the last change wins, and none goes back."""
    clock = ManualClock()
    publisher = Publisher({"web": _target(store, seconds=0.2)}, clock, lambda: 1.0)
    running = asyncio.create_task(publisher.run())
    end = time.monotonic() + 20
    for sequence, fault in enumerate(["lost", "cut", "503", "slow", "garbage", "403", "other-etag", ""], start=1):
        if fault:
            store.fault(fault, times=2)
        bundle = Bundle(TrustDomain("west"), sequence=sequence, refresh_hint=60)
        publisher.want(NAME, lambda bundle=bundle: bundle_document(bundle, bundle.marshal()))  # type: ignore[misc]
        while publisher.status()[0].wanted and time.monotonic() < end:
            await asyncio.sleep(0.01)
            await clock.advance(60, turns=3)
        held = Bundle.parse(TrustDomain("west"), store.held[NAME][0])
        assert held.sequence == sequence, (fault, publisher.status())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://store.example/",
        "http://127.0.0.1/",
        "https://user@store.example/",
        "https://store.example/?a=b",
        "https://store.example/#a",
        "https://store.example/../up",
        "https://store.example:0/",
        "https://store.example:99999/",
        "HTTPS://store.example",
        "https://store.example\n",
        "ftp://store.example",
        "https://",
        "",
    ],
)
def test_urls_that_are_not_plain_and_protected_are_refused(url: str) -> None:
    with pytest.raises(Invalid):
        Address.parse(url, "url")


def test_http_is_for_this_machine_only_and_only_when_allowed() -> None:
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert Address.parse(f"http://{host}:80/x/", "url", loopback_http=True).loopback
    with pytest.raises(Invalid, match="not protected by TLS"):
        Address.parse("http://192.0.2.1/", "url", loopback_http=True)
    assert str(Address.parse("https://store.example:443/a/b/", "url")) == "https://store.example/a/b"
    assert Address.parse("https://[2001:db8::1]:8443", "url").authority == "[2001:db8::1]:8443"
