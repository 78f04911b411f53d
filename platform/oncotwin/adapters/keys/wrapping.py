"""Keys as they lie in the key store: as they are, or wrapped under a master key that lies elsewhere."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from oncotwin.domain.errors import ConfigurationError, StoreError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.key_store import KEY_BYTES

_NONCE_BYTES = 12


class Wrapping(Protocol):
    """How a key is kept."""

    @property
    def name(self) -> str:
        """Tells rows of one master from those of another; "" for keys kept as they are."""
        ...

    def wrap(self, twin_id: TwinId, key: bytes) -> bytes:
        """What is kept of a key."""
        ...

    def unwrap(self, twin_id: TwinId, kept: bytes) -> bytes:
        """The key again."""
        ...


@dataclass(frozen=True)
class Bare:
    """Keys are kept as they are; the file's mode or the database's accounts protect them."""

    name: str = ""

    def wrap(self, twin_id: TwinId, key: bytes) -> bytes:
        """The key itself."""
        del twin_id
        return key

    def unwrap(self, twin_id: TwinId, kept: bytes) -> bytes:
        """The key itself."""
        del twin_id
        return kept


class Mastered:
    """Keys are kept under AES-256-GCM with a master key; a row is bound to its patient.

    Source:
        NIST SP 800-38D (AES-GCM); random 96-bit nonces serve for 2^32 keys under one master.
    """

    def __init__(self, master: bytes) -> None:
        self._cipher = AESGCM(master)
        # Names the master without giving it away: 8 of the 32 bytes of a hash of 32 random bytes.
        self.name = hashlib.sha256(b"oncotwin master key" + master).hexdigest()[:16]

    def wrap(self, twin_id: TwinId, key: bytes) -> bytes:
        """Nonce and sealed key."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, twin_id.encode())

    def unwrap(self, twin_id: TwinId, kept: bytes) -> bytes:
        """The key again.

        Raises:
            StoreError: the row was altered.
        """
        try:
            return self._cipher.decrypt(kept[:_NONCE_BYTES], kept[_NONCE_BYTES:], twin_id.encode())
        except InvalidTag:
            raise StoreError(
                f"key of {twin_id or 'the installation'!r}: its row in the key store was altered; restore the key "
                "store from a copy of its own"
            ) from None


def read_master(path: str | Path | None) -> Wrapping:
    """The wrapping under the master key in a file of exactly `KEY_BYTES` bytes; none for no path.

    Raises:
        ConfigurationError: no such file, or one of another length.
    """
    if not path:
        return Bare()
    try:
        master = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"keys_master {path} cannot be read ({error.strerror}); see docs/configuration.md"
        ) from error
    if len(master) != KEY_BYTES:
        raise ConfigurationError(
            f"keys_master {path} holds {len(master)} bytes; write {KEY_BYTES} random ones: "
            f"`head -c {KEY_BYTES} /dev/urandom > {path}`"
        )
    return Mastered(master)
