"""Which events of a journal count, and when the whole of it must be looked at."""

from __future__ import annotations

import pytest

from oncotwin.domain.bundle import ModelBundle
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.patients import accepted, consent, diameter
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind
from oncotwin.twin.journal import in_force, may_be_learnt_from, needs_guard
from oncotwin.twin.machine import forward_task, goes_on, perform
from oncotwin.twin.state import TwinState, from_bytes, to_bytes

BINDING = bind("1", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())


def folded(*lines: bytes) -> TwinState:
    """A twin after events that only follow each other."""
    [outcome] = perform(BINDING, [forward_task(TwinState("H1/p1", "1"), accepted(lines))])
    return outcome.states[-1]


def in_force_ids(*lines: bytes) -> list[str]:
    return [item.header.event_id for item in in_force(accepted(lines), "H1/p1")]


def test_a_twin_is_frozen_while_consent_to_care_is_withdrawn() -> None:
    visits = [diameter(f"m{day}", day, 20) for day in (0, 30, 60, 90)]
    assert in_force_ids(*visits, consent("w", 30, "withdrawn")) == ["m0"]
    assert in_force_ids(*visits, consent("w", 30, "withdrawn"), consent("g", 80, "granted")) == ["m0", "m90"]
    assert len(in_force_ids(*visits, consent("w", 30, "withdrawn", scope="research"))) == 4


@pytest.mark.parametrize(("changes", "allowed"), [
    ((), True),
    ((("w", 5, "withdrawn", "care"),), False),
    ((("w", 5, "withdrawn", "research"),), False),
    ((("w", 5, "withdrawn", "research"), ("g", 9, "granted", "research")), True),
    ((("w", 9, "withdrawn", "research"), ("g", 5, "granted", "research")), False),
    ((("w", 5, "withdrawn", "care"), ("g", 9, "granted", "research")), False),
])
def test_who_withdrew_is_not_learnt_from(changes: tuple[tuple[str, int, str, str], ...], allowed: bool) -> None:
    lines = [consent(name, day, decision, scope=scope) for name, day, decision, scope in changes]
    assert may_be_learnt_from(accepted([diameter("m", 0, 20), *lines])) is allowed


def test_a_new_result_only_follows_and_a_known_one_does_not() -> None:
    state = folded(diameter("m0", 0, 20, result="R1", status="preliminary"))
    new, again = (accepted([diameter("m1", 30, 22, result=name)]) for name in ("R2", "R1"))
    assert goes_on(state, new)
    assert not goes_on(state, again)
    assert not goes_on(state, [*new, *accepted([diameter("m2", 40, 22, result="R2", status="corrected")])])
    # Another source numbers its results for itself.
    assert goes_on(state, accepted([diameter("m3", 30, 22, result="R1", source="urn:oncotwin:H1:pacs")]))
    assert goes_on(from_bytes(to_bytes(state)), new) and not goes_on(from_bytes(to_bytes(state)), again)


def test_a_result_entered_in_error_is_remembered_by_the_journal_alone() -> None:
    error = accepted([diameter("m1", 30, 22, result="R2", status="entered-in-error")])
    assert not goes_on(folded(diameter("m0", 0, 20)), error)
    assert needs_guard(error)
    assert not needs_guard(accepted([diameter("m1", 30, 22, result="R2")]))
