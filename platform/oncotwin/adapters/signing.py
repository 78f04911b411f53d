"""Ed25519 keys of institutions: our own, made at first use, and those of others that we trust.

A folder beside the store's keys, never in the store or its backups:

    signing/<institution>.pem           private key, readable by its owner alone
    trusted/<institution>/<key>.pem     public keys, of others and of our own past

Source: Josefsson, Liusvaara 2017, Edwards-Curve Digital Signature Algorithm, RFC 8032.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from oncotwin.domain.audit import AuditError, is_chain


class SigningKeys:
    """See `Signer`; the keys under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sign(self, institution: str, message: bytes) -> bytes:
        """Sign under an institution's own key, which is made where there is none yet."""
        return self._private(institution).sign(message)

    def own(self, institution: str) -> bytes:
        """Our own public key (32 bytes) of an institution, which is made where there is none yet."""
        return _raw(self._private(institution).public_key())

    def owned(self) -> dict[str, bytes]:
        """Institutions that we sign for, with their public keys."""
        paths = sorted((self._folder / "signing").glob("*.pem"))
        return {path.stem: self.own(path.stem) for path in paths if is_chain(path.stem)}

    def trusted(self) -> dict[str, frozenset[bytes]]:
        """Public keys whose checkpoints are believed, by institution: our own, and those that were imported."""
        found: dict[str, set[bytes]] = {name: {key} for name, key in self.owned().items()}
        for path in sorted((self._folder / "trusted").glob("*/*.pem")):
            if is_chain(path.parent.name):
                found.setdefault(path.parent.name, set()).add(_raw(_read_public(path.read_bytes(), str(path))))
        return {name: frozenset(keys) for name, keys in found.items()}

    def trust(self, institution: str, pem: bytes) -> bytes:
        """Believe what is signed with a public key (PEM) in an institution's name from now on; returns the key.

        Raises:
            AuditError: no name of an institution, or no Ed25519 public key.
        """
        _check(institution)
        public = _read_public(pem, f"the key of {institution}")
        path = self._folder / "trusted" / institution / f"{_raw(public).hex()}.pem"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(_pem(public))
        return _raw(public)

    def export(self, institution: str) -> bytes:
        """Our own public key of an institution as PEM, for others to trust."""
        return _pem(self._private(institution).public_key())

    @staticmethod
    def verify(key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether a signature over a message is that of a public key."""
        return verify_signature(key, message, signature)

    def _private(self, institution: str) -> Ed25519PrivateKey:
        _check(institution)
        path = self._folder / "signing" / f"{institution}.pem"
        if not path.exists():
            _write_once(
                path,
                Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            )
        return _read_private(path, path.stat().st_mtime_ns)


def verify_signature(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature (64 bytes) over a message is that of a public key (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _check(institution: str) -> None:
    if not is_chain(institution):
        raise AuditError(f"{institution!r} is no institution's name; it becomes a file's name")


def _write_once(path: Path, content: bytes) -> None:
    """Write a private file that other processes see whole or not at all; the first of several writers wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            return
    finally:
        fresh.unlink()


@lru_cache(maxsize=64)
def _read_private(path: Path, changed_ns: int) -> Ed25519PrivateKey:
    """A private key's file; `changed_ns` makes a replaced file be read anew."""
    del changed_ns
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise AuditError(
            f"signing key {path} cannot be read ({error}); restore it, or remove it, and a new one is made"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise AuditError(f"signing key {path} is no Ed25519 key; remove it, and a new one is made")
    return key


def _read_public(pem: bytes, where: str) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise AuditError(f"{where} cannot be read ({error}); give a public key as PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise AuditError(f"{where} is no Ed25519 key")
    return key


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
