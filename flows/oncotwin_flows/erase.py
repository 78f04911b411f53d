"""Erasing a patient: the key first, from where there is no way back, then everything that can be tidied up.

    key destroyed    nothing sealed opens any more: store, snapshots, embedded log, dead letters, every backup of them
    store erased     rows gone, tombstone set, audit entry written: one transaction
    log blanked      what an earlier release appended unsealed to the embedded log
    reports gone     files of reports made of the patient
    exports written  exported tables, anew and without the patient
    finished         the tombstone says so

Each step may be done again. Whoever was interrupted is taken up by `Eraser.resume`, which every worker calls when it
starts: it finds what the store lacks in the key store, whose record of destroyed keys no restored backup undoes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain import audit_drafts
from oncotwin.domain.errors import OncotwinError
from oncotwin.domain.ids import TwinId, split_twin_id
from oncotwin.ports.clock import Clock
from oncotwin.ports.erasure import Tombstone
from oncotwin.ports.key_store import KeyStore
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_store import TwinStore

ERASE_STEPS = (
    "key destroyed", "store erased", "log blanked", "reports gone", "exports written", "erasure finished",
)
"""A hook is told of each once it is done."""

ORDERED = "ordered by an event"
RESTORED = "the key is destroyed: this store did not know of it"


@dataclass(slots=True)
class ErasureReport:
    """What became of an erasure.

    Attributes:
        is_new: nobody had erased the patient before.
        export_rows: rows taken away, by folder of an export.
        n_reports: files of reports removed; n_blanked: unsealed records taken out of the embedded log.
        problems: what could not be done; the erasure stays unfinished until it is.
    """

    twin_id: TwinId
    is_new: bool = False
    export_rows: dict[str, int] = field(default_factory=dict)
    n_reports: int = 0
    n_blanked: int = 0
    problems: list[str] = field(default_factory=list)


class Eraser:
    """Erases patients, and finishes what was cut short.

    Args:
        blank_log: takes a patient's unsealed records out of the log; returns how many there were.
        on_step: told of each of `ERASE_STEPS`.
    """

    def __init__(
        self, store: TwinStore, keys: KeyStore, clock: Clock, blank_log: Callable[[TwinId], int],
        on_step: OnStep = no_step,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._blank_log = blank_log
        self._on_step = on_step

    def erase(self, twin_id: TwinId, reason: str, *, source: str = "", event_id: str = "") -> ErasureReport:
        """Erase a patient, for good; again is harmless.

        Args:
            reason: why, in words that name nobody: it is kept for ever. source, event_id: the event that ordered it.
        Raises:
            EventError: no pseudonym. StoreError: the keys or the store do not answer.
        """
        institution, _ = split_twin_id(twin_id)
        now = self._clock.now()
        # The tag is made of the key, so it comes before its end.
        tag = audit_drafts.twin_tag(self._store.audit.commitment, twin_id)
        is_new = self._keys.destroy(twin_id, now, reason)
        self._on_step("key destroyed")
        draft = audit_drafts.patient_erased(institution, tag, reason, source, event_id)
        self._store.erasures.erase(Tombstone(twin_id, now, reason, source, event_id), [draft])
        self._on_step("store erased")
        return self._tidy(twin_id, is_new)

    def carry_out(self) -> list[ErasureReport]:
        """Erase whom committed events order to erase."""
        return [
            self.erase(order.twin_id, ORDERED, source=order.source, event_id=order.event_id)
            for order in self._store.erasures.orders()
        ]

    def resume(self) -> list[ErasureReport]:
        """Carry out what events ordered, what a crash cut short, and what a restored store does not know of."""
        found = self.carry_out()
        tombstones = self._store.erasures.tombstones()
        for twin_id in sorted(self._keys.destroyed().keys() - tombstones.keys()):
            found.append(self.erase(twin_id, RESTORED))
        for twin_id, tombstone in tombstones.items():
            if twin_id not in self._keys.destroyed():
                # The key store was set back to an earlier day: the store remembers in its place.
                self._keys.destroy(twin_id, tombstone.erased_at, tombstone.reason)
            if tombstone.finished_at is None:
                found.append(self._tidy(twin_id, False))
        return found

    def _tidy(self, twin_id: TwinId, is_new: bool) -> ErasureReport:
        """Everything outside the store; what cannot be done now is told of and stays to be done."""
        report = ErasureReport(twin_id, is_new)
        self._try(report, partial(self._blank, report))
        self._on_step("log blanked")
        for path in self._store.erasures.report_paths(twin_id):
            self._try(report, partial(self._remove, report, Path(path)))
        self._on_step("reports gone")
        for export in self._store.erasures.exports():
            self._try(report, partial(self._rewrite, report, Path(export.folder), export.tables))
        self._on_step("exports written")
        if not report.problems:
            self._store.erasures.finish(twin_id, self._clock.now())
            self._on_step("erasure finished")
        return report

    @staticmethod
    def _try(report: ErasureReport, act: Callable[[], None]) -> None:
        try:
            act()
        except (OncotwinError, OSError) as error:
            report.problems.append(str(error))

    def _blank(self, report: ErasureReport) -> None:
        report.n_blanked = self._blank_log(report.twin_id)

    @staticmethod
    def _remove(report: ErasureReport, path: Path) -> None:
        if path.exists():
            path.unlink()
            report.n_reports += 1

    def _rewrite(self, report: ErasureReport, folder: Path, tables: tuple[str, ...]) -> None:
        if not folder.exists():
            # Deleted; a folder that was carried elsewhere is out of this program's reach.
            self._store.erasures.forget_export(str(folder))
            return
        report.export_rows[str(folder)] = drop_from_export(folder, tables, report.twin_id)


def drop_from_export(folder: Path, tables: tuple[str, ...], twin_id: TwinId) -> int:
    """Write an export's tables anew without a patient; returns the rows taken away."""
    # Its engines take a second to import, which a worker's start can do without.
    from oncotwin.adapters.parquet_history import drop_patient

    institution, patient = split_twin_id(twin_id)
    return sum(drop_patient(folder, table, institution, patient) for table in tables)


def make_eraser(
    settings: Settings, store: TwinStore, keys: KeyStore, clock: Clock, on_step: OnStep = no_step
) -> Eraser:
    """The eraser of an installation."""
    return Eraser(store, keys, clock, lambda twin_id: wiring.blank_log(settings, twin_id), on_step)
