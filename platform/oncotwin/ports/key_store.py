"""The key store: one secret key a patient, and the one place where a patient's data can be made unreadable for ever.

Everything that the platform keeps of a payload is sealed under its patient's key. The keys live apart from the store,
the log and their backups, so that destroying one key makes every copy of that patient's data unreadable, wherever the
copies lie. A destroyed key leaves a record that it was destroyed, and that record is the truth of erasure: it outlives
the restore of a store that knows nothing of it yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol

from oncotwin.domain.ids import TwinId

KEY_BYTES = 32
"""Length of a key, in bytes."""

INSTALLATION: TwinId = ""
"""Whose key seals what belongs to no patient; it cannot be destroyed."""

FORGET_S = 2.0
"""Longest time, in seconds, that another process may go on using a key after it was destroyed."""


class KeyStore(Protocol):
    """Keys by patient; usable from any number of threads and processes."""

    def key(self, twin_id: TwinId, *, make: bool = True) -> bytes:
        """A patient's key of `KEY_BYTES` bytes; several processes that ask first at once are given the same one.

        Args:
            twin_id: the patient, or `INSTALLATION`.
            make: make the key where there is none yet; what reads sealed data has no use for a new one.
        Raises:
            ErasedError: it was destroyed. StoreError: there is none and none was to be made, or the store of keys does
                not answer.
        """
        ...

    def keys(self, twin_ids: Iterable[TwinId]) -> dict[TwinId, bytes]:
        """Keys of many patients at the cost of one, made where they are missing; destroyed ones are left out."""
        ...

    def destroy(self, twin_id: TwinId, at: datetime, reason: str) -> bool:
        """Overwrite a patient's key for ever and keep a record that it was destroyed, also where there was none yet.

        When this returns, no file of the key store holds the key; other processes forget it within `FORGET_S`.

        Args:
            at: when, aware; reason: why, in words that name nobody.
        Returns:
            Whether this call destroyed it; False where it had been destroyed already.
        Raises:
            ConfigurationError: the installation's own key.
        """
        ...

    def destroyed(self) -> Mapping[TwinId, datetime]:
        """Patients whose keys were destroyed, and when."""
        ...

    def close(self) -> None:
        """Release connections and forget keys; closing twice is harmless."""
        ...
