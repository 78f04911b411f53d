"""What erasing a patient asks of the store.

An erasure begins with the destruction of the patient's key, which makes unreadable whatever lies anywhere. What follows
here takes the rows away, and keeps a tombstone so that nothing of the patient is taken in again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from oncotwin.domain.audit import AuditDraft
from oncotwin.domain.ids import TwinId


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A patient was erased.

    Attributes:
        source, event_id: the event that ordered it; "" where a person did.
        finished_at: when all that lies outside the store had been dealt with too; None until then.
    """

    twin_id: TwinId
    erased_at: datetime
    reason: str
    source: str = ""
    event_id: str = ""
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ErasureOrder:
    """An event in the journal that orders an erasure and was not carried out yet."""

    twin_id: TwinId
    source: str
    event_id: str


@dataclass(frozen=True, slots=True)
class ExportRow:
    """A folder that patients' data were written to."""

    folder: str
    written_at: datetime
    tables: tuple[str, ...]


class Erasures(Protocol):
    """Tombstones, and what an erasure must find."""

    def erase(self, tombstone: Tombstone, drafts: Sequence[AuditDraft] = ()) -> bool:
        """Take a patient's rows away and set the tombstone, in one transaction; again is harmless.

        Of the journal the (source, id) and running numbers stay, empty, so that gaps do not open and no id is used
        twice. A commit that is under way for the patient fails: the twin's version moves to where none expects it.

        Returns:
            Whether there was no tombstone yet.
        """
        ...

    def finish(self, twin_id: TwinId, at: datetime) -> None:
        """All that lies outside the store was dealt with; reports of the patient are forgotten too."""
        ...

    def tombstones(self) -> dict[TwinId, Tombstone]:
        """Every patient erased here."""
        ...

    def orders(self) -> list[ErasureOrder]:
        """Erasures that events in the journal order and that were not carried out."""
        ...

    def report_paths(self, twin_id: TwinId) -> list[str]:
        """Files of the reports that were made of a patient."""
        ...

    def record_export(self, folder: str, tables: Sequence[str], at: datetime) -> None:
        """Patients' data are being written to a folder."""
        ...

    def forget_export(self, folder: str) -> None:
        """The folder holds none any more."""
        ...

    def exports(self) -> list[ExportRow]:
        """Folders that patients' data were written to."""
        ...
