"""What a twin believed of a clinical time with what was known at a moment, held against what was published then.

The answer is folded from the journal, whatever has happened to snapshots since. Reads are bounded by the twin's last
commit at or before the moment: journal and beliefs are only ever added to, so the same question has the same answer
for ever, and whoever asks holds no lock that the stream could wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from oncotwin.domain.errors import StoreError
from oncotwin.domain.ids import TwinId, split_twin_id
from oncotwin.ports.twin_rows import BeliefRow, EstimateRow, JournalEntry
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.fold import Binding
from oncotwin.twin.replay import Belief, believe
from oncotwin.twin.rows import estimate_row
from oncotwin.twin.state import digest, to_bytes

Bind = Callable[[str], Binding]
"""A model version, or alias, as it folds."""


@dataclass(frozen=True, slots=True)
class Recollection:
    """A twin as it was believed.

    Attributes:
        as_of: clinical time asked about, None for the latest; known_at: knowledge asked about, None for all.
        entries: journal rows known then, in fold order.
        beliefs: what each commit by then had made of the twin, oldest first.
        digest: SHA-256 (hex) of the state folded now.
    """

    twin_id: TwinId
    as_of: datetime | None
    known_at: datetime | None
    binding: Binding
    belief: Belief
    entries: tuple[JournalEntry, ...]
    beliefs: tuple[BeliefRow, ...]
    digest: str

    @property
    def published(self) -> BeliefRow | None:
        """What the last commit by then published; None for a time of which no beliefs were kept."""
        return self.beliefs[-1] if self.beliefs else None

    @property
    def position(self) -> int:
        """The last commit of this twin in view."""
        return self.beliefs[-1].position if self.beliefs else max((e.position for e in self.entries), default=0)

    def known_since(self, entry: JournalEntry) -> datetime | None:
        """When a journal row became known: the moment of its commit; None where that is not kept."""
        return next((row.published_at for row in self.beliefs if row.position == entry.position), None)


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a recollection is what was published then.

    Attributes:
        what: what was compared: ``digest`` (the whole state), ``estimates`` (a clinical time in the past of the twin,
            whose state was never published), or ``nothing``.
        differences: in words; empty where equal to the bit.
    """

    what: str
    differences: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Nothing differs; true also where nothing could be compared."""
        return not self.differences


def recall(
    store: TwinStore, bind: Bind, twin_id: TwinId, as_of: datetime | None = None, known_at: datetime | None = None,
    *, under: str | None = None,
) -> Recollection:
    """Fold a twin again as it was known at a moment, under the model version that was champion then.

    Args:
        bind: how a model version folds.
        under: another version or alias to fold under.
    Raises:
        StoreError: nothing was known of the patient. ModelError: the version of then is not registered any more.
    """
    split_twin_id(twin_id)
    beliefs = store.beliefs(twin_id, known_at=known_at)
    entries = store.journal(twin_id, known_at=known_at)
    if beliefs:
        # A commit may have come in between the two reads.
        entries = [entry for entry in entries if entry.position <= beliefs[-1].position]
    if not entries:
        when = "" if known_at is None else f" at {known_at:%Y-%m-%d %H:%M:%S} UTC"
        raise StoreError(
            f"nothing was known of patient {twin_id!r}{when}" if when else
            f"nothing is known of patient {twin_id!r}; see `oncotwin status`, or `oncotwin ingest`"
        )
    made_by = beliefs[-1].model_version if beliefs else store.champion(known_at) or "champion"
    binding = bind(under or made_by)
    belief = believe(binding, twin_id, entries, as_of)
    return Recollection(
        twin_id, as_of, known_at, binding, belief, tuple(entries), tuple(beliefs), digest(to_bytes(belief.state))
    )


def check(store: TwinStore, found: Recollection) -> Check:
    """Compare a recollection with what was published: by digest, or estimate by estimate for a time in the past."""
    published = found.published
    if published is None or published.model_version != found.binding.version:
        return Check("nothing")
    if found.as_of is None or found.as_of >= published.time:
        if published.digest == found.digest:
            return Check("digest")
        return Check("digest", (_of_states(found, published),))
    kept = [
        row
        for row in store.estimates(found.twin_id, known_at=published.published_at)
        if row.time <= found.as_of and row.position <= published.position
    ]
    version = found.binding.version
    again = [estimate_row(found.twin_id, version, estimate) for estimate in found.belief.effects.estimates]
    return Check("estimates", tuple(_of_estimates(again, kept)))


def _of_states(found: Recollection, published: BeliefRow) -> str:
    return (
        f"the state folded again (digest {found.digest}, {found.belief.state.n_folded} events) is not what was "
        f"published at {published.published_at:%Y-%m-%d %H:%M:%S} UTC (version {published.version}, commit "
        f"{published.position}, digest {published.digest}, {published.n_folded} events)"
    )


def _of_estimates(again: Sequence[EstimateRow], kept: Sequence[EstimateRow]) -> list[str]:
    """Estimates that are not the same to the bit, by the event that they follow."""
    sides = [{(row.time, row.source, row.event_id, _model(row)): row.body for row in rows} for rows in (again, kept)]
    found = []
    for key in sorted(sides[0].keys() | sides[1].keys()):
        time, source, event_id, model = key
        name = f"estimate of {model} after {source} {event_id} ({time:%Y-%m-%d})"
        if key not in sides[1]:
            found.append(f"{name}: was not published")
        elif key not in sides[0]:
            found.append(f"{name}: was published and is not found again")
        elif sides[0][key] != sides[1][key]:
            found.append(f"{name}: differs from what was published")
    return found


def _model(row: EstimateRow) -> str:
    """The model of an estimate: an event may move several."""
    begin = row.body.index(b'"model":"') + 9
    return row.body[begin : row.body.index(b'"', begin)].decode()
