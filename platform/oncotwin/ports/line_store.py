"""Lines: what each model version makes of the twins, beside the version that is believed.

Snapshots, estimates and alerts belong to the line of a model version. The champion's line is what readers see, and
moves with every commit. Any other line is folded from the journal in shadow, as far as somebody folds it, and becomes
the champion's by `LineStore.promote`, which changes nothing but whose line is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from oncotwin.domain.ids import TwinId
from oncotwin.ports.report_ledger import ReportLedger
from oncotwin.ports.twin_rows import AlertRow, EstimateRow, JournalEntry, OutboxRow, TwinCommit
from oncotwin.ports.twin_store import TwinStore


@dataclass(frozen=True, slots=True)
class LineLag:
    """What a line has still to fold of one twin.

    Attributes:
        version: the twin's in the store; folded: that up to which the line is folded, 0 for not at all.
        since, until: commit positions of ``folded`` and ``version``: the journal between the two is to be folded.
    """

    twin_id: TwinId
    ordinal: int
    version: int
    folded: int
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class ChampionRow:
    """From a commit position on a model version is believed."""

    position: int
    model_version: str
    at: datetime
    chosen_by: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """A model version is to be believed from now on.

    Attributes:
        chosen_by: who decided so.
        fold: of twins that the line lags behind: what it makes of them. Called within the transaction, while
            nobody else can commit, for no more than ``most_behind`` twins.
        tell: messages of twins as they are from now on (snapshots without their states, the latest estimate, and
            alerts that did not stand before), and of alerts that stand no more.
    """

    model_version: str
    chosen_by: str
    at: datetime
    fold: Callable[[Sequence[LineLag]], Sequence[TwinCommit]]
    tell: Callable[[Sequence[TwinCommit], Sequence[AlertRow]], Sequence[OutboxRow]]
    most_behind: int


class LineStore(TwinStore, Protocol):
    """A twin store with the lines of other model versions than the champion's."""

    @property
    def reports(self) -> ReportLedger:
        """Reports, and the beliefs that they rest on."""
        ...

    def champions(self) -> list[ChampionRow]:
        """Every version that was believed, oldest first."""
        ...

    def lines(self) -> dict[str, int]:
        """How many twins each line that is not the champion's lags behind; those that nobody folded are not named."""
        ...

    def behind(self, model_version: str, limit: int, *, after: int = -1) -> list[LineLag]:
        """Twins that a line lags behind, in the order of their ordinals, those after an ordinal.

        Of the champion's line: twins that an earlier release folded under another version, as not folded at all.
        """
        ...

    def n_behind(self, model_version: str) -> int:
        """How many twins a line lags behind."""
        ...

    def journal_between(self, lags: Sequence[LineLag]) -> dict[TwinId, list[JournalEntry]]:
        """Journal entries that lines have still to fold, in the order of the fold."""
        ...

    def line_estimates(self, model_version: str, twin_ids: Sequence[TwinId]) -> list[EstimateRow]:
        """Estimates in force of these twins in a line, by twin and clinical time."""
        ...

    def commit_line(self, model_version: str, twins: Sequence[TwinCommit], now: datetime) -> int:
        """Move a line on, in one transaction; nothing that the champion's readers see changes.

        Args:
            twins: versions are those of the twins' journals: ``expected_version`` is what the line was folded up to
                (`LineLag.folded`), ``new_version`` what it is folded up to now. A twin without snapshots had nothing
                new to fold.
        Returns:
            The commit position.
        Raises:
            StaleVersionError: somebody else moved the line. ChampionChangedError: it is the champion's now. In each
                case nothing was written.
        """
        ...

    def promote(self, promotion: Promotion) -> int:
        """Have a version believed, in one transaction: every twin gets a new version, and readers see one or the other.

        The champion before keeps its line, complete: promoting it again is the same operation.

        Returns:
            The commit position from which on it is believed.
        Raises:
            LineBehindError: its line lags too far behind. ChampionChangedError: it is the champion already. In each
                case nothing was written.
        """
        ...
