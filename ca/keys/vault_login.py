"""How we are known to Vault: a token from a file, or an AppRole login; renewed before it ends. Blocking."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import hvac

from ca.keys.private_files import read_secret
from ca.keys.vault_client import Refusal, VaultServer
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable


@dataclass(frozen=True)
class Lease:
    """A token and, on our monotonic clock in seconds, when to renew it and when it ends."""

    token: str = field(repr=False)
    renewable: bool
    renew_at: float
    ends_at: float


class Login(Protocol):
    """A way to get a token."""

    def changed(self) -> bool:
        """Tell whether what `obtain` would read is other than the last time."""
        ...

    def obtain(self, server: VaultServer, client: hvac.Client, now: float) -> Lease:
        """Return a token to use from now on. Raises Denied, Invalid, Unavailable."""
        ...


class TokenFile:
    """A token that somebody else puts into a file (Vault Agent, an operator): read again whenever the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """See Login."""
        return self._stamp() != self._seen

    def obtain(self, server: VaultServer, client: hvac.Client, now: float) -> Lease:
        """See Login."""
        self._seen = self._stamp()
        token = _ascii(read_secret(self._path, "Vault token file"), self._path)
        client.token = token
        try:
            about = server.ask(client, lambda client: client.auth.token.lookup_self()).get("data") or {}
        except Refusal:
            # A token may lack the right to look itself up. If it is bad, the request to come will tell.
            return Lease(token, False, math.inf, math.inf)
        ttl = _seconds(about.get("ttl"))
        if ttl == 0 and not about.get("creation_ttl"):
            return Lease(token, False, math.inf, math.inf)  # a token without an end
        return _lease(token, about.get("renewable") is True, ttl, now)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class AppRole:
    """A login with a role id and a secret id, each in a file; made anew whenever the token cannot be renewed."""

    role_id_file: Path
    secret_id_file: Path
    mount: str = "approle"

    def changed(self) -> bool:
        """See Login: a new secret id is for the next login, the token at hand stays good."""
        return False

    def obtain(self, server: VaultServer, client: hvac.Client, now: float) -> Lease:
        """See Login."""
        role = _ascii(read_secret(self.role_id_file, "AppRole role id file"), self.role_id_file)
        secret = _ascii(read_secret(self.secret_id_file, "AppRole secret id file"), self.secret_id_file)
        client.token = ""
        try:
            # Not repeated: a secret id may be good for a limited number of logins.
            answer = server.ask(
                client, lambda client: client.auth.approle.login(role, secret, mount_point=self.mount), repeatable=False
            )
        except Refusal as refusal:
            raise Denied(
                f"Vault refused the AppRole login at auth/{self.mount} ({refusal})",
                hint=f"write a fresh secret id into {self.secret_id_file}",
            ) from None
        auth = answer.get("auth") or {}
        return _lease(_token_in(auth), auth.get("renewable") is True, _seconds(auth.get("lease_duration")), now)


class VaultSession:
    """The token of this process, shared by its threads."""

    def __init__(self, server: VaultServer, login: Login, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()
        self._lease: Lease | None = None

    def token(self, client: hvac.Client) -> str:
        """Return a token that is good now, logging in or renewing when it is time."""
        with self._lock:
            now = self._clock()
            lease = self._lease
            if lease is None or now >= lease.ends_at or self._login.changed():
                lease = self._lease = self._login.obtain(self._server, client, now)
            elif now >= lease.renew_at:
                lease = self._lease = self._renewed(lease, client, now)
            return lease.token

    def refused(self, token: str) -> bool:
        """Take back a token that Vault refused; tell whether another one is worth a try."""
        with self._lock:
            if self._lease is not None and self._lease.token != token:
                return True  # another thread has got a new one already
            self._lease = None
            return isinstance(self._login, AppRole) or self._login.changed()

    def renewal_in(self) -> float | None:
        """Return the seconds until the token wants renewal, 0 when it does now; None without a token or a need."""
        lease = self._lease  # without the lock: it is held while Vault is asked, and the event loop calls this
        if lease is None or math.isinf(lease.renew_at):
            return None
        return max(lease.renew_at - self._clock(), 0.0)

    def _renewed(self, lease: Lease, client: hvac.Client, now: float) -> Lease:
        client.token = lease.token
        if lease.renewable:
            with contextlib.suppress(Refusal, TrustfedError):
                answer = self._server.ask(client, lambda client: client.auth.token.renew_self(), repeatable=False)
                auth = answer.get("auth") or {}
                renewed = _lease(
                    _token_in(auth), auth.get("renewable") is True, _seconds(auth.get("lease_duration")), now
                )
                # At the token's maximum lifetime a renewal succeeds, but gains nothing.
                if renewed.ends_at - lease.ends_at > 0.2 * (lease.ends_at - now):
                    return renewed
        if isinstance(self._login, AppRole):
            with contextlib.suppress(TrustfedError):
                return self._login.obtain(self._server, client, now)
        # Neither worked: the old token is good until its end, and is tried again when half of the rest is gone.
        return Lease(lease.token, lease.renewable, now + max((lease.ends_at - now) / 2, 1.0), lease.ends_at)


def _lease(token: str, renewable: bool, ttl: float, now: float) -> Lease:
    return Lease(token, renewable, now + ttl / 2, now + ttl)


def _token_in(auth: Mapping[str, Any]) -> str:
    token = auth.get("client_token")
    if not isinstance(token, str) or not token:
        raise Unavailable("Vault's answer to the login holds no token", hint="is this a Vault?")
    return token


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise Unavailable("Vault's answer holds no lifetime of the token", hint="is this a Vault?")
    return float(value)


def _ascii(secret: str, path: Path) -> str:
    if not secret.isascii():
        raise Invalid(f"{path} holds other than ASCII characters", hint="write the token or id alone into it")
    return secret
