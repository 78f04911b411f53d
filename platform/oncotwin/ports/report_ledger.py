"""Reports made for people, the belief that each rests on, and the signatures under them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

from oncotwin.domain.errors import OncotwinError
from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_rows import BeliefRow, OutboxRow

Verdict = Literal["agree", "override"]


class ReportError(OncotwinError):
    """A report is not there, or may not be signed as it stands."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Signature:
    """A person's word on a report.

    Attributes:
        superseded: whether the report was known to be superseded when it was signed.
    """

    by: str
    verdict: Verdict
    comment: str
    at: datetime
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One report.

    Attributes:
        report_id: follows from the twin, its version and the content, under the patient's key.
        kind: ``report``, or what else people decide on.
        position, version: commit and version of the twin of the belief that it rests on; digest: that belief's.
        data_through: clinical time of the last event in it; known_at: moment of the commit.
        path: where the page was written; content_hash: SHA-256 (hex) of its bytes.
    """

    report_id: str
    twin_id: TwinId
    kind: str
    position: int
    version: int
    model_version: str
    digest: str
    data_through: datetime
    known_at: datetime
    made_at: datetime
    path: str
    content_hash: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class ReportState:
    """Whether what a report says is still what is believed.

    Attributes:
        superseded_by: version of the twin whose commit took the report's belief back: it reached back to data that the
            report shows, or another model version answers. None while the report is current.
        cause: the event, or the model, that did it; "" while current.
        at: moment of that commit.
        newest: clinical time up to which the twin is folded now; beyond the report's where data have come since.
    """

    superseded_by: int | None
    cause: str
    at: datetime | None
    newest: datetime

    @property
    def is_current(self) -> bool:
        """Nothing that the report shows was taken back."""
        return self.superseded_by is None


Tell = Callable[[ReportRow], OutboxRow]
"""The message that tells of a signed report."""


class ReportLedger(Protocol):
    """Reports are added and signed once; nothing else about them changes."""

    def name(self, twin_id: TwinId, version: int, content: bytes) -> str:
        """The id of a report; the same content about the same version has the same.

        Raises:
            ErasedError: the patient was erased.
        """
        ...

    def register(self, report: ReportRow) -> bool:
        """Add a report; False where it is there already.

        Raises:
            StoreError: the belief that it rests on is not the twin's, or the database failed.
        """
        ...

    def reports(self, twin_id: TwinId | None = None) -> list[tuple[ReportRow, ReportState]]:
        """Reports of one patient or of all, oldest first, and how each stands now."""
        ...

    def report(self, report_id: str) -> tuple[ReportRow, ReportState] | None:
        """One report by its id, or by a beginning of it that no other has."""
        ...

    def sign(self, report_id: str, signature: Signature, tell: Tell, *, although_superseded: bool = False) -> ReportRow:
        """Sign a report: the row, its message and its audit entry in one transaction.

        Returns:
            The report as signed; the same signature given again changes nothing.
        Raises:
            ReportError: no such report; it is signed already; it is superseded, and not to be signed all the same.
        """
        ...


def standing(report: ReportRow, beliefs: Sequence[BeliefRow]) -> ReportState:
    """How a report stands, by what later commits made of its twin.

    Args:
        beliefs: of the twin, oldest first, those before the report's too or not.
    """
    state = ReportState(None, "", None, report.data_through)
    before = report.digest
    for row in beliefs:
        if row.version <= report.version:
            continue
        if row.digest == report.digest and row.model_version == report.model_version:
            # Taken back and come again, as when a model is rolled back.
            state = ReportState(None, "", None, row.time)
        elif state.is_current and row.digest != before and (
            row.model_version != report.model_version
            or (row.rewound_to is not None and row.rewound_to <= report.data_through)
        ):
            state = ReportState(row.version, row.cause, row.published_at, row.time)
        else:
            state = replace(state, newest=row.time)
        before = row.digest
    return state
