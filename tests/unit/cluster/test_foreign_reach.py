"""Where a URL that somebody else named may lead: its grammar, its addresses, and that a judged address is the one reached."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time

import pytest

from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.runtime.guarded_fetch import MAX_ADDRESSES, fetch
from trustfed.runtime.reach import Reach, Target


@pytest.mark.parametrize(
    "url",
    [
        "http://trust.example/bundle",
        "ftp://trust.example/",
        "https:///bundle",
        "https://user@trust.example/",
        "https://user:word@trust.example/",
        "https://trust.example/#part",
        "https://trust.example:99999/",
        "https://trust.example:0/",
        "https://trust.example:22/",
        "https://trust.example:80/",
        "https://trust.example:x/",
        "https://trust.example\\@169.254.169.254/",
        "https://trust.example/\r\nHost: other",
        "https://trust.example/ two",
        "https://tr\u00fcst.example/",
        "https://trust%2eexample/",
        "https://[fe80::1%25eth0]/",
        "https://[::1",
        "https://[not-one]/",
        "https://trust.example/" + "a" * 2048,
        "trust.example/bundle",
        "",
    ],
)
def test_what_is_no_endpoint_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        Target.parse(url)


def test_urls_are_read_in_their_parts() -> None:
    assert Target.parse("https://trust.example") == Target("trust.example", 443, "/")
    assert Target.parse("https://[2001:db8::1]:8443/a?b=c") == Target("2001:db8::1", 8443, "/a?b=c")
    assert Target.parse("https://[2001:db8::1]:8443/").origin == "https://[2001:db8::1]:8443"


REFUSED = {
    "127.0.0.1": "loopback",
    "127.8.9.10": "loopback",
    "::1": "loopback",
    "::ffff:127.0.0.1": "reserved|loopback",
    "::127.0.0.1": "reserved|loopback",
    "64:ff9b::7f00:1": "loopback",
    "2002:7f00:1::": "loopback",
    "169.254.1.1": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "169.254.169.254": "metadata",
    "::ffff:169.254.169.254": "reserved|metadata",
    "64:ff9b::a9fe:a9fe": "metadata",
    "2002:a9fe:a9fe::1": "metadata",
    "fd00:ec2::254": "metadata",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "fd00:ec2::23": "metadata",
    "fec0::1": "link-local",
    "2001:db8::5efe:7f00:1": "loopback",
    "2001:db8::200:5efe:a9fe:a9fe": "metadata",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "trust.example": "no address",
}


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_only_this_machine_reaches_are_refused(address: str) -> None:
    with pytest.raises(Denied, match=REFUSED[address]):
        Reach().check(address)


@pytest.mark.parametrize(
    "address", ["198.51.100.7", "2606:4700::1", "10.1.2.3", "192.168.1.1", "fd12::1", "100.64.0.1"]
)
def test_others_are_reached_private_ones_included(address: str) -> None:
    Reach().check(address)


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.1.1", "172.16.0.1", "fd12::1", "100.64.0.1", "2002:a01:203::"]
)
def test_private_ones_are_refused_where_configured(address: str) -> None:
    with pytest.raises(Denied, match="private"):
        Reach(private=False).check(address)


def test_configuration_allows_networks_but_never_metadata() -> None:
    wide = Reach(allow=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("169.254.0.0/16")))
    wide.check("127.0.0.1")
    wide.check("169.254.1.1")
    for address in ("169.254.169.254", "::1"):
        with pytest.raises(Denied):
            wide.check(address)


def test_a_name_with_one_bad_address_among_good_ones_is_refused_and_nothing_is_dialled() -> None:
    context = ssl.create_default_context()
    with pytest.raises(Denied, match="metadata"):
        fetch("https://trust.example/", context, resolve=lambda host, port: ["198.51.100.7", "169.254.169.254"])
    with pytest.raises(Denied, match="more than"):
        fetch("https://t.example/", context, resolve=lambda h, p: [f"198.51.100.{n}" for n in range(MAX_ADDRESSES + 1)])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::1]"])
def test_every_spelling_of_loopback_is_judged_after_it_was_resolved(host: str) -> None:
    with pytest.raises((Denied, Unavailable), match=r"loopback|cannot be reached"):
        fetch(f"https://{host}:8443/", ssl.create_default_context())


def test_a_name_is_resolved_once_and_the_judged_address_is_dialled() -> None:
    asked: list[str] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

        reach = Reach(allow=(ipaddress.ip_network("127.0.0.1/32"),))
        with pytest.raises(Unavailable):
            fetch(
                f"https://t.example:{port}/", ssl.create_default_context(), reach=reach, seconds=0.8, resolve=rebinding
            )
        connection, _ = listener.accept()
        connection.close()
    assert asked == ["t.example"]


def test_a_resolver_that_hangs_or_fails_is_not_waited_for() -> None:
    asked_long_enough = threading.Event()

    def hangs(host: str, port: int) -> list[str]:
        asked_long_enough.wait(30)
        return ["198.51.100.7"]

    def fails(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    started = time.monotonic()
    with pytest.raises(Unavailable, match="not resolved in time"):
        fetch("https://t.example/", ssl.create_default_context(), seconds=0.05, resolve=hangs)
    assert time.monotonic() - started < 20
    asked_long_enough.set()

    def nothing(host: str, port: int) -> list[str]:
        return []

    for resolve in (fails, nothing):
        with pytest.raises(Unavailable):
            fetch("https://t.example/", ssl.create_default_context(), resolve=resolve)
