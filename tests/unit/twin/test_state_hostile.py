"""Bytes that claim to be a state: refused in words, with no more memory taken than they have bytes."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from tests.unit.twin.test_state import FIRST_RELEASE

from oncotwin.domain.errors import StoreError
from oncotwin.twin.state import from_bytes, to_bytes

FULL: dict[str, Any] = {
    **FIRST_RELEASE,
    "base": {
        "plan": [
            {"agent": "drug", "action": "on", "dose": 2.0, "unit": "mg", "start": "2024-01-01T00:00:00+00:00",
             "stop": None},
        ],
        "planned_at": 19700.0, "started": True, "targets": ["L1", "L2"], "time": 19800.5,
        "therapy": {
            "agents": [{"name": "drug", "since": 19000.0, "until": None, "dose": None, "unit": "", "course": True}],
            "line": 1, "n_episodes": 1, "switched": 19000.0,
        },
    },
    "drift": {"series": [["psa", "", 3, 0.5, 1.0, 1, 0.0, 0.0, 0, [[1.0, 0.25]], None, 0.0, 0]]},
    "reports": [7, 2**64 - 1],
}


def packed(header: Any, n_values: int = 6) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return b"OTWN\x01" + struct.pack("<I", len(text)) + text + struct.pack(f"<{n_values}d", *([0.5] * n_values))


def test_every_field_is_read_and_written_again() -> None:
    state = from_bytes(packed(FULL))
    assert to_bytes(from_bytes(to_bytes(state))) == to_bytes(state)
    assert state.base.therapy.agents[0].course and state.drift.series["psa", ""].n == 3
    assert state.reports == {7, 2**64 - 1}


def changed(path: str, value: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        header = deepcopy(FULL)
        *way, last = path.split("/")
        place: Any = header
        for name in way:
            place = place[int(name) if isinstance(place, list) else name]
        place[int(last) if isinstance(place, list) else last] = value
        return packed(header)

    return make


HUGE = 10**18
HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "magic alone": lambda: b"OTWN",
    "no header": lambda: b"OTWN\x01\x00\x00\x00\x00",
    "a header longer than the data": lambda: b"OTWN\x01\xff\xff\xff\xff{}",
    "no object": lambda: packed([]),
    "no JSON": lambda: packed(b"\xff\xfe"),
    "a number that is not finite": lambda: packed(b'{"parts": NaN}'),
    "nested deep": lambda: packed(b"[" * 100_000),
    "values left over": lambda: packed(FULL, 7),
    "values missing": lambda: packed(FULL, 5),
    "a huge shape": changed("parts/m/arrays/mean", [HUGE]),
    "a shape beyond any number": changed("parts/m/arrays/covariance", [2**63, 2**63]),
    "a negative shape": changed("parts/m/arrays/mean", [-1]),
    "two negative sides": changed("parts/m/arrays/covariance", [-2, -2]),
    "nothing times a lot": changed("parts/m/arrays", {"mean": [0], "covariance": [0, HUGE]}),
    "members of nothing": changed("parts/m/arrays", {"members": [HUGE, 0]}),
    "no members": changed("parts/m/arrays", {"members": [0, 6]}),
    "fewer weights than members": changed("parts/m/arrays", {"members": [2, 2], "log_weights": [1]}),
    "a side that is no whole number": changed("parts/m/arrays/mean", [2.0]),
    "a side that is true": changed("parts/m/arrays/mean", [True]),
    "a shape that is a word": changed("parts/m/arrays/mean", "2"),
    "a covariance that does not fit": changed("parts/m/arrays", {"mean": [2], "covariance": [4, 1]}),
    "an unknown array": changed("parts/m/arrays", {"moments": [6]}),
    "no arrays": changed("parts/m/arrays", {}),
    "a part that is none": changed("parts/m", []),
    "a key beyond 64 bits": changed("parts/m/key", 2**64),
    "a time that is a word": changed("parts/m/time", "inf"),
    "a time that is no number": changed("base/time", "nan"),
    "a moment without a zone": changed("last/0", "2024-03-17T12:00:00"),
    "a moment before all others": changed("last/0", "0001-01-01T00:00:00+14:00"),
    "a fold key of two": changed("last", ["2024-03-17T12:00:00+00:00", "urn:a"]),
    "a negative count": changed("n_folded", -1),
    "a truth value that is none": changed("guarded", 1),
    "an agent with more": changed("base/therapy/agents/0/more", 1),
    "an agent without a name": changed("base/therapy/agents/0/name", None),
    "an action that is none": changed("base/plan/0/action", "explode"),
    "targets that are numbers": changed("base/targets", [1]),
    "a report that is a list": changed("reports", [[1]]),
    "a series without a number": changed("drift/series/0/3", None),
    "a series with half a pair": changed("drift/series/0/9", [[1.0]]),
    "a short series": changed("drift/series/0", ["psa", "", 3]),
    "a censoring that is none": changed("last_observed/0/4", "perhaps"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_state_is_refused_without_a_cost(name: str) -> None:
    data = HOSTILE[name]()
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match="snapshot"):
            from_bytes(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000 + 40 * len(data)
