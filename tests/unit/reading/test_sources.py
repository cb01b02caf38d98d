"""The sources against real servers: a web server that misbehaves in every way, a folder, and S3 with STS (SeaweedFS)."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.http_answers import Handler, answering
from tests.fakes.seaweed import NOBODY, READER, READER_ROLE, REGION, WEB_ROLE, Credentials, SeaweedFs, seaweed
from tests.fakes.tuf_store import TufStore
from trustfed.errors import Denied, Invalid, NotFound, Unavailable
from trustfed.reading.credentials import find
from trustfed.reading.location import AwsCredentials, AwsSettings, Location
from trustfed.reading.order import Order, Wanted
from trustfed.reading.reader import read
from trustfed.reading.sources.open import open_source
from trustfed.reading.sources.port import Absent, Refused
from trustfed.runtime.bounded_http import Connection, Limits, Origin, tls_context

QUICK = Limits(seconds=0.6, pause=0.3, pace=100_000)
PATIENT = Limits(seconds=30, pause=15, pace=100_000)


def say(handler: Handler, status: int = 200, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content_Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def fetched(url: str, name: str = "tuf/x.json", limit: int = 1000, limits: Limits = PATIENT) -> bytes:
    with closing(open_source(Location(url), None, limits)) as source:
        return b"".join(source.parts(name, limit))


# A web server.


def test_one_connection_serves_many_files() -> None:
    connections = set()

    def answer(handler: Handler) -> None:
        connections.add(handler.client_address)
        say(handler, body=handler.path.encode())

    with answering(answer) as url, closing(open_source(Location(f"{url}/trust/"), None, PATIENT)) as source:
        assert [b"".join(source.parts(f"tuf/{n}", 100)) for n in range(3)] == [b"/trust/tuf/%d" % n for n in range(3)]
    assert len(connections) == 1


def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    def answer(handler: Handler) -> None:
        say(handler, body=b"x")
        handler.close_connection = True  # without saying so

    with answering(answer) as url, closing(open_source(Location(url), None, PATIENT)) as source:
        assert [b"".join(source.parts("a", 10)) for _ in range(3)] == [b"x"] * 3


@pytest.mark.parametrize("ending", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_after_a_connection_that_the_server_ended_the_next_one_is_tls_too(ending: bytes, tmp_path: Path) -> None:
    """http.client would open it by itself: in clear text, with the credentials, believing whoever answers, without end."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("store"))
    begun = []

    def serve(listener: socket.socket) -> None:
        for answer in (ending, ending):
            plain, _ = listener.accept()
            begun.append(plain.recv(1, socket.MSG_PEEK))
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(9999)
                tls.sendall(answer + b"Content-Length: 2\r\n\r\nok")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        origin = Origin("https", "localhost", listener.getsockname()[1])
        with Connection(origin, tls_context(str(authority.file)), Limits(5, 2)) as connection:
            for _ in range(2):
                with connection.request("GET", "/x", {"Authorization": "SECRET"}) as response:
                    assert response.body(10) == b"ok"
                    inner = connection._connection
                    assert inner is not None and (inner.sock is None or inner.sock.gettimeout() == 2)
    assert begun == [b"\x16", b"\x16"], "each began with a TLS hello"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda h: say(h, 404), Absent, "does not exist"),
        (lambda h: say(h, 403), Refused, "refused to us"),
        (lambda h: say(h, 500, b"secret words"), Unavailable, "status 500"),
        (lambda h: say(h, 302, Location="http://127.0.0.1:1/"), Denied, "redirect"),
        (lambda h: say(h, 206, b"x"), Unavailable, "status 206"),
        (lambda h: say(h, body=b"x", Content_Encoding="gzip"), Invalid, "compressed"),
        (lambda h: say(h, body=b"x" * 1001), Invalid, "endless data"),
        (lambda h: say(h, body=b"x", Content_Length="5"), Unavailable, "ended before its end"),
        (lambda h: h.wfile.write(b"no http at all\r\n\r\n"), Unavailable, "not HTTP"),
    ],
    ids=["absent", "refused", "failing", "redirect", "partial", "compressed", "too large", "cut", "no HTTP"],
)
def test_a_web_server_that_misbehaves(answer: Callable[[Handler], None], kind: type[Exception], words: str) -> None:
    def cutting(handler: Handler) -> None:
        answer(handler)
        handler.close_connection = True

    with answering(cutting) as url, pytest.raises(kind, match=words) as caught:
        fetched(url)
    assert "secret words" not in str(caught.value)


def drip(handler: Handler, *, head: bool, seconds: float = 5.0) -> None:
    """A byte now and then, each before any single wait is over."""
    if not head:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
    else:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            handler.wfile.write(b"x")
            time.sleep(0.02)
    except OSError:
        pass


@pytest.mark.parametrize("head", [True, False], ids=["head", "body"])
def test_slow_retrieval(head: bool) -> None:
    begun = time.monotonic()
    with answering(lambda handler: drip(handler, head=head)) as url, pytest.raises(Unavailable, match="slow retrieval"):
        fetched(url, limits=QUICK)
    assert time.monotonic() - begun < 4.5


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unavailable, match="slow retrieval"):
        fetched(f"http://127.0.0.1:{listener.getsockname()[1]}", limits=QUICK)


def test_nobody_is_there() -> None:
    with pytest.raises(Unavailable, match="cannot be reached: connection refused"):
        fetched("http://127.0.0.1:1")


def test_endless_data_without_a_length() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(b"x" * 65_536)
        except OSError:
            pass

    with answering(answer) as url, pytest.raises(Invalid, match="endless data"):
        fetched(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://store.example/x",
        "https://user:secret@store.example/",
        "https://store.example/?a=b",
        "https://store.example/#a",
        "https:///x",
        "https://store.example:0/",
        "https://store.example:99999/",
        "https://sto re.example/",
        "https://store.example/a\nb",
        "ftp://store.example/",
    ],
)
def test_what_is_no_address_of_a_store(url: str) -> None:
    with pytest.raises(Invalid):
        Location(url)


def test_plain_http_is_for_this_machine_only() -> None:
    for url in ("http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost:1/x"):
        assert Origin.parse(url)[0].local
    for host in ("10.0.0.1", "localhost.example", "0.0.0.0"):
        with pytest.raises(Invalid, match="not protected by TLS"):
            Origin.parse(f"http://{host}/")


# A folder.


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tuf").mkdir()
    (tmp_path / "tuf" / "a").write_bytes(b"abc")
    (tmp_path / "tuf" / "link").symlink_to(tmp_path / "tuf" / "a")
    os.mkfifo(tmp_path / "tuf" / "pipe")
    with closing(open_source(Location(str(tmp_path)), None, PATIENT)) as source:
        assert b"".join(source.parts("tuf/a", 3)) == b"abc"
        for name, kind in (("tuf/b", Absent), ("tuf/link", Invalid), ("tuf/pipe", Invalid), ("tuf", Invalid)):
            with pytest.raises(kind):
                b"".join(source.parts(name, 100))
        with pytest.raises(Invalid, match="endless data"):
            b"".join(source.parts("tuf/a", 2))
        for name in ("../x", "a/../b", "/etc/passwd", "a//b", "", "a/b/c", ".x", "a\0"):
            with pytest.raises(Denied, match="outside of any store"):
                b"".join(source.parts(name, 100))
    with pytest.raises(NotFound):
        open_source(Location(str(tmp_path / "nowhere")), None, QUICK)


# S3.

LIMITS = Limits(seconds=10, pause=5)


@pytest.fixture(scope="module")
def bucket() -> str:
    name = seaweed().bucket()
    seaweed().client().put_object(Bucket=name, Key="pre/fix/tuf/a.json", Body=b"hello")
    return name


def s3(bucket: str, *, prefix: str = "pre/fix", endpoint: str = "", **settings: str) -> Location:
    sts = seaweed().endpoint
    return Location(
        f"s3://{bucket}/{prefix}", endpoint or seaweed().endpoint, aws=AwsSettings(sts_endpoint=sts, **settings)
    )


def held(who: Credentials) -> AwsCredentials:
    return AwsCredentials(who.key, who.secret, who.token or "", REGION)


def got(location: Location, who: AwsCredentials, name: str = "tuf/a.json", limits: Limits = LIMITS) -> bytes:
    with closing(open_source(location, who, limits)) as source:
        return b"".join(source.parts(name, 1000))


def test_an_object_is_read(bucket: str) -> None:
    assert got(s3(bucket), held(READER)) == b"hello"
    assert got(s3(bucket, prefix="pre/fix/"), held(READER)) == b"hello"
    with pytest.raises(Invalid, match="endless data"), closing(open_source(s3(bucket), held(READER), LIMITS)) as source:
        b"".join(source.parts("tuf/a.json", 4))


def use(monkeypatch: pytest.MonkeyPatch, who: Credentials) -> None:
    """What the SDK's own chain finds first."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", who.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", who.secret)


def test_a_role_is_assumed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, NOBODY)
    location = s3(bucket, role_arn=READER_ROLE, role_session_name="edge-1")
    found = find(location.aws, "", 5)
    assert found.token and found.secret_key not in repr(found) and found.token not in repr(found)
    assert got(location, found) == b"hello"


def test_a_role_is_assumed_with_a_web_identity(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    token = tmp_path / "token"
    token.write_text(seaweed().web_identity_token())
    location = s3(bucket, role_arn=WEB_ROLE, web_identity_token_file=str(token))
    assert got(location, find(location.aws, "", 5)) == b"hello"
    token.write_text("none")
    with pytest.raises(Denied, match="STS refuses role"):
        find(location.aws, "", 5)


def test_a_role_that_is_not_there_and_an_sts_that_is_away(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, NOBODY)
    settings = s3(bucket, role_arn="arn:aws:iam::role/Nobody").aws
    with pytest.raises((Denied, Unavailable), match="STS"):
        find(settings, "", 5)
    with pytest.raises(Unavailable, match="STS cannot be reached"):
        find(replace(settings, sts_endpoint="http://127.0.0.1:1"), "", 5)


def test_no_credentials_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Denied, match="no AWS credentials were found"):
        find(AwsSettings(), "", 5)


@pytest.mark.parametrize(
    ("who", "words"),
    [
        (Credentials("NOSUCHKEY", "x"), "access key is not known there"),
        (Credentials(READER.key, "wrong"), "secret key is not that of the access key"),
        (Credentials(READER.key, READER.secret, "wrong"), "refuses|denied"),
    ],
    ids=["key", "secret", "token"],
)
def test_wrong_credentials(bucket: str, who: Credentials, words: str) -> None:
    with pytest.raises(Denied, match=words) as caught:
        got(s3(bucket), held(who))
    assert who.secret not in str(caught.value) or who.secret in ("x", "wrong")


def test_a_denied_prefix_a_missing_file_and_a_missing_bucket(bucket: str) -> None:
    with pytest.raises(Refused, match=r"is denied to us .*") as denied:
        got(s3(bucket), held(NOBODY))
    assert "s3:GetObject" in denied.value.hint
    with pytest.raises(Absent, match="does not exist"):
        got(s3(bucket), held(READER), "tuf/b.json")
    with pytest.raises(NotFound, match="there is no bucket no-such-bucket at http"):
        got(s3("no-such-bucket"), held(READER))


def test_a_whole_visit_gives_one_error_for_each_and_loses_nothing(tmp_path: Path) -> None:
    store, name = TufStore(datetime.now(UTC)), seaweed().bucket()
    store.add("west.test")
    store.publish()

    def visit(who: Credentials, bucket: str = name, prefix: str = "pre/fix") -> bytes:
        location = s3(bucket, prefix=prefix)
        order = Order(location, store.root, tmp_path / "state", datetime.now(UTC), (Wanted("west.test"),))
        return read(order, open_source(location, held(who), LIMITS)).one("west.test").envelope

    with pytest.raises(NotFound, match=r"tuf/timestamp\.json at .* does not exist"):
        visit(READER)
    for file, data in store.files.items():
        seaweed().client().put_object(Bucket=name, Key=f"pre/fix/{file}", Body=data)
    good = visit(READER)
    for who, place, kind, words in (
        (NOBODY, (name, "pre/fix"), Denied, r"tuf/timestamp\.json at .* is denied to us"),
        (Credentials("NOSUCHKEY", "x"), (name, "pre/fix"), Denied, "access key is not known there"),
        (READER, ("no-such-bucket", "pre/fix"), NotFound, "there is no bucket"),
        (READER, (name, "other"), NotFound, "does not exist"),
    ):
        with pytest.raises(kind, match=words):
            visit(who, *place)
        assert visit(READER) == good
    envelope = store.roles["west.test"].files[0]
    seaweed().client().put_object(Bucket=name, Key=f"pre/fix/{envelope}", Body=good[:-1] + b" ")
    assert visit(READER) == good, "what was verified is kept"
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(Denied, match="tampering or mix-and-match refused: s3://"):
        visit(READER)


def test_a_slow_and_a_failing_server(bucket: str, tmp_path: Path) -> None:
    with SeaweedFs(tmp_path) as own:
        own.client().create_bucket(Bucket=bucket)
        own.client().put_object(Bucket=bucket, Key="pre/fix/tuf/a.json", Body=b"hello")
        location = s3(bucket, endpoint=own.endpoint)
        assert got(location, held(READER)) == b"hello"
        own.pause()
        with pytest.raises(Unavailable, match="slow retrieval refused"):
            for _ in range(100):  # all of its threads stand still only a moment later
                got(location, held(READER), limits=QUICK)
        own.go_on()
        own.kill()
        with pytest.raises(Unavailable, match="cannot be reached"):
            got(location, held(READER))


def test_an_s3_that_is_overloaded() -> None:
    def answer(handler: Handler) -> None:
        say(handler, 503, b"<Error><Code>SlowDown</Code><Message>secret words</Message></Error>")

    with answering(answer) as url, pytest.raises(Unavailable, match="S3 answered 503 SlowDown") as caught:
        got(Location("s3://bucket/x", url), held(READER))
    assert "secret words" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "origin"),
    [
        (Location("s3://trust/p"), ("https://trust.s3.us-east-1.amazonaws.com", "/")),
        (Location("s3://tr.ust/p"), ("https://s3.us-east-1.amazonaws.com", "/tr.ust/")),
        (Location("s3://trust/p", addressing="path"), ("https://s3.us-east-1.amazonaws.com", "/trust/")),
        (Location("s3://trust", "https://s3.example:9000"), ("https://s3.example:9000", "/trust/")),
        (Location("s3://trust", "https://s3.example", "virtual"), ("https://trust.s3.example", "/")),
    ],
    ids=["AWS", "dot", "path", "endpoint", "virtual"],
)
def test_where_a_bucket_stands(location: Location, origin: tuple[str, str]) -> None:
    from trustfed.reading.sources.s3 import _place

    found, before = _place(location, REGION)
    assert (str(found), before) == origin


@pytest.mark.parametrize(
    "url", ["s3://", "s3://A/x", "s3://a/../b", "s3://bu_cket", "s3://bucket/a b", "", "s3://b/x?y"]
)
def test_what_is_no_bucket(url: str) -> None:
    with pytest.raises(Invalid):
        Location(url)
