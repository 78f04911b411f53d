"""Sealing: what is kept of a patient's data is readable only with that patient's key.

Sealed bytes are a mark, a random nonce, the ciphertext and its tag. Rows that earlier releases wrote carry no mark and
are passed through as they are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from oncotwin.domain.errors import ErasedError, EventError, StoreError
from oncotwin.domain.ids import TwinId, split_twin_id
from oncotwin.ports.key_store import INSTALLATION, KeyStore

MARK = b"\x00sealed1"
"""Begins sealed bytes; no JSON, event or state begins with a NUL."""
TEXT_MARK = "\u2063sealed1:"
"""Begins sealed text, before its base64; an invisible sign that no message of a release begins with."""

_NONCE_BYTES = 12
_MAX_CACHED = 200_000


class PatientSealer:
    """Seals for one patient, for as long as one piece of work: it does not ask again whether the key still is.

    Source:
        RFC 5869, section 2.3: the keys of cipher and commitment are told apart, with one block each.
    """

    __slots__ = ("_cipher", "_commitment_key", "_name", "key")

    def __init__(self, twin_id: TwinId, key: bytes) -> None:
        self.key = key
        self._name = twin_id.encode()
        self._cipher = AESGCM(_derived(key, b"oncotwin seal"))
        self._commitment_key = _derived(key, b"oncotwin commitment")

    def seal(self, data: bytes) -> bytes:
        """Sealed data."""
        nonce = os.urandom(_NONCE_BYTES)
        return MARK + nonce + self._cipher.encrypt(nonce, data, self._name)

    def seal_text(self, text: str) -> str:
        """Sealed text."""
        return TEXT_MARK + base64.b64encode(self.seal(text.encode())).decode("ascii")

    def unseal(self, data: bytes) -> bytes:
        """What was sealed.

        Raises:
            InvalidTag, ValueError: it was altered, or is another's.
        """
        begin = len(MARK) + _NONCE_BYTES
        return self._cipher.decrypt(data[len(MARK) : begin], data[begin:], self._name)

    def commitment(self, data: bytes) -> bytes:
        """Keyed commitment."""
        return hmac.digest(self._commitment_key, data, "sha256")


class Sealer:
    """Seals under the keys of a key store; usable from any number of threads.

    Source:
        NIST SP 800-38D (AES-GCM; random 96-bit nonces serve for 2^32 seals under one key); RFC 2104 (HMAC).
    """

    seals = True
    """Whether what is sealed differs from what was given."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._patients: dict[TwinId, PatientSealer] = {}

    def seal(self, twin_id: TwinId, data: bytes) -> bytes:
        """Data that only this patient's key opens; "" is the installation.

        Raises:
            ErasedError: the key was destroyed. StoreError: the key store does not answer.
        """
        return self.of(twin_id).seal(data)

    def unseal(self, twin_id: TwinId, data: bytes) -> bytes:
        """The data again; what is not sealed is given back as it is.

        Raises:
            ErasedError: the key was destroyed. StoreError: altered, another patient's, or of another key store.
        """
        if not is_sealed(data):
            return data
        try:
            return self.of(twin_id, make=False).unseal(data)
        except (InvalidTag, ValueError):
            raise StoreError(
                f"sealed data of {twin_id or 'the installation'!r} does not open: it was altered, moved from another "
                "patient's row, or sealed with another key store; restore it from a backup"
            ) from None

    def seal_text(self, twin_id: TwinId, text: str) -> str:
        """As `seal`, for a column of text."""
        return self.of(twin_id).seal_text(text)

    def unseal_text(self, twin_id: TwinId, text: str) -> str:
        """As `unseal`, for a column of text."""
        if not text.startswith(TEXT_MARK):
            return text
        try:
            data = base64.b64decode(text[len(TEXT_MARK) :], validate=True)
        except (binascii.Error, ValueError):
            data = b""
        return self.unseal(twin_id, data if is_sealed(data) else MARK).decode()

    def commitment(self, twin_id: TwinId, data: bytes) -> bytes:
        """32 bytes that bind to the data and, unlike a plain hash, do not let it be guessed without the key.

        Raises:
            ErasedError: the key was destroyed.
        """
        return self.of(twin_id).commitment(data)

    def committer(self, twin_id: TwinId) -> Callable[[bytes], bytes]:
        """Makes commitments under one patient's key, which is asked for once.

        Raises:
            ErasedError: the key was destroyed.
        """
        return self.of(twin_id).commitment

    def prepare(self, twin_ids: Iterable[TwinId]) -> None:
        """Fetch the keys of many patients in one go, making those that are missing."""
        self._keys.keys(twin_ids)

    def erased(self, twin_id: TwinId) -> bool:
        """Whether this patient's key was destroyed."""
        return twin_id in self._keys.destroyed()

    def close(self) -> None:
        """Close the key store and forget what was derived from its keys."""
        self._patients.clear()
        self._keys.close()

    def of(self, twin_id: TwinId, *, make: bool = True) -> PatientSealer:
        """What seals for one patient; the key store is asked every time, as it knows which keys were destroyed.

        Args:
            make: make the key where there is none yet.
        Raises:
            ErasedError: the key was destroyed. StoreError: there is none and none was to be made.
        """
        try:
            key = self._keys.key(twin_id, make=make)
        except ErasedError:
            self._patients.pop(twin_id, None)
            raise
        found = self._patients.get(twin_id)
        if found is None or found.key is not key:
            if len(self._patients) >= _MAX_CACHED:
                self._patients.clear()
            found = self._patients[twin_id] = PatientSealer(twin_id, key)
        return found


class PlainSealer(Sealer):
    """Keeps data as it is: for stores opened without keys. What was sealed stays closed to it."""

    seals = False

    def __init__(self) -> None:
        """Needs no key store."""

    def seal(self, twin_id: TwinId, data: bytes) -> bytes:
        """The data."""
        del twin_id
        return data

    def unseal(self, twin_id: TwinId, data: bytes) -> bytes:
        """The data.

        Raises:
            StoreError: it is sealed.
        """
        if is_sealed(data):
            raise StoreError(
                f"data of {twin_id or 'the installation'!r} is sealed, and the store was opened without keys; open it "
                "with the key store of its installation"
            )
        return data

    def seal_text(self, twin_id: TwinId, text: str) -> str:
        """The text."""
        del twin_id
        return text

    def commitment(self, twin_id: TwinId, data: bytes) -> bytes:
        """A hash that anybody can compute."""
        return hashlib.sha256(twin_id.encode() + b"\x00" + data).digest()

    def committer(self, twin_id: TwinId) -> Callable[[bytes], bytes]:
        """Makes hashes."""
        return lambda data: self.commitment(twin_id, data)

    def prepare(self, twin_ids: Iterable[TwinId]) -> None:
        """Nothing to fetch."""

    def erased(self, twin_id: TwinId) -> bool:
        """Without keys nobody is erased."""
        del twin_id
        return False

    def close(self) -> None:
        """Nothing to close."""


@lru_cache(maxsize=65_536)
def owner(name: str) -> TwinId:
    """Under whose key something of this name is kept: the patient's, or the installation's where it names none."""
    try:
        split_twin_id(name)
    except EventError:
        return INSTALLATION
    return name


def is_sealed(data: bytes) -> bool:
    """Whether bytes carry the mark of sealed ones."""
    return data[: len(MARK)] == MARK


def _derived(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose + b"\x01", "sha256")
