"""Keys in the transit engine of HashiCorp Vault or OpenBao: the private halves never leave it.

Trust: Vault, who administers it, and who holds our token can sign with the keys; they cannot make us hand out a
signature that does not verify, for each is checked against the public key first read in this process. When Vault is
away nothing is signed: there is no local fall-back.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import queue
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, overload

import hvac
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ca.keys.digests import SCHEME, digests_of
from ca.keys.port import (
    EC_P256,
    ED25519,
    EcP256,
    Ed25519,
    PublicKey,
    check_key_kind,
    check_kind,
    check_messages,
    check_name,
    check_notes,
)
from ca.keys.vault_client import Refusal, VaultServer
from ca.keys.vault_login import Login, VaultSession
from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable

THREADS = 4
MAX_WAITING = 64  # calls that run or wait for a thread
# A key is one version of a transit key: should somebody rotate it in Vault, we still sign with the one we published.
VERSION = 1
# OpenBao refuses JSON with more than 1,000 strings, names of members included: two for each item, and a few around.
MAX_ITEMS = 400
_LOOK_AGAIN = 5.0  # seconds; looking at the lease costs nothing
_VERIFIED_AT_ONCE = 10  # 0.8 ms, after which the event loop gets a turn
_TYPES = {EC_P256: "ecdsa-p256", ED25519: "ed25519"}
_PREHASHED: dict[str, Any] = {"hash_algorithm": "sha2-256", "prehashed": True, "marshaling_algorithm": "asn1"}
_Answer = TypeVar("_Answer")


class TransitKeys:
    """A KeyStore in Vault. Keys are not exportable; `prefix` parts the names of several clusters in one mount.

    Vault has no "create unless it exists", so two processes that create one name at the same moment share that key.
    """

    def __init__(self, server: VaultServer, login: Login, *, mount: str = "transit", prefix: str = "") -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", mount) or not re.fullmatch(r"[a-z0-9-]{0,32}", prefix):
            raise Invalid(f"transit mount {mount!r} or prefix {prefix!r} is malformed", hint="letters, digits, - and _")
        self._server = server
        self._session = VaultSession(server, login)
        self._mount = mount
        self._prefix = prefix
        self._public: dict[str, PublicKey] = {}
        self._waiting = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        self._clients: queue.SimpleQueue[hvac.Client] = queue.SimpleQueue()
        for _ in range(THREADS):
            self._clients.put(server.client())
        self._renewal: asyncio.Task[None] | None = None

    @overload
    async def create(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def create(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def create(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore. When the answer is lost (Unavailable) the key may exist: take another name."""
        check_name(name)
        check_kind(kind)
        return await self._run(functools.partial(self._create, name, kind))

    @overload
    async def public_key(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def public_key(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def public_key(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore."""
        check_name(name)
        key = self._public.get(name)
        if key is None:
            key = await self._run(functools.partial(self._read, name))
        check_key_kind(name, key, kind)
        return key

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        """See KeyStore: one request for each 400 messages, side by side."""
        check_name(name)
        check_messages(messages)
        count = max(1, -(-len(messages) // MAX_ITEMS))
        size = max(1, -(-len(messages) // count))
        parts = [messages[start : start + size] for start in range(0, len(messages), size)] or [[]]
        answers = await asyncio.gather(*(self._run(functools.partial(self._sign, name, part)) for part in parts))
        return [signature for answer in answers for signature in answer]

    async def destroy(self, name: str) -> None:
        """See KeyStore."""
        check_name(name)
        await self._run(functools.partial(self._destroy, name))

    async def close(self) -> None:
        """End the renewal of the token; what runs may finish."""
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[[hvac.Client], _Answer]) -> _Answer:
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{self._waiting} requests to Vault are waiting already", hint="try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._with_client, call)
        finally:
            self._waiting -= 1
            if self._renewal is None:  # now that there is a token to renew
                self._renewal = asyncio.create_task(self._keep_renewed())

    async def _keep_renewed(self) -> None:
        """Renew the token also while nobody signs, so that the next one who does need not wait."""
        loop = asyncio.get_running_loop()
        while True:
            due = self._session.renewal_in()
            await asyncio.sleep(_LOOK_AGAIN if due is None else min(max(due, 0.1), _LOOK_AGAIN))
            if self._session.renewal_in() == 0:
                with contextlib.suppress(TrustfedError, Refusal):  # whoever signs next is told
                    await loop.run_in_executor(self._threads, self._with_client, self._session.token)

    def _with_client(self, call: Callable[[hvac.Client], _Answer]) -> _Answer:
        client = self._clients.get()
        try:
            return call(client)
        finally:
            self._clients.put(client)

    def _ask(self, client: hvac.Client, request: Callable[[Any], Any], *, repeatable: bool = True) -> dict[str, Any]:
        """Make a request to the transit engine under our token; with a new token once, should the old be refused."""
        for last in (False, True):
            token = client.token = self._session.token(client)
            try:
                answer: dict[str, Any] = self._server.ask(
                    client, lambda client: request(client.secrets.transit), repeatable=repeatable
                )
                return answer
            except Refusal as refusal:
                if refusal.status == 404 and any("no handler" in reason for reason in refusal.reasons):
                    raise Unavailable(
                        f"Vault has no transit engine at {self._mount}/",
                        hint=f"bao secrets enable -path={self._mount} transit, or correct the mount",
                    ) from None
                if refusal.status not in (401, 403):
                    raise
                if not self._session.refused(token) or last:
                    raise Denied(
                        f"Vault denied us the use of {self._mount}/ ({refusal})",
                        hint="the token has ended, or its policy lacks create, read, update, delete on "
                        f"{self._mount}/keys/{self._prefix}* and update on {self._mount}/sign/{self._prefix}*",
                    ) from None
        raise AssertionError("unreachable")

    def _create(self, name: str, kind: str, client: hvac.Client) -> PublicKey:
        conflict = Conflict(f"key {name} exists already in Vault", hint="choose another name, or destroy it first")
        with contextlib.suppress(NotFound):
            self._about(name, client)
            raise conflict
        path = self._prefix + name
        answer = self._refused_as_denied(
            lambda: self._ask(
                client,
                lambda transit: transit.create_key(
                    path,
                    key_type=_TYPES[kind],
                    exportable=False,
                    allow_plaintext_backup=False,
                    mount_point=self._mount,
                ),
                repeatable=False,
            ),
            f"refused to make key {name}",
        )
        if any("already existed" in str(warning) for warning in answer.get("warnings") or ()):
            raise conflict  # Vault tells so, OpenBao does not
        return self._read(name, client)

    def _read(self, name: str, client: hvac.Client) -> PublicKey:
        about = self._about(name, client)
        if about.get("exportable") is not False or about.get("allow_plaintext_backup") is not False:
            raise Denied(f"key {name} in Vault can be exported", hint="let trustfed make the key itself")
        key = _public_key(about)
        if key is None:
            raise Denied(f"key {name} in Vault is no ecdsa-p256 key", hint="let trustfed make the key itself")
        return self._public.setdefault(name, key)

    def _about(self, name: str, client: hvac.Client) -> dict[str, Any]:
        path = self._prefix + name
        try:
            answer = self._ask(client, lambda transit: transit.read_key(path, mount_point=self._mount))
        except Refusal as refusal:
            if refusal.status == 404:
                self._public.pop(name, None)
                raise NotFound(
                    f"key {name} does not exist in Vault", hint=f"it would be {self._mount}/{path}"
                ) from None
            raise Denied(f"Vault refused to show key {name} ({refusal})") from None
        about = answer.get("data")
        return about if isinstance(about, dict) else {}

    def _sign(self, name: str, messages: Sequence[bytes], client: hvac.Client) -> list[bytes]:
        public = self._public.get(name) or self._read(name, client)
        if not messages:
            return []
        if isinstance(public, Ed25519PublicKey):
            check_notes(messages)
            inputs, how = list(messages), {}
        else:
            inputs, how = digests_of(messages), _PREHASHED
        try:
            answer = self._ask(
                client,
                lambda transit: transit.sign_data(
                    self._prefix + name,
                    batch_input=[{"input": base64.b64encode(each).decode()} for each in inputs],
                    key_version=VERSION,
                    mount_point=self._mount,
                    **how,
                ),
            )
        except Refusal as refusal:
            self._about(name, client)  # raises NotFound if that is why
            raise Denied(f"Vault refused to sign with key {name} ({refusal})") from None
        return _verified(name, public, inputs, answer)

    def _destroy(self, name: str, client: hvac.Client) -> None:
        path = self._prefix + name
        try:
            self._about(name, client)
        except NotFound:
            return
        self._refused_as_denied(
            lambda: self._ask(
                client,
                lambda transit: transit.update_key_configuration(path, deletion_allowed=True, mount_point=self._mount),
            ),
            f"refused to allow the deletion of key {name}",
        )
        try:
            self._ask(client, lambda transit: transit.delete_key(path, mount_point=self._mount))
        except Refusal as refusal:
            if not any("not found" in reason for reason in refusal.reasons):
                raise Denied(f"Vault refused to delete key {name} ({refusal})") from None
        finally:
            self._public.pop(name, None)

    def _refused_as_denied(self, call: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
        try:
            return call()
        except Refusal as refusal:
            raise Denied(f"Vault {what} ({refusal})", hint="look at Vault's audit log") from None


def _public_key(about: dict[str, Any]) -> PublicKey | None:
    """The public half that Vault shows: PEM of a P-256 key, base64 of an Ed25519 one; None for any other."""
    try:
        text = about["keys"][str(VERSION)]["public_key"].encode()
        if about.get("type") == _TYPES[ED25519]:
            return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
        key = load_pem_public_key(text)
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else None


def _verified(name: str, public: PublicKey, inputs: list[bytes], answer: dict[str, Any]) -> list[bytes]:
    """Return the signatures of an answer once each of them verifies; else raise Denied."""
    wrong = Denied(
        f"Vault's answer does not verify under key {name}: nothing of it is used",
        hint="was the key made anew in Vault? If not, somebody between us and Vault changes answers",
    )
    data = answer.get("data")
    results = data.get("batch_results") if isinstance(data, dict) else None
    if not isinstance(results, list) or len(results) != len(inputs):
        raise wrong
    signatures = []
    for number, (each, result) in enumerate(zip(inputs, results, strict=True)):
        text = result.get("signature") if isinstance(result, dict) else None
        if not isinstance(text, str) or not text.startswith(f"vault:v{VERSION}:"):
            raise wrong
        try:
            signature = base64.b64decode(text.split(":", 2)[2], validate=True)
            if isinstance(public, Ed25519PublicKey):
                public.verify(signature, each)
            else:
                public.verify(signature, each, SCHEME)
        except (binascii.Error, InvalidSignature, ValueError):
            raise wrong from None
        signatures.append(signature)
        if number % _VERIFIED_AT_ONCE == 0:
            time.sleep(0)  # lets go of the interpreter's lock
    return signatures
