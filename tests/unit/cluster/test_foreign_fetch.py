"""Foreign endpoints that misbehave on the wire, fetched through the guards: nothing they do is believed, followed or echoed."""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.cluster import Domain
from tests.fakes.foreign_peer import ForeignPeer, WebCa, http, redirect, svid, zipped
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.runtime.guarded_fetch import MAX_BODY, MAX_REDIRECTS, Fetched, fetch
from trustfed.runtime.reach import Reach

CA = WebCa()
LOOPBACK = Reach(allow=(ipaddress.ip_network("127.0.0.0/8"),))
SECRET = "internal-secret-4711"


@pytest.fixture
def peer() -> Iterator[ForeignPeer]:
    with ForeignPeer(Domain("td-f"), CA.server()) as made:
        yield made


def get(peer: ForeignPeer, url: str = "", **given: Any) -> Fetched:
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(CA.der))
    return fetch(url or peer.url, context, **{"reach": LOOPBACK, "seconds": 5.0, **given})


def test_a_good_answer_with_its_entity_tag_and_304_for_it(peer: ForeignPeer) -> None:
    body = peer.document()
    peer.says(http(body, ETag='"abc"'))
    found = get(peer)
    assert (found.body, found.etag, found.address) == (body, '"abc"', "127.0.0.1")
    path, headers = peer.asked[-1]
    assert path == "/bundle" and headers["accept-encoding"] == "identity" and "if-none-match" not in headers
    peer.says(http(b"", "304 Not Modified", ETag='"abc"'))
    assert get(peer, etag='"abc"') == Fetched(None, '"abc"', "127.0.0.1")
    assert peer.asked[-1][1]["if-none-match"] == '"abc"'
    with pytest.raises(Unavailable, match="304"):  # nobody asked for that
        get(peer)


def test_a_strange_entity_tag_is_not_kept(peer: ForeignPeer) -> None:
    for tag in ("abc", '"' + "a" * 300 + '"', '"a b"'):
        peer.says(http(b"{}", ETag=tag))
        assert get(peer).etag == ""


def test_chunked_answers_are_read(peer: ForeignPeer) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    peer.says(head, b"2\r\n{}\r\n", b"0\r\n\r\n")
    assert get(peer).body == b"{}"


REFUSED: dict[str, tuple[list[bytes], type[TrustfedError], str]] = {
    "redirect to http": ([redirect("http://127.0.0.1/")], Denied, "redirect"),
    "redirect to another origin": ([redirect("https://other.example/bundle")], Denied, "redirect"),
    "redirect to another port": ([redirect("https://127.0.0.1:9999/bundle")], Denied, "redirect"),
    "redirect to metadata": ([redirect("http://169.254.169.254/latest/meta-data")], Denied, "redirect"),
    "redirect to https metadata": ([redirect("https://169.254.169.254/")], Denied, "redirect"),
    "redirect to nowhere": ([redirect("")], Denied, "redirect"),
    "redirect to user information": ([redirect("https://a@127.0.0.1/")], Denied, "redirect"),
    "redirect for ever": ([redirect("/bundle")], Denied, "more than 3 times"),
    "gzip": ([zipped(b"{}" * 1000)], Invalid, "compressed"),
    "declared oversize": ([http(b"", Content_Length=str(MAX_BODY + 1))], Invalid, "more than"),
    "oversize": ([http(b"x" * (MAX_BODY + 1), Content_Length="")], Invalid, "more than"),
    "cut short": ([http(b'{"keys"', Content_Length="500")], Unavailable, "ended before|cannot be reached"),
    "no answer": ([b""], Unavailable, "cannot be reached"),
    "no http": ([f"{SECRET}\r\n\r\n".encode()], Unavailable, "not HTTP"),
    "endless header": ([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"], Unavailable, "not HTTP"),
    "many headers": ([b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 500 + b"\r\n"], Unavailable, "not HTTP"),
    "not found": ([http(SECRET.encode(), "404 Not Found")], Unavailable, "404"),
    "server error": ([http(SECRET.encode(), f"500 {SECRET}")], Unavailable, "500"),
    "partial": ([http(SECRET.encode(), "206 Partial Content")], Unavailable, "206"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_answer_that_is_not_plain_is_refused_and_not_repeated(peer: ForeignPeer, fault: str) -> None:
    pieces, kind, said = REFUSED[fault]
    peer.says(*pieces)
    with pytest.raises(kind, match=said) as caught:
        get(peer)
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"
    assert len(peer.asked) <= MAX_REDIRECTS + 1


def test_redirects_within_the_origin_are_followed(peer: ForeignPeer) -> None:
    peer.answer = lambda path, _: [redirect(f"https://127.0.0.1:{peer.port}/b") if path == "/bundle" else http(b"{}")]
    assert get(peer).body == b"{}"
    assert [path for path, _ in peer.asked] == ["/bundle", "/b"]


def test_a_slow_drip_ends_when_the_time_is_over(peer: ForeignPeer) -> None:
    peer.says(http(b"", Content_Length="1000"), *[b"x"] * 100, pause=0.05)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="no whole answer in time"):
        get(peer, seconds=0.3)
    assert time.monotonic() - started < 4


def test_loopback_is_refused_unless_configuration_allows_it(peer: ForeignPeer) -> None:
    with pytest.raises(Denied, match="loopback"):
        get(peer, reach=Reach())
    assert not peer.asked


def test_a_server_of_another_name_or_root_is_refused(peer: ForeignPeer) -> None:
    for keypair in (CA.server("other.example"), WebCa().server(), svid(peer.domain)):
        peer.identity(keypair)
        with pytest.raises(Denied, match="did not prove"):
            get(peer)
    assert not peer.asked


def test_the_callers_verdict_comes_before_the_request(peer: ForeignPeer) -> None:
    def verify(chain: tuple[bytes, ...]) -> None:
        raise Denied("not who was meant")

    with pytest.raises(Denied, match="not who was meant"):
        get(peer, verify=verify)
    assert not peer.asked
