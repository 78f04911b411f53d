"""The audit trail as it is kept: one hash chain for each institution, and the checkpoints that are held of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from oncotwin.domain.audit import AuditDraft, AuditEntry, Head
from oncotwin.domain.audit_verify import StoredCheckpoint, StoredEntry
from oncotwin.domain.checkpoint import Checkpoint, SignedCheckpoint
from oncotwin.domain.ids import TwinId
from oncotwin.domain.merkle import Frontier

Sign = Callable[[Head, Frontier], SignedCheckpoint]
"""Signs a chain as it stands: its end, and its Merkle tree."""


class AuditTrail(Protocol):
    """Entries are only ever added; commits add theirs themselves, in their own transaction."""

    def append(self, drafts: Sequence[AuditDraft], at: datetime) -> None:
        """Add what happened outside a commit, in one transaction.

        Raises:
            StoreError: the database failed; nothing was added.
        """
        ...

    def commitment(self, twin_id: TwinId, data: bytes) -> bytes:
        """Keyed commitment under a patient's key; empty where that key was destroyed."""
        ...

    def institutions(self) -> list[str]:
        """Names of the chains."""
        ...

    def head(self, institution: str) -> Head:
        """Where a chain ends."""
        ...

    def rows(self, institution: str) -> Generator[StoredEntry, None, None]:
        """A chain's rows as they lie there, by seq, whatever is wrong with them; read as of one moment."""
        ...

    def hashes(self, institution: str, begin: int, end: int) -> Iterator[bytes]:
        """Hashes of the entries begin + 1 to end, by seq."""
        ...

    def entry(self, institution: str, seq: int) -> AuditEntry | None:
        """One entry; None where there is none."""
        ...

    def latest(self, institution: str, n: int) -> list[AuditEntry]:
        """The last entries of a chain, oldest first."""
        ...

    def find(self, name: str) -> list[AuditEntry]:
        """Entries whose `ref` is a name, or ends with it after a blank, as an event's id does after its source."""
        ...

    def checkpoints(self, institution: str | None = None) -> list[StoredCheckpoint]:
        """Checkpoints held in the store, ours and others', by institution and size, as they lie there."""
        ...

    def make_checkpoint(
        self, institution: str, at: datetime, sign: Sign, start: Checkpoint | None
    ) -> SignedCheckpoint | None:
        """Sign a chain as it stands and record that as its next entry, in one transaction.

        Args:
            start: a believed checkpoint of this chain to go on from; None hashes the whole chain.
        Returns:
            None where nothing happened since the last one.
        Raises:
            AuditError: the chain does not begin with what `start` says; nothing is signed.
        """
        ...

    def keep_checkpoints(self, checkpoints: Sequence[SignedCheckpoint]) -> int:
        """Hold checkpoints that came from elsewhere; returns how many were new."""
        ...


class Signer(Protocol):
    """The institutions' keys."""

    def own(self, institution: str) -> bytes:
        """Our own public key of an institution, made where there is none yet."""
        ...

    def owned(self) -> dict[str, bytes]:
        """Institutions that we sign for, with their public keys."""
        ...

    def sign(self, institution: str, message: bytes) -> bytes:
        """Sign under an institution's own key."""
        ...

    def trusted(self) -> dict[str, frozenset[bytes]]:
        """Public keys whose checkpoints are believed, by institution: our own, and those that were imported."""
        ...

    def verify(self, key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether a signature over a message is that of a public key."""
        ...


class CheckpointRegistry(Protocol):
    """A second place for checkpoints, out of the store's reach. Raises AuditError where it does not answer."""

    def keep(self, signed: SignedCheckpoint) -> None:
        """Keep one checkpoint."""
        ...

    def sizes(self, institution: str) -> set[int]:
        """Sizes of the checkpoints that are kept of an institution."""
        ...

    def held(self) -> list[StoredCheckpoint]:
        """All checkpoints that are kept, as they lie there."""
        ...
