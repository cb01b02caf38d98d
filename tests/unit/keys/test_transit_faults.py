"""Vault transit under faults: a real OpenBao, and a proxy before it that lies, drips, redirects or hangs."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey, generate_private_key

from ca.keys.transit import MAX_WAITING, TransitKeys
from ca.keys.vault_client import VaultServer
from ca.keys.vault_login import AppRole, TokenFile, VaultSession
from tests.fakes.openbao import OpenBao, openbao
from trustfed.errors import Denied, Invalid, NotFound, TrustfedError, Unavailable

_numbers = itertools.count()
Alter = Callable[[BaseHTTPRequestHandler, int, dict[str, Any]], Any]


def _secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


def _verify(key: EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    key.verify(signature, message, ECDSA(hashes.SHA256()))


@asynccontextmanager
async def _transit(url: str, token: str, tmp_path: Path, **server: Any) -> AsyncIterator[TransitKeys]:
    login = TokenFile(_secret(tmp_path / "token", token))
    keys = TransitKeys(
        VaultServer(url, **{"deadline": 10.0, "timeout": 10.0, **server}), login, prefix=f"fault{next(_numbers)}-"
    )
    try:
        yield keys
    finally:
        await keys.close()


@contextmanager
def _proxy(target: str, alter: Alter, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Forward requests to `target`; `alter(handler, status, answer)` returns the answer to give, or bytes, or None."""

    upstream = httpx.Client(base_url=target, trust_env=False, timeout=20)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.startswith("X-Vault")}
            real = upstream.request(self.command, self.path, content=body, headers=headers)
            answer = alter(self, real.status_code, real.json() if real.content else {})
            if answer is None:
                return
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(real.status_code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        upstream.close()


# --- what a lying middle can do: nothing ---


def _flip(results: list[dict[str, str]]) -> None:
    text = results[-1]["signature"]
    results[-1]["signature"] = text[:-12] + ("A" if text[-12] != "A" else "B") + text[-11:]


def _swap(results: list[dict[str, str]]) -> None:
    results[0], results[1] = results[1], results[0]


def _drop(results: list[dict[str, str]]) -> None:
    results.pop()


def _add(results: list[dict[str, str]]) -> None:
    results.append(results[0])


def _replay(results: list[dict[str, str]]) -> None:
    results[1] = results[0]


def _later_version(results: list[dict[str, str]]) -> None:
    results[0]["signature"] = results[0]["signature"].replace("vault:v1:", "vault:v2:")


def _no_base64(results: list[dict[str, str]]) -> None:
    results[0]["signature"] = "vault:v1:?"


def _error_item(results: list[dict[str, str]]) -> None:
    results[0] = {"error": "no"}


def _trailing(results: list[dict[str, str]]) -> None:
    results[0]["signature"] += "AAAA"


@pytest.mark.parametrize(
    "lie", [_flip, _swap, _drop, _add, _replay, _later_version, _no_base64, _error_item, _trailing]
)
async def test_signatures_changed_on_the_way_are_refused_before_use(
    tmp_path: Path, lie: Callable[[list[dict[str, str]]], None]
) -> None:
    lying = False

    def alter(_: object, __: int, answer: dict[str, Any]) -> dict[str, Any]:
        if lying and answer.get("data") and "batch_results" in answer["data"]:
            lie(answer["data"]["batch_results"])
        return answer

    server = openbao()
    with _proxy(server.url, alter) as url:
        async with _transit(url, server.token_for("transit-keys"), tmp_path) as keys:
            await keys.create("a")
            assert len(await keys.sign("a", [b"x", b"y", b"z"])) == 3
            lying = True
            with pytest.raises(Denied, match="does not verify under key a: nothing of it is used"):
                await keys.sign("a", [b"x", b"y", b"z"])
            lying = False
            await keys.sign("a", [b"x"])


async def test_redirects_are_not_followed_and_the_token_stays_here(tmp_path: Path) -> None:
    seen: list[str | None] = []

    def record(handler: BaseHTTPRequestHandler, _: int, answer: dict[str, Any]) -> dict[str, Any]:
        seen.append(handler.headers.get("X-Vault-Token"))
        return answer

    server = openbao()
    with _proxy(server.url, record) as elsewhere:

        def redirect(handler: BaseHTTPRequestHandler, _: int, __: object) -> None:
            handler.send_response(307)
            handler.send_header("Location", elsewhere + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with _proxy(server.url, redirect) as url:
            async with _transit(url, server.token_for("transit-keys"), tmp_path) as keys:
                with pytest.raises(Unavailable, match="redirects to another address") as refused:
                    await keys.public_key("a")
                assert "active node" in refused.value.hint
    assert seen == []


async def test_endless_and_dripping_answers_end_at_the_bounds(tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler, _: int, __: object) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" " * 100_000)

    def drip(handler: BaseHTTPRequestHandler, _: int, __: object) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.02)

    server = openbao()
    bounds = ((endless, 10.0, "answered with more than"), (drip, 0.2, "answered too slowly"))
    for alter, timeout, words in bounds:
        with _proxy(server.url, alter) as url:
            async with _transit(url, server.token, tmp_path, timeout=timeout, deadline=timeout) as keys:
                with pytest.raises(Unavailable, match=words):
                    await keys.public_key("a")


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'"x"', b"[" * 100_000, b'{"data": 7}', b'{"data": {"keys": 1}}'])
async def test_answers_that_are_not_vaults_are_refused(tmp_path: Path, answer: bytes) -> None:
    server = openbao()
    token = server.token_for("transit-keys")
    with _proxy(server.url, lambda handler, _, body: body if "lookup" in handler.path else answer) as url:
        async with _transit(url, token, tmp_path, deadline=0.3) as keys:
            server.call("POST", f"transit/keys/{keys._prefix}a", {"type": "ecdsa-p256"})
            with pytest.raises((Unavailable, Denied)):
                await keys.public_key("a")


# --- what an honest Vault refuses ---


async def test_a_wrong_token_is_denied_and_shown_nowhere(tmp_path: Path) -> None:
    async with _transit(openbao().url, "s.not-a-token", tmp_path) as keys:
        for call in (keys.create("a"), keys.public_key("a"), keys.sign("a", [b"x"]), keys.destroy("a")):
            with pytest.raises(Denied, match="Vault denied us the use of transit/") as refused:
                await call
            assert "policy" in refused.value.hint
            assert "not-a-token" not in f"{refused.value!r} {refused.value.hint} {keys!r} {vars(keys)!r}"


async def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    server = openbao()
    first = server.token_for("transit-keys")
    async with _transit(server.url, first, tmp_path) as keys:
        key = await keys.create("a")
        server.call("POST", "auth/token/revoke", {"token": first})
        with pytest.raises(Denied):
            await keys.sign("a", [b"x"])
        (tmp_path / "token").write_text(server.token_for("transit-keys") + "\n")
        [signature] = await keys.sign("a", [b"x"])
        _verify(key, signature, b"x")
        (tmp_path / "token").chmod(0o644)
        (tmp_path / "token").write_text("another")
        with pytest.raises(Denied, match=r"Vault token file .* can be touched by its group"):
            await keys.sign("a", [b"x"])


async def test_a_token_file_that_is_missing_is_unavailable(tmp_path: Path) -> None:
    keys = TransitKeys(VaultServer(openbao().url), TokenFile(tmp_path / "missing"))
    with pytest.raises(Unavailable, match="cannot read the Vault token file"):
        await keys.public_key("a")
    await keys.close()


async def test_an_engine_that_is_not_mounted_is_told_from_a_missing_key(tmp_path: Path) -> None:
    server = openbao()
    keys = TransitKeys(VaultServer(server.url), TokenFile(_secret(tmp_path / "t", server.token)), mount="nowhere")
    with pytest.raises(Unavailable, match="Vault has no transit engine at nowhere/") as refused:
        await keys.sign("a", [b"x"])
    assert "bao secrets enable -path=nowhere transit" in refused.value.hint
    await keys.close()


async def test_exportable_and_foreign_keys_are_refused(tmp_path: Path) -> None:
    server = openbao()
    async with _transit(server.url, server.token, tmp_path) as keys:
        for name, body in (("e", {"type": "ecdsa-p256", "exportable": True}), ("r", {"type": "rsa-2048"})):
            server.call("POST", f"transit/keys/{keys._prefix}{name}", body)
        with pytest.raises(Denied, match="key e in Vault can be exported"):
            await keys.sign("e", [b"x"])
        with pytest.raises(Denied, match="key r in Vault is no ecdsa-p256 key"):
            await keys.public_key("r")


async def test_a_key_rotated_in_vault_still_signs_with_the_version_we_published(tmp_path: Path) -> None:
    server = openbao()
    async with _transit(server.url, server.token, tmp_path) as keys:
        key = await keys.create("a")
        server.call("POST", f"transit/keys/{keys._prefix}a/rotate")
        [signature] = await keys.sign("a", [b"x"])
        _verify(key, signature, b"x")


async def test_a_key_made_anew_behind_our_back_is_not_used(tmp_path: Path) -> None:
    server = openbao()
    async with _transit(server.url, server.token, tmp_path) as keys:
        await keys.create("a")
        path = f"transit/keys/{keys._prefix}a"
        server.call("POST", f"{path}/config", {"deletion_allowed": True})
        server.call("DELETE", path)
        server.call("POST", path, {"type": "ecdsa-p256"})
        with pytest.raises(Denied, match="does not verify under key a") as refused:
            await keys.sign("a", [b"x"])
        assert "was the key made anew in Vault?" in refused.value.hint


async def test_a_key_deleted_behind_our_back_is_not_found(tmp_path: Path) -> None:
    server = openbao()
    async with _transit(server.url, server.token, tmp_path) as keys:
        await keys.create("a")
        path = f"transit/keys/{keys._prefix}a"
        server.call("POST", f"{path}/config", {"deletion_allowed": True})
        server.call("DELETE", path)
        with pytest.raises(NotFound):
            await keys.sign("a", [b"x"])


async def test_a_batch_of_500_is_two_requests(tmp_path: Path) -> None:
    paths: list[str] = []

    def record(handler: BaseHTTPRequestHandler, _: int, answer: dict[str, Any]) -> dict[str, Any]:
        paths.append(handler.path)
        return answer

    server = openbao()
    with _proxy(server.url, record) as url:
        async with _transit(url, server.token, tmp_path) as keys:
            key = await keys.create("a")
            messages = [b"%d" % number for number in range(500)]
            for message, signature in zip(messages, await keys.sign("a", messages), strict=True):
                _verify(key, signature, message)
    assert sum("/sign/" in path for path in paths) == 2


# --- logins ---


@pytest.fixture(scope="module")
def approle() -> OpenBao:
    server = openbao()
    server.call("POST", "sys/auth/approle", {"type": "approle"})
    return server


def _role(server: OpenBao, tmp_path: Path, **options: Any) -> AppRole:
    name = f"role-{tmp_path.name}".lower()
    server.call("POST", f"auth/approle/role/{name}", {"token_policies": ["transit-keys"], **options})
    role_id = server.call("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
    secret_id = server.call("POST", f"auth/approle/role/{name}/secret-id")["data"]["secret_id"]
    return AppRole(_secret(tmp_path / "role-id", role_id), _secret(tmp_path / "secret-id", secret_id))


async def test_a_short_approle_token_is_renewed_while_nobody_signs(approle: OpenBao, tmp_path: Path) -> None:
    # The secret id is good for one login: what works after the token's first second works by renewal.
    login = _role(approle, tmp_path, token_ttl="1s", token_max_ttl="1h", secret_id_num_uses=1)
    keys = TransitKeys(VaultServer(approle.url), login, prefix="renewed-")
    key = await keys.create("a")
    await asyncio.sleep(1.4)
    [signature] = await keys.sign("a", [b"x"])
    _verify(key, signature, b"x")
    await keys.close()


async def test_an_approle_token_at_its_maximum_is_replaced_by_a_new_login(approle: OpenBao, tmp_path: Path) -> None:
    login = _role(approle, tmp_path, token_ttl="1s", token_max_ttl="1s")
    keys = TransitKeys(VaultServer(approle.url), login, prefix="max-")
    await keys.create("a")
    await asyncio.sleep(1.3)
    assert len(await keys.sign("a", [b"x"])) == 1
    await keys.close()


async def test_an_approle_token_that_was_revoked_is_replaced_at_once(approle: OpenBao, tmp_path: Path) -> None:
    login = _role(approle, tmp_path, token_ttl="1h")
    keys = TransitKeys(VaultServer(approle.url), login, prefix="revoked-")
    await keys.create("a")
    assert keys._session._lease is not None
    approle.call("POST", "auth/token/revoke", {"token": keys._session._lease.token})
    assert len(await keys.sign("a", [b"x"])) == 1
    await keys.close()


async def test_a_wrong_secret_id_is_denied_and_shown_nowhere(approle: OpenBao, tmp_path: Path) -> None:
    login = _role(approle, tmp_path)
    login.secret_id_file.write_text("no-such-secret-id")
    keys = TransitKeys(VaultServer(approle.url), login)
    with pytest.raises(Denied, match="Vault refused the AppRole login at auth/approle") as refused:
        await keys.sign("a", [b"x"])
    assert "no-such-secret-id" not in str(refused.value) + refused.value.hint
    await keys.close()


def test_a_token_that_cannot_be_renewed_is_used_to_its_end_and_then_obtained_anew(
    approle: OpenBao, tmp_path: Path
) -> None:
    now = 1000.0
    token = approle.token_for("transit-keys", ttl="100s", renewable=False)
    server = VaultServer(approle.url)
    session = VaultSession(server, TokenFile(_secret(tmp_path / "token", token)), clock=lambda: now)
    client = server.client()
    assert session.token(client) == token
    assert session.renewal_in() == pytest.approx(50, abs=2)
    now += 51
    assert session.token(client) == token
    assert session.renewal_in() == pytest.approx(25, abs=3), "tried again when half of the rest is gone"
    now += 50
    approle.call("POST", "auth/token/revoke", {"token": token})
    fresh = approle.token_for("transit-keys")
    (tmp_path / "token").write_text(fresh)
    assert session.token(client) == fresh


# --- outages ---


async def test_sealed_killed_and_back(tmp_path: Path) -> None:
    server = OpenBao(tmp_path)
    server.start()
    try:
        server.enable_transit()
        async with _transit(server.url, server.token_for("transit-keys"), tmp_path, deadline=3.0) as keys:
            key = await keys.create("a")
            server.seal()
            with pytest.raises(Unavailable, match="Vault is sealed") as refused:
                await keys.sign("a", [b"x"])
            assert "operator unseal" in refused.value.hint
            server.unseal()
            assert len(await keys.sign("a", [b"x"])) == 1
            server.kill()
            before = time.monotonic()
            with pytest.raises(Unavailable, match="cannot be reached") as refused:
                await keys.sign("a", [b"x"])
            assert time.monotonic() - before < 5
            assert server.url in refused.value.message
            server.start()
            [signature] = await keys.sign("a", [b"x"])
            _verify(key, signature, b"x")
    finally:
        server.kill()


async def test_a_moment_without_an_answer_is_bridged_by_trying_again(tmp_path: Path) -> None:
    failures = 2

    def stumble(handler: BaseHTTPRequestHandler, _: int, answer: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal failures
        if "/sign/" in handler.path and failures:
            failures -= 1
            handler.close_connection = True
            return None
        return answer

    server = openbao()
    with _proxy(server.url, stumble) as url:
        async with _transit(url, server.token, tmp_path) as keys:
            await keys.create("a")
            assert len(await keys.sign("a", [b"x"])) == 1
    assert failures == 0


async def test_a_vault_that_hangs_holds_a_bounded_queue_and_not_the_loop(tmp_path: Path) -> None:
    free = threading.Event()

    def hang(_: object, __: int, answer: dict[str, Any]) -> dict[str, Any]:
        free.wait(5)
        return answer

    server = openbao()
    with _proxy(server.url, hang) as url:
        async with _transit(url, server.token, tmp_path, timeout=5.0, deadline=5.0) as keys:
            waiting = [asyncio.create_task(keys.public_key(f"k{number}")) for number in range(MAX_WAITING)]
            before = time.monotonic()
            for _ in range(10):
                await asyncio.sleep(0.005)
            assert time.monotonic() - before < 2, "the loop goes on while Vault hangs"
            with pytest.raises(Unavailable, match="requests to Vault are waiting already"):
                await keys.public_key("one-more")
            free.set()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(result, NotFound) for result in results)


async def test_the_loop_goes_on_while_a_renewal_hangs(approle: OpenBao, tmp_path: Path) -> None:
    free = threading.Event()

    def hang(handler: BaseHTTPRequestHandler, _: int, answer: dict[str, Any]) -> dict[str, Any]:
        if "renew-self" in handler.path:
            free.wait(5)
        return answer

    with _proxy(approle.url, hang) as url:
        login = _role(approle, tmp_path, token_ttl="1s", token_max_ttl="1h")
        keys = TransitKeys(VaultServer(url), login, prefix="hanging-")
        await keys.create("a")
        await asyncio.sleep(0.6)  # the renewal is under way now
        signing = asyncio.create_task(keys.sign("a", [b"x"]))
        before = time.monotonic()
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert time.monotonic() - before < 2
        free.set()
        assert len(await signing) == 1
        await keys.close()


# --- the way there ---


@pytest.mark.parametrize(
    "url",
    [
        "http://vault.example:8200",
        "ftp://x",
        "https://",
        "https://user:pw@x",
        "https://x/v1",
        "vault:8200",
        "http://[::2]",
    ],
)
def test_addresses_that_are_malformed_or_in_clear_are_refused(url: str) -> None:
    with pytest.raises(Invalid, match="Vault URL"):
        VaultServer(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8200/", "https://vault.example"]
)
def test_addresses_that_are_accepted(url: str) -> None:
    VaultServer(url)


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="CA file for Vault"):
        VaultServer("https://x", ca_file=tmp_path / "missing")
    with pytest.raises(Invalid, match="namespace"):
        VaultServer("https://x", namespace="a\nb")
    for options in ({"mount": "a/../b"}, {"mount": ""}, {"prefix": "A"}, {"prefix": "a/"}):
        with pytest.raises(Invalid, match="transit mount"):
            TransitKeys(VaultServer("https://x"), TokenFile(tmp_path / "t"), **options)


async def test_tls_is_verified_against_the_ca_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault of tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 7, now - datetime.timedelta(1), now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    own = tmp_path / "key.pem"
    own.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, own)
    server = openbao()
    with _proxy(server.url, lambda _, __, answer: answer, context) as url:
        async with _transit(url, server.token, tmp_path, ca_file=ca) as keys:
            await keys.create("a")
        # An environment that would switch verification elsewhere is not listened to.
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "VAULT_CACERT"):
            monkeypatch.setenv(variable, str(ca))
        async with _transit(url, server.token, tmp_path) as keys:
            with pytest.raises(Denied, match="Vault's TLS certificate was refused") as refused:
                await keys.create("b")
            assert "ca_file" in refused.value.hint


async def test_proxies_and_tokens_of_the_environment_are_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("VAULT_TOKEN", "of the environment")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    server = openbao()
    async with _transit(server.url, server.token_for("transit-keys"), tmp_path) as keys:
        await keys.create("a")


async def test_keys_of_a_namespace(tmp_path: Path) -> None:
    server = openbao()
    server.call("POST", "sys/namespaces/team")
    server.call("POST", "team/sys/mounts/transit", {"type": "transit"})
    async with _transit(server.url, server.token, tmp_path, namespace="team") as keys:
        await keys.create("a")
        listed = server.call("GET", f"team/transit/keys/{keys._prefix}a")
        assert listed["data"]["exportable"] is False
    async with _transit(server.url, server.token, tmp_path) as keys:
        with pytest.raises(NotFound):
            await keys.public_key("a")


async def test_every_failure_is_one_of_ours(tmp_path: Path) -> None:
    """Whatever status Vault answers with: a refusal with words, never a stack trace of a library."""
    server = openbao()
    token = server.token_for("transit-keys")
    for status in (201, 204, 302, 400, 401, 403, 404, 405, 408, 412, 418, 429, 472, 473, 500, 501, 502, 503, 504, 599):

        def answer(handler: BaseHTTPRequestHandler, _: int, __: object, status: int = status) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", "0" if status == 204 else "15")
            handler.end_headers()
            handler.wfile.write(b"" if status == 204 else b'{"errors":["x"]}'[:15])

        with _proxy(server.url, answer) as url:
            async with _transit(url, token, tmp_path, deadline=0.05) as keys:
                for call in (keys.create("a"), keys.sign("a", [b"x"]), keys.destroy("a")):
                    with pytest.raises(TrustfedError):
                        await call
