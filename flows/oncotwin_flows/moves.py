"""Events posted to the wrong patient: what the right patient's twin is given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from oncotwin.domain.amendment import Accepted, Correction, Rejection
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.ids import TwinId
from oncotwin.domain.validation import Policy, admit
from oncotwin.ports.twin_store import JournalEntry, TwinStore


def moved_events(
    fresh: Mapping[TwinId, Sequence[Accepted]], entries: Mapping[TwinId, Sequence[JournalEntry]], store: TwinStore
) -> Iterator[tuple[Accepted, bytes, JournalEntry]]:
    """For each correction ``wrong_patient`` of a known event: that event as the right patient's.

    The copy keeps its source; its id names the correction, so that a second delivery of the correction makes no
    second copy. The wrong patient's twin drops the event because the correction stands in its journal.

    Yields:
        (item, its JSON line, the journal row of the original).
    """
    moves = [
        item
        for items in fresh.values()
        for item in items
        if isinstance(item, Correction) and item.action == "wrong_patient" and item.right_patient is not None
    ]
    for correction in moves:
        wrong = correction.header.twin_id
        rows = [*entries.get(wrong, ()), *store.journal(wrong)]
        original = next((row for row in rows if (row.source, row.event_id) == correction.supersedes), None)
        if original is None:
            continue
        content = json.loads(original.payload)
        content["subject"] = correction.right_patient
        content["id"] = f"{original.event_id}#moved-by-{correction.header.event_id}"
        line = canonical_json(content)
        policy = Policy(now=original.received_at, clock_skew=timedelta(days=36_500))
        _, item = admit(line, (), policy)
        if not isinstance(item, Rejection):
            yield item, line, original
