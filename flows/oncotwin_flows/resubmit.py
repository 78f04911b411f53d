"""Refused events, mended and sent again."""

from __future__ import annotations

from collections.abc import Sequence

from oncotwin.domain.ids import EventKey
from oncotwin.domain.strict_json import skim
from oncotwin.ports.twin_rows import DeadLetter
from oncotwin.ports.twin_store import TwinStore
from oncotwin_flows.intake import Intake


def resubmit_letters(
    store: TwinStore, intake: Intake, letters: Sequence[DeadLetter], mended: Sequence[bytes] | None
) -> dict[str, int]:
    """Send refused events again: their kept bytes, or mended lines in their place.

    A letter is closed once a line with its (source, id) was accepted or is known already. Where the id itself was
    mended, the line is told by its place: as many lines as letters are taken to be the lines of `rejected --raw`. A
    mended line without a letter of its own is sent as any other; a letter whose line is refused again stays open.

    Returns:
        Counts: accepted, duplicate, closed, still_rejected.
    """
    lines = [letter.raw for letter in letters] if mended is None else [line for line in mended if line.strip()]
    report = intake.ingest(line.replace(b"\n", b" ") for line in lines)
    refused = {number for number, _ in report.rejections}
    # A letter that was kept without bytes sends nothing, and so it stays open.
    good = [number not in refused and bool(line.strip()) for number, line in enumerate(lines, 1)]
    closed = _in_place(letters, good) if mended is None else _answered(letters, lines, good)
    store.mark_resubmitted(closed)
    return {
        "accepted": report.n_accepted, "duplicate": report.n_duplicates, "closed": len(closed),
        "still_rejected": len(report.rejections),
    }


def _in_place(letters: Sequence[DeadLetter], good: Sequence[bool]) -> list[str]:
    """Letters whose own line, at the same place, was taken."""
    return [letter.rejection_id for letter, taken in zip(letters, good, strict=True) if taken]


def _answered(letters: Sequence[DeadLetter], lines: Sequence[bytes], good: Sequence[bool]) -> list[str]:
    """Letters that a mended line answers: by (source, id), else by place."""
    keys = [_key(line) for line in lines]
    taken = {key for key, fine in zip(keys, good, strict=True) if fine and key is not None}
    sent = set(keys)
    asked = {(letter.source, letter.event_id) for letter in letters}
    closed = []
    for place, letter in enumerate(letters):
        own = (letter.source, letter.event_id)
        by_place = (
            len(lines) == len(letters) and good[place] and own not in sent and keys[place] not in asked
        )
        if own in taken or by_place:
            closed.append(letter.rejection_id)
    return closed


def _key(line: bytes) -> EventKey | None:
    """(source, id) of a line, where it has them."""
    content = skim(line)
    if not isinstance(content, dict):
        return None
    source, event_id = content.get("source"), content.get("id")
    return (source, event_id) if isinstance(source, str) and isinstance(event_id, str) else None
