"""How many events a second one core reads and validates, and how many it writes: the shipped lesions as JSON lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.benchmarks.record import record

from oncotwin.adapters.tables import convert
from oncotwin.adapters.tables.shipped import lesions
from oncotwin.domain.amendment import Rejection
from oncotwin.domain.events import content_hash, encode_line, encode_record, parse_event
from oncotwin.domain.policy import Policy
from oncotwin.domain.validation import admit

COMMAND = "python -m tests.benchmarks.bench_validate"
N_REPEATS = 5
BAR = 15_000


def rate(work: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Calls per second of processor time, the best of some repeats: other work on the machine does not count."""
    best = float("inf")
    for _ in range(N_REPEATS):
        began = time.process_time()
        for value in inputs:
            work(value)
        best = min(best, time.process_time() - began)
    return len(inputs) / best


def main() -> None:
    """Measure, print and record."""
    policy = Policy(datetime(2026, 1, 1, tzinfo=UTC))
    events = list(convert("atezolizumab", lesions()))
    lines = [encode_line(event) for event in events]
    records = [encode_record(event) for event in events]
    assert not any(isinstance(admit(line, (), policy)[1], Rejection) for line in lines)
    figures = {
        "validate/structured": rate(lambda line: admit(line, (), policy), lines),
        "validate/binary": rate(lambda sent: admit(sent[0], sent[1], policy), records),
        "validate/parse_alone": rate(parse_event, lines),
        "validate/content_hash_alone": rate(content_hash, events),
        "validate/encode_line": rate(encode_line, events),
    }
    n_bytes = sum(map(len, lines)) / len(lines)
    print(f"{len(lines)} events of {n_bytes:.0f} bytes, one core")
    for name, per_second in figures.items():
        print(f"{name:32} {per_second:10,.0f} /s")
        judged = name == "validate/structured"
        record(
            name, round(per_second), "1/s", command=COMMAND,
            reference=BAR if judged else None, ratio=round(per_second / BAR, 2) if judged else None,
            bar=f"at least {BAR}" if judged else None, note=f"events of {n_bytes:.0f} bytes, per core second",
        )  # fmt: skip


if __name__ == "__main__":
    main()
