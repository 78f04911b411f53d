"""The flow of sections and slides: claim checks in the log become evidence in the same log, for the same patient.

It follows the events' topic as a reader of its own, with leases and offsets under a name of its own in the store. For
each claim check of a section or slide the array is fetched from an allowed store, checked, and read; what it says of
the patient's tumour is appended to the log as `spatial.evidence`, and the assimilation worker takes it from there as
any other event. What cannot be read ends as a dead letter with a reason, and the flow goes on.

Order of effects: evidence into the log, then offsets and dead letters in one transaction. A run that dies between the
two reads the section again; evidence has the same ids then, and the double is dropped. A correction of a section is
said of its evidence too, whichever comes first.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oncotwin.adapters.arrays.claims import ArrayStores, fetch
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.amendment import Correction, Rejection
from oncotwin.domain.claim import ClaimCheck
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import EventError, FencedError
from oncotwin.domain.events import encode_line
from oncotwin.domain.ids import EventKey
from oncotwin.domain.observation import ArrayReference
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.clock import Clock
from oncotwin.ports.event_log import ERASED_HEADER, EventLog, LogRecord
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_rows import CommitGroup, DeadLetter
from oncotwin.ports.twin_store import TwinStore
from oncotwin.spatial.cohort_sums import on_cohort_scale
from oncotwin.spatial.reference_cohort import Cohort
from oncotwin.spatial.section_evidence import read_evidence
from oncotwin_flows.groups import Bounds
from oncotwin_flows.intake import Intake, IntakeRules
from oncotwin_flows.refusals import dead_letter
from oncotwin_flows.runtime import NO_CACHE, Sealed, flow, task
from oncotwin_flows.section_events import OBSERVED, correction_lines, evidence_key, evidence_lines
from oncotwin_flows.section_readers import Reader

_MAX_READ_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class SectionTally:
    """What a run did.

    Attributes:
        n_read: records of the log; n_sections: sections and slides that were read.
        n_evidence: events appended; n_duplicates: sections whose evidence was in the log already.
        n_rejected: sections that ended as dead letters.
        n_corrected: corrections of sections that were said of their evidence.
    """

    n_read: int = 0
    n_sections: int = 0
    n_evidence: int = 0
    n_duplicates: int = 0
    n_rejected: int = 0
    n_corrected: int = 0


@dataclass(frozen=True, slots=True)
class SectionSettings:
    """Who reads and by which rules.

    Attributes:
        name: of this worker in leases; log_name: under which offsets are kept, another than the assimilation worker's.
        lease_s: how long a partition is kept without a word.
        scratch: folder for copies; each goes when its section was read.
    """

    name: str
    log_name: str
    lease_s: float
    rules: IntakeRules
    scratch: Path


class SectionProcessor:
    """Reads sections and slides off the log; not thread-safe. See the module's docstring for the order of effects.

    Args:
        readers: by kind of event.
        cohorts: by kind and platform (or stain), such as ``omics.section Visium``; a section without one is not
            compared, and its evidence says so.
    """

    def __init__(
        self, log: EventLog, store: TwinStore, clock: Clock, settings: SectionSettings,
        readers: Mapping[str, Reader], cohorts: Mapping[str, Cohort] | None = None,
        on_step: OnStep = no_step,
    ) -> None:
        self._log, self._store, self._clock, self._settings = log, store, clock, settings
        self._readers, self._cohorts, self._on_step = readers, cohorts or {}, on_step
        self._stores = ArrayStores(settings.rules.array_stores)
        self._intake = Intake(log, store, clock, settings.rules)
        self._sources: dict[str, str] = {}

    def run(self, bounds: Bounds) -> SectionTally:
        """Follow the log up to a bound or its end, committing after each section.

        Raises:
            StoreError, LogError, OSError: store, log or array store does not answer; what was committed stays.
            FencedError: another worker took a partition over; nothing is lost, and doubles are dropped.
        """
        tally, settings = SectionTally(), self._settings
        epochs = self._lease()
        try:
            stored, begin = self._store.offsets(settings.log_name), self._log.begin_offsets()
            positions = {p: stored.get(p, begin.get(p, 0)) for p in epochs}
            self._sources = {**self._store.sources(), **settings.rules.sources}
            deadline = self._clock.monotonic() + bounds.seconds
            while positions and tally.n_read < bounds.events and self._clock.monotonic() < deadline:
                room = min(bounds.events - tally.n_read, bounds.commit_events)
                records = self._log.read(positions, room, _MAX_READ_BYTES, bounds.poll_seconds)
                if not records:
                    break
                seen: dict[int, int] = {}
                for record in records:
                    positions[record.partition] = seen[record.partition] = record.offset + 1
                    tally.n_read += 1
                    letters = self._take(record, tally)
                    if letters is not None:
                        self._commit(seen, epochs, letters)
                        seen = {}
                if seen:
                    self._commit(seen, epochs, ())
        finally:
            self._store.release_leases(settings.log_name, settings.name, epochs)
        return tally

    def _lease(self) -> dict[int, int]:
        settings = self._settings
        return dict(
            self._store.acquire_leases(
                settings.log_name, settings.name, range(self._log.n_partitions), settings.lease_s, self._clock.now()
            )
        )

    def _commit(self, offsets: Mapping[int, int], epochs: Mapping[int, int], letters: Sequence[DeadLetter]) -> None:
        """Write offsets and dead letters, if the partitions were ours all the time that the section took."""
        held = self._lease()
        lost = [partition for partition in offsets if held.get(partition) != epochs[partition]]
        if lost:
            raise FencedError(
                f"partition {lost[0]} of {self._settings.log_name} was taken over while a section was read; it is read "
                "again, and what was said already is dropped: lengthen the lease where this happens often"
            )
        self._on_step("published")
        self._store.commit(
            CommitGroup(
                self._settings.log_name, dict(offsets), {partition: epochs[partition] for partition in offsets}, (),
                self._clock.now(), tuple(letters),
            )
        )

    def _take(self, record: LogRecord, tally: SectionTally) -> Sequence[DeadLetter] | None:
        """Act on one record; None where it is no section's business."""
        if any(name == ERASED_HEADER for name, _ in record.headers):
            return None
        rules = self._settings.rules
        policy = Policy(self._clock.now(), self._sources, rules.array_stores, rules.clock_skew)
        event, item = admit(record.value, record.headers, policy)
        if event is None or isinstance(item, Rejection):
            # The assimilation worker keeps it.
            return None
        self._sources.setdefault(item.header.source, item.header.institution)
        if isinstance(item, Correction):
            return self._correct(item, tally)
        if not isinstance(item, ArrayReference) or item.header.kind not in self._readers:
            return None
        return self._section(event, item, tally)

    def _section(self, event: Event, item: ArrayReference, tally: SectionTally) -> Sequence[DeadLetter] | None:
        """Read one section, and append what it says."""
        header = item.header
        if header.status == "entered-in-error" or self._store.erased([header.twin_id]):
            return None
        if self._said(header.institution, header.key):
            tally.n_duplicates += 1
            return None
        if self._store.known([header.key]).get(header.key, header.content_hash) != header.content_hash:
            # Another event of the same id was first; the assimilation worker refuses this one.
            return None
        try:
            lines = self._read(item)
        except EventError as error:
            return [self._refused(event, error, tally)]
        report = self._intake.ingest(lines)
        self._on_step("appended")
        tally.n_sections += 1
        tally.n_evidence += report.n_accepted
        for row in self._store.corrections_of([header.key]).get(header.key, ()):
            # It came before its section, so that there was nothing to correct yet.
            _, correction = admit(row.payload, (), Policy(self._clock.now(), self._sources))
            if isinstance(correction, Correction):
                self._correct(correction, tally)
        return []

    def _read(self, item: ArrayReference) -> list[bytes]:
        """Fetch, check and read an array.

        Raises:
            EventError: it is not what was claimed, cannot be read, or says nothing. OSError: its store is away.
        """
        header = item.header
        self._settings.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._settings.scratch, prefix="section-") as folder:
            copy = fetch(ClaimCheck(item.dataref, item.datahash, item.datasize), self._stores, Path(folder, "array"))
            self._on_step("fetched")
            try:
                check_zarr(copy)
                found = self._readers[header.kind](copy, Path(folder, "signatures"))
                readings, abstained = read_evidence(found.signatures, found.n_independent)
            except EventError:
                raise
            except Exception as error:  # whatever an array broke, the arrays after it are read
                raise EventError(
                    "signatures_failed", f"its signatures could not be computed:\n{traceback.format_exc()}", "dataref",
                    "report the trace; after mending send the claim check under a new id",
                ) from error
        if not readings:
            told = "; ".join(f"{name}: {why}" for name, why in sorted(abstained.items()))
            raise EventError(
                "no_evidence", f"it says nothing of the tumour's state ({told})", "dataref",
                "nothing is to be mended unless the section should have said more",
            )
        platform = item.detail.get("platform", item.detail.get("stain", ""))
        cohort = self._cohorts.get(f"{header.kind} {platform}")
        typicality = None if cohort is None else cohort.judge(on_cohort_scale(found.signatures))
        return evidence_lines(header, readings, "" if cohort is None else cohort.name, typicality)

    def _refused(self, event: Event, error: EventError, tally: SectionTally) -> DeadLetter:
        tally.n_rejected += 1
        rejection = Rejection(
            error.reason_code, f"{event.kind} {event.id}: {error.reason}", error.where, error.remedy,
            encode_line(event), event.key, event.subject,
        )
        return dead_letter(rejection, self._clock.now())

    def _correct(self, item: Correction, tally: SectionTally) -> Sequence[DeadLetter] | None:
        """Say of a section's evidence what was said of the section."""
        said = self._said(item.header.institution, item.supersedes)
        if item.action == "replace" or not said:
            return None
        self._intake.ingest(correction_lines(item, said))
        tally.n_corrected += 1
        return []

    def _said(self, institution: str, section: EventKey) -> list[EventKey]:
        """Evidence of a section that is in the log already."""
        keys = [evidence_key(institution, section, observable) for observable in OBSERVED]
        known = {*self._store.intake_known(keys), *self._store.known(keys)}
        return [key for key in keys if key in known]


@task(name="read sections", retries=2, retry_delay_seconds=2, cache_policy=NO_CACHE)
def read_sections(processor: Sealed[SectionProcessor], bounds: Bounds) -> SectionTally:
    """Follow the log up to the bounds; plain code inside."""
    return processor.content.run(bounds)


@flow(name="process sections", validate_parameters=False)
def process_sections(processor: Sealed[SectionProcessor], bounds: Bounds) -> SectionTally:
    """One bounded run: claim checks -> arrays -> signatures -> evidence in the log."""
    return read_sections(processor, bounds)
