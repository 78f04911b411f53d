"""Which refused events a mended file answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.domain.example_events import example

from oncotwin.domain.amendment import Rejection
from oncotwin.domain.policy import Policy
from oncotwin.domain.validation import admit
from oncotwin.ports.twin_rows import DeadLetter
from oncotwin_flows.intake import IntakeReport
from oncotwin_flows.refusals import dead_letter
from oncotwin_flows.resubmit import resubmit_letters

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def bad(name: str) -> bytes:
    """An event whose value is no number: strict reading of its bytes fails as a whole."""
    return json.dumps(example("lesion.measured", id=name, data={"value": float("nan")})).encode()


def good(name: str) -> bytes:
    return bad(name).replace(b"NaN", b"21")


def letters_of(lines: Sequence[bytes]) -> list[DeadLetter]:
    return [dead_letter(item, NOW) for line in lines if isinstance(item := judged(line), Rejection)]


def judged(line: bytes) -> Any:
    return admit(line, (), Policy(NOW))[1]


class FakeIntake:
    """Judges the lines and keeps none."""

    def ingest(self, lines: Any) -> IntakeReport:
        report = IntakeReport()
        for number, line in enumerate(lines, 1):
            item = judged(line)
            if isinstance(item, Rejection):
                report.rejections.append((number, dead_letter(item, NOW)))
            else:
                report.n_accepted += 1
        return report


class FakeStore:
    """Notes which letters were closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def mark_resubmitted(self, rejection_ids: Sequence[str]) -> None:
        self.closed.extend(rejection_ids)


def closed_by(refused: Sequence[bytes], mended: Sequence[bytes] | None) -> list[bool]:
    """For each refused line whether the mended ones close it."""
    letters, store = letters_of(refused), FakeStore()
    resubmit_letters(store, FakeIntake(), letters, mended)  # type: ignore[arg-type]
    return [letter.rejection_id in store.closed for letter in letters]


@pytest.mark.parametrize(
    ("mended", "closed"),
    [
        ([good("b")], [False, True, False]),
        ([good("c"), good("b"), bad("a")], [False, True, True]),
        ([good("a"), bad("b"), good("new id of c")], [True, False, True]),
        ([good("x"), good("y")], [False, False, False]),
        ([good("c"), good("x"), good("a")], [True, True, True]),
        ([], [False, False, False]),
    ],
)
def test_a_mended_line_closes_the_letter_of_its_id_else_of_its_place(mended: list[bytes], closed: list[bool]) -> None:
    assert closed_by([bad("a"), bad("b"), bad("c")], mended) == closed


def test_bytes_without_an_id_are_answered_by_their_place() -> None:
    assert closed_by([b"not json", bad("a")], [good("of the first"), bad("a")]) == [True, False]
    assert closed_by([b"not json", bad("a")], [good("a"), good("other")]) == [False, True]


def test_what_is_still_bad_stays_open_when_sent_again_unmended() -> None:
    assert closed_by([bad("a"), bad("b")], None) == [False, False]


def test_a_letter_that_was_kept_without_bytes_stays_open() -> None:
    letters, store = [dead_letter(judged(b""), NOW), dead_letter(judged(b" \n"), NOW)], FakeStore()
    counts = resubmit_letters(store, Blankless(), letters, None)  # type: ignore[arg-type]
    assert (counts["closed"], store.closed) == (0, [])


class Blankless(FakeIntake):
    """Passes over blank lines, as the intake does."""

    def ingest(self, lines: Any) -> IntakeReport:
        assert not [line for line in lines if line.strip()]
        return IntakeReport()
