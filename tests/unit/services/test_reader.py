"""Whoever answers a question gives way to the stream."""

from __future__ import annotations

import os

from oncotwin_services.cli.reader import NICENESS, giving_way


def test_giving_way() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with giving_way():
        lower = os.getpriority(os.PRIO_PROCESS, 0)
        assert lower == max(before, NICENESS)
        with giving_way():
            assert os.getpriority(os.PRIO_PROCESS, 0) == lower
    # Who may not raise a priority stays where it was put.
    assert os.getpriority(os.PRIO_PROCESS, 0) in (before, lower)
