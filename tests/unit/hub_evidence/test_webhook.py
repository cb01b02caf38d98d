"""The webhook: signed, in order, once each, tried again, durable, and sent nowhere that it must not go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.clocks import ManualClock
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.evidence.standing import Alarm
from trustfed.hub.evidence.config import AlertsConfig
from trustfed.hub.evidence.views import Of, Raised
from trustfed.hub.evidence.webhook import MAX_TRIES, MAX_WAITING, Webhook, read_secret, signature
from trustfed.runtime.config import SecretFile
from trustfed.runtime.guarded_fetch import post
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach

SECRET = b"s" * 24


def alarm(subject: str = "x", domain: str = "a") -> Raised:
    return Of(domain, Alarm("silent", "page", subject, 'says <b>"', 1_000, "hint"), 1_000, "hub")


class Receiver:
    """Takes messages, or fails as often as it is told."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, dict[str, str]]] = []
        self.fail = 0

    def send(self, body: bytes, headers: dict[str, str]) -> None:
        if self.fail:
            self.fail -= 1
            raise Unavailable("the receiver is away")
        self.taken.append((body, headers))

    @property
    def said(self) -> list[tuple[str, str]]:
        found = [json.loads(body) for body, _ in self.taken]
        return [(one["type"], one["data"]["subject"]) for one in found]


def webhook(folder: Path, receiver: Receiver, clock: ManualClock) -> Webhook:
    return Webhook(
        folder / "webhook.json", receiver.send, SECRET, clock, lambda size: b"\x80\x00" * (size // 2), Registry()
    )


async def drain(hook: Webhook) -> list[float]:
    """Send what waits; the pauses on the way."""
    pauses = []
    while hook._kept.waiting:
        pause = await hook._try(hook._kept.waiting[0])
        if pause is not None:
            pauses.append(pause)
    return pauses


async def test_each_alarm_is_told_once_and_once_when_it_is_over(tmp_path: Path, clock: ManualClock) -> None:
    receiver = Receiver()
    hook = webhook(tmp_path, receiver, clock)
    await hook.news([alarm("x"), alarm("y")])
    await hook.news([alarm("x"), alarm("y")])
    await hook.news([alarm("y")])
    clock.move(30)
    await hook.news([alarm("x"), alarm("y")])  # back within a minute: it was never over
    await hook.news([alarm("y")])
    clock.move(61)
    await hook.news([alarm("y")])
    await drain(hook)
    assert receiver.said == [("alarm.raised", "x"), ("alarm.raised", "y"), ("alarm.resolved", "x")]
    data = json.loads(receiver.taken[2][0])["data"]
    assert data["resolved_at"].endswith("Z") and data["says"] == 'says <b>"'


async def test_the_signature_is_the_standards(tmp_path: Path, clock: ManualClock) -> None:
    receiver = Receiver()
    hook = webhook(tmp_path, receiver, clock)
    await hook.news([alarm()])
    await drain(hook)
    ((body, headers),) = receiver.taken
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-timestamp"] == str(int(clock.now().timestamp()))
    # The example of the standard's own libraries.
    secret = read_secret(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body) == expected


async def test_a_receiver_that_is_away_is_tried_again_and_given_up(tmp_path: Path, clock: ManualClock) -> None:
    receiver = Receiver()
    hook = webhook(tmp_path, receiver, clock)
    receiver.fail = 3
    await hook.news([alarm()])
    pauses = await drain(hook)
    assert [round(pause, 1) for pause in pauses] == [2.0, 4.0, 8.0] and len(receiver.taken) == 1
    receiver.fail = MAX_TRIES
    await hook.news([alarm(), alarm("y")])
    pauses = await drain(hook)
    assert len(pauses) == MAX_TRIES - 1 and max(pauses) <= 1_350 and len(receiver.taken) == 1


async def test_what_waits_survives_a_restart_and_is_bounded(tmp_path: Path, clock: ManualClock) -> None:
    receiver = Receiver()
    hook = webhook(tmp_path, receiver, clock)
    await hook.news([alarm(str(number)) for number in range(MAX_WAITING + 5)])
    again = webhook(tmp_path, receiver, clock)
    await again.start()
    assert len(again._kept.waiting) == MAX_WAITING
    await again.news([alarm(str(number)) for number in range(MAX_WAITING + 5)])
    assert len(again._kept.waiting) == MAX_WAITING  # told before: nothing new
    assert (tmp_path / "webhook.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "webhook.json").write_bytes(b"{")
    await webhook(tmp_path, receiver, clock).start()


async def test_what_was_told_under_an_older_spelling_is_not_told_again(tmp_path: Path, clock: ManualClock) -> None:
    told = Of("a", Alarm("unknown_serial", "page", "x", "says", 1_000), 1_000, "cluster")
    old = {"told": {"a\nunknown-serial\n\npage": {"code": "unknown-serial", "subject": "x"}}}
    (tmp_path / "webhook.json").write_text(json.dumps(old))
    receiver = Receiver()
    hook = webhook(tmp_path, receiver, clock)
    await hook.start()
    await hook.news([told])
    await hook.news([])
    clock.move(61)
    await hook.news([])
    await drain(hook)
    assert receiver.said == [("alarm.resolved", "x")]
    assert json.loads(receiver.taken[0][0])["data"]["code"] == "unknown_serial"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            status = {"/moved": 302, "/broken": 500}.get(self.path, 204)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "https://127.0.0.1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    seen: list[tuple[str, dict[str, str], bytes]] = []
    certificate, key = Authority(tmp_path).issue("receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.socket = context.wrap_socket(made.socket, server_side=True)
    made.seen = seen  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(5)


def test_it_goes_to_the_configured_address_and_nowhere_else(
    server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    url, allowed = f"https://127.0.0.1:{server.server_port}", AlertsConfig(allow_networks=("127.0.0.0/8",)).reach()
    assert post(f"{url}/hook", context, b"{}", {"webhook-id": "1"}, reach=allowed) == 204
    ((path, headers, body),) = server.seen  # type: ignore[attr-defined]
    assert (path, headers["webhook-id"], body) == ("/hook", "1", b"{}")
    with pytest.raises(Unavailable, match="status 302"):
        post(f"{url}/moved", context, b"{}", {}, reach=allowed)
    with pytest.raises(Unavailable, match="status 500"):
        post(f"{url}/broken", context, b"{}", {}, reach=allowed)
    with pytest.raises(Denied, match="loopback"):
        post(f"{url}/hook", context, b"{}", {}, reach=Reach())
    with pytest.raises(Denied, match="did not prove"):
        post(f"{url}/hook", ssl.create_default_context(), b"{}", {}, reach=allowed)
    with pytest.raises(Denied, match="metadata"):
        post("https://169.254.169.254/hook", context, b"{}", {}, reach=allowed)


def test_configuration_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="without key_file"):
        AlertsConfig(webhook="https://hooks.example/x")
    secret = tmp_path / "key"
    secret.write_bytes(b"k" * 32)
    secret.chmod(0o600)
    with pytest.raises(Invalid, match="not an https"):
        AlertsConfig(webhook="http://hooks.example/x", key_file=SecretFile(secret))
    with pytest.raises(Invalid, match="allow_networks"):
        AlertsConfig(allow_networks=("everywhere",))
    with pytest.raises(Invalid, match="24 to 1024"):
        read_secret(b"short")
    with pytest.raises(Invalid, match="not base64"):
        read_secret(b"whsec_***")


async def test_an_alarm_that_a_cluster_dates_out_of_all_calendars_is_told(tmp_path: Path, clock: ManualClock) -> None:
    receiver = Receiver()
    hook = webhook(tmp_path, receiver, clock)
    for subject, since in (("later", 1 << 52), ("earlier", -(1 << 52))):
        one = Alarm("silent", "page", subject, "says", since)
        await hook.news([Of("a", one, 1_000, "cluster"), alarm()])
    assert await hook._try(hook._kept.waiting[0]) is None
    assert receiver.said == [("alarm.raised", "later")]
