"""Refused events, mended and sent again."""

from __future__ import annotations

from collections.abc import Sequence

from oncotwin.domain.errors import EventError
from oncotwin.domain.strict_json import loads
from oncotwin.ports.twin_store import DeadLetter, TwinStore
from oncotwin_flows.intake import Intake


def resubmit_letters(
    store: TwinStore, intake: Intake, letters: Sequence[DeadLetter], mended: Sequence[bytes] | None
) -> dict[str, int]:
    """Send refused events again: their kept bytes, or mended lines in their place.

    A letter is closed once a line with its (source, id) was accepted or is known already; a mended line without an
    open letter of its own is sent as any other. A letter whose bytes are refused again stays open.

    Returns:
        Counts: accepted, duplicate, closed, still_rejected.
    """
    lines = [letter.raw for letter in letters] if mended is None else [line for line in mended if line.strip()]
    report = intake.ingest(line.replace(b"\n", b" ") for line in lines)
    refused = {number for number, _ in report.rejections}
    good = {
        key
        for number, line in enumerate(lines, 1)
        if number not in refused and (key := _key(line)) is not None
    }
    if mended is None:
        closed = [letter.rejection_id for number, letter in enumerate(letters, 1) if number not in refused]
    elif len(lines) == len(letters):
        # `rejected --raw` printed one line a letter, in this order: it also serves where the id itself was mended.
        closed = [letter.rejection_id for number, letter in enumerate(letters, 1) if number not in refused]
    else:
        closed = [one.rejection_id for one in letters if (one.source, one.event_id) in good]
    store.mark_resubmitted(closed)
    return {
        "accepted": report.n_accepted, "duplicate": report.n_duplicates, "closed": len(closed),
        "still_rejected": len(report.rejections),
    }


def _key(line: bytes) -> tuple[str, str] | None:
    """(source, id) of a line, where it has them."""
    try:
        content = loads(line)
    except EventError:
        return None
    if not isinstance(content, dict):
        return None
    source, event_id = content.get("source"), content.get("id")
    return (source, event_id) if isinstance(source, str) and isinstance(event_id, str) else None
