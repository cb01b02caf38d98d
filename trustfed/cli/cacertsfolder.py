"""The four files of a plugged-in CA in one folder: changed together or not at all, and never into what istiod would refuse.

What istiod checks (istio/security/pkg/pki/util/keycertbundle.go, pilot/pkg/bootstrap/istio_ca.go at 1.29), checked here first:

 1. all four files are there  2. the key is ca-cert's  3. ca-cert is a CA's and valid  4. it verifies to root-cert
 5. a changed root-cert holds the old one byte for byte, or is held by it

The folder is what Kubernetes makes of a mounted secret: `..data` points to the present generation, and one rename moves it,
so that a reader never sees the certificate of one CA beside the key of another. `.next` keeps the key that is to follow.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.runtime.files import private_directory, read_bounded, read_private, write_atomic

NAMES = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")
MAX_FILE = 1 << 20
_DATA, _NEXT, _CUT = "..data", ".next", ".cut"


@dataclass(frozen=True)
class Plugin:
    """The content of the four files, in PEM."""

    certificate: bytes
    key: bytes
    chain: bytes
    roots: bytes

    @property
    def files(self) -> tuple[bytes, ...]:
        return (self.certificate, self.key, self.chain, self.roots)


def blocks(pem: bytes) -> list[bytes]:
    """Each certificate of a PEM text, in the one spelling of ours."""
    try:
        return [one.public_bytes(Encoding.PEM) for one in x509.load_pem_x509_certificates(pem)] if pem.strip() else []
    except ValueError:
        raise Invalid("root-cert.pem or cert-chain.pem holds something else than certificates") from None


def next_roots(held: list[bytes], wanted: list[bytes]) -> list[bytes]:
    """The next content of root-cert.pem on the way from `held` to `wanted` that istiod accepts; `held` itself at the end.

    What is new is appended first; what is gone is cut off afterwards. Where something in the middle is to go, all that stays
    is repeated at the end first, so that the rest can be cut off the front.
    """
    if not held:
        return wanted
    if new := [one for one in wanted if one not in held]:
        return held + new
    stays = set(wanted)
    runs = [
        held[begin:end]
        for begin in range(len(held))
        for end in range(begin + len(stays), len(held) + 1)
        if set(held[begin:end]) == stays
    ]
    return min(runs, key=len) if runs else held + wanted


def check(files: Plugin, before: bytes, now: datetime) -> None:
    """Raise Invalid or Conflict for what istiod would refuse; `before` is the root-cert.pem that it holds, b"" for none."""
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate)
        key = load_pem_private_key(files.key, None)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        raise Invalid("ca-cert.pem or ca-key.pem is malformed, or the certificate is no CA's") from None
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki):  # 2
        raise Conflict("ca-key.pem is not the key of ca-cert.pem", hint="restore both from one backup")
    if not constraints.ca:  # 3
        raise Invalid("ca-cert.pem is no CA's certificate")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise Invalid(f"ca-cert.pem is valid until {certificate.not_valid_after_utc}", hint="trustfed cacerts begin")
    chain, roots = (x509.load_pem_x509_certificates(pem) if pem.strip() else [] for pem in (files.chain, files.roots))
    if not _anchored(certificate, chain, roots):  # 4
        raise Invalid("ca-cert.pem does not verify to root-cert.pem", hint="root-cert.pem must hold its anchor")
    if before and before not in files.roots and files.roots not in before:  # 5
        raise Conflict(
            "istiod would refuse this root-cert.pem: it neither holds the old one nor is held by it",
            hint="append first, cut off afterwards: trustfed cacerts advance does both in turn",
        )


def _anchored(certificate: x509.Certificate, chain: list[x509.Certificate], roots: list[x509.Certificate]) -> bool:
    if any(certificate == root or _issued(certificate, root) for root in roots):
        return True
    others = [one for one in chain if one != certificate]
    return any(_issued(certificate, one) and _anchored(one, others, roots) for one in others)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


class Folder:
    """One folder of a plugged-in CA, 0700."""

    def __init__(self, path: Path) -> None:
        self.path = private_directory(path)

    def present(self) -> Plugin | None:
        """What is exported now; None before the first export. Raises Invalid for a folder that lacks a file."""
        found = [self.path / name for name in NAMES]
        if not any(file.exists() for file in found):  # links that lead nowhere: a first export was interrupted
            return None
        try:
            return Plugin(*(read_bounded(file, MAX_FILE) for file in found))
        except NotFound:
            raise Invalid(
                f"{self.path} lacks one of {', '.join(NAMES)}", hint="restore it, or name another folder"
            ) from None

    def turns(self, roots: bytes) -> bool:
        """Whether to write these roots goes the other way than the last change did: from appending to cutting, or back.

        Of two changes one way an istiod that was slow may miss the first; of a turn it must not.
        """
        present = self.present()
        if present is None or present.roots == roots:
            return False
        return (len(roots) < len(present.roots)) != (self.path / _CUT).exists()

    def age(self) -> float:
        """Seconds since the last change, by the machine's clock."""
        try:
            return max(time.time() - (self.path / _DATA).lstat().st_mtime, 0.0)
        except OSError:
            return float("inf")

    def following(self) -> tuple[bytes, bytes] | None:
        """(certificate, key) in PEM of the CA that is to follow, None if there is none."""
        folder = self.path / _NEXT
        try:
            return read_bounded(folder / NAMES[0], MAX_FILE), read_private(folder / NAMES[1], MAX_FILE)
        except NotFound:
            return None

    def keep_following(self, certificate: bytes, key: bytes) -> None:
        """Keep a new key until its turn. The key is durable before anybody is told of it."""
        folder = private_directory(self.path / _NEXT)
        write_atomic(folder / NAMES[1], key)
        write_atomic(folder / NAMES[0], certificate)

    def forget_following(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path / _NEXT, ignore_errors=True)

    def write(self, files: Plugin, now: datetime) -> None:
        """Change all four at once, after `check`. Interrupted at any moment, the old ones or the new ones are there."""
        before = self.present()
        check(files, before.roots if before else b"", now)
        if before == files:
            return
        generation = f"..{secrets.token_hex(8)}"
        folder = private_directory(self.path / generation)
        for name, content in zip(NAMES, files.files, strict=True):
            write_atomic(folder / name, content)
        # Where nothing is yet the links come first: then this one rename makes all four appear.
        order = [_DATA, *NAMES] if before else [*NAMES, _DATA]
        for name in order:
            self._point(name, generation if name == _DATA else f"{_DATA}/{name}")
        if before and len(files.roots) < len(before.roots):
            (self.path / _CUT).touch(0o600)
        elif before and files.roots != before.roots:
            (self.path / _CUT).unlink(missing_ok=True)
        self._sync()
        for old in self.path.glob("..*"):  # of earlier calls, also of one that was interrupted: they hold keys
            if not old.is_symlink() and old.name not in ("..", generation) and old.is_dir():
                shutil.rmtree(old, ignore_errors=True)

    def _point(self, name: str, target: str) -> None:
        link = self.path / name
        if link.is_symlink() and str(link.readlink()) == target:
            return
        temporary = self.path / f".{name}.{secrets.token_hex(8)}"
        try:
            temporary.symlink_to(target)
            temporary.rename(link)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _sync(self) -> None:
        file = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
