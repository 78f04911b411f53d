"""What consumers are told of a twin that takes back what it believed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.line_site import open_line_site

from oncotwin.testing.patients import correction, diameter
from oncotwin_flows.outgoing import ESTIMATED


def test_the_estimate_that_is_left_is_told_when_the_last_event_is_retracted(tmp_path: Path) -> None:
    with open_line_site(tmp_path, f"sqlite:///{tmp_path}/store.sqlite") as site:
        told = []
        for lines in ([diameter("a", 0, 20), diameter("b", 30, 25)], [correction("x", 90, "b", "retract")],
                      [correction("y", 91, "a", "retract")]):
            site.append(lines)
            site.work()
            rows = [row for _, row in site.store.pending_outbox(100) if row.topic == ESTIMATED]
            told.append(json.loads(rows[-1].value)["estimate"])
            left = [json.loads(row.body) for row in site.store.estimates("H1/p1")]
            assert told[-1] == (left[-1] if left else None)
        assert None not in told[:2] and told[2] is None
