"""Keys of a simulated installation: they outlive its processes and are nobody's file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime

from oncotwin.domain.errors import ErasedError, StoreError
from oncotwin.domain.ids import TwinId


class MemoryKeys:
    """Meets `oncotwin.ports.key_store.KeyStore`."""

    def __init__(self) -> None:
        self._keys: dict[TwinId, bytes] = {}
        self._destroyed: dict[TwinId, datetime] = {}

    def key(self, twin_id: TwinId, *, make: bool = True) -> bytes:
        """A patient's key."""
        if twin_id in self._destroyed:
            raise ErasedError(f"the key of {twin_id} was destroyed")
        if twin_id not in self._keys:
            if not make:
                raise StoreError(f"there is no key of {twin_id}")
            self._keys[twin_id] = hashlib.sha256(f"key of {twin_id}".encode()).digest()
        return self._keys[twin_id]

    def keys(self, twin_ids: Iterable[TwinId]) -> dict[TwinId, bytes]:
        """Keys of many patients."""
        return {twin_id: self.key(twin_id) for twin_id in twin_ids if twin_id not in self._destroyed}

    def destroy(self, twin_id: TwinId, at: datetime, reason: str) -> bool:
        """Forget a patient's key for ever."""
        del reason
        fresh = twin_id not in self._destroyed
        self._keys.pop(twin_id, None)
        self._destroyed.setdefault(twin_id, at)
        return fresh

    def destroyed(self) -> Mapping[TwinId, datetime]:
        """Patients whose keys were destroyed."""
        return dict(self._destroyed)

    def close(self) -> None:
        """Nothing is held."""
