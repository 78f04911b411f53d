"""The state of one twin, and its canonical bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from oncotwin.domain.errors import StoreError
from oncotwin.filters.base import TwinPosterior
from oncotwin.filters.members import posterior_moments
from oncotwin.twin.drift import DriftState
from oncotwin.twin.journal import FoldKey
from oncotwin.twin.state_fields import (
    Fields,
    check_shapes,
    read_cursor,
    read_fold_key,
    read_last_observed,
    read_series,
)
from oncotwin.twin.timeline import Cursor

Array = NDArray[np.float64]

FORMAT = 2
"""Newest version of the canonical bytes; a later release reads the earlier ones.

A state is written in the oldest version that can hold it, so that its digest outlives releases: 1 where all its parts
are means and covariances, 2 where a part has members, with the ``key`` and ``n_conditioned`` that they need.
"""

_MAGIC = b"OTWN"


@dataclass(frozen=True, slots=True)
class PartState:
    """What one model believes of one patient.

    Attributes:
        cursor: therapy, plan and targets as this model has met them.
        posterior: the filter's.
    """

    cursor: Cursor
    posterior: TwinPosterior

    @property
    def time(self) -> float:
        """Days since 1970-01-01 of the filter's state."""
        return self.posterior.time

    def moments(self) -> tuple[Array, Array]:
        """Posterior mean (n,) and covariance (n, n), whatever filter follows the twin."""
        return posterior_moments(self.posterior)


@dataclass(frozen=True, slots=True)
class TwinState:
    """One patient's twin after folding its journal up to ``last``.

    Attributes:
        twin_id: ``<institution>/<patient>``.
        model_version: the registered version whose priors and settings made it.
        last: fold key of the last event folded, or None before the first.
        n_folded: events folded so far.
        base: therapy and plan, for models that have not started yet.
        parts: by model name.
        drift: running statistics of the innovations.
        last_observed: for each (observable, target): time (days), value and censoring of the last observation.
        reports: names of the results folded (`journal.report_name`): one of these that is reported again replaces
            what was reported before.
        guarded: the journal holds a change of consent, or a correction that waits for what it corrects: every further
            event is then folded with the whole journal in view (`journal.needs_guard`).
    """

    twin_id: str
    model_version: str
    last: FoldKey | None = None
    n_folded: int = 0
    base: Cursor = field(default_factory=Cursor)
    parts: Mapping[str, PartState] = field(default_factory=dict)
    drift: DriftState = field(default_factory=DriftState)
    last_observed: Mapping[tuple[str, str], tuple[float, float | None, str]] = field(default_factory=dict)
    reports: frozenset[int] = frozenset()
    guarded: bool = False


def _float(value: float) -> float | str:
    """JSON has no infinities; they are written as words."""
    return value if math.isfinite(value) else str(value)


def _cursor_out(cursor: Cursor) -> dict[str, Any]:
    return {
        "therapy": {
            "agents": [asdict(agent) for agent in cursor.therapy.agents],
            "line": cursor.therapy.line,
            "switched": cursor.therapy.switched,
            "n_episodes": cursor.therapy.n_episodes,
        },
        "plan": [
            {**asdict(item), "start": item.start.isoformat(), "stop": item.stop and item.stop.isoformat()}
            for item in cursor.plan
        ],
        "planned_at": cursor.planned_at,
        "targets": list(cursor.targets),
        "started": cursor.started,
        "time": _float(cursor.time),
    }


def to_bytes(state: TwinState) -> bytes:
    """Canonical bytes of a state: equal states, to the bit, give equal bytes.

    A header of JSON with sorted keys (floats by their shortest exact decimal form) says what the arrays are; they
    follow as little-endian float64 in the header's order.
    """
    arrays: list[Array] = []
    parts = {}
    written = 1
    for name in sorted(state.parts):
        part, posterior = state.parts[name], state.parts[name].posterior
        shapes = {}
        for key in sorted(posterior.arrays):
            shapes[key] = list(posterior.arrays[key].shape)
            arrays.append(posterior.arrays[key])
        parts[name] = {"cursor": _cursor_out(part.cursor), "time": part.time, "arrays": shapes}
        if "members" in shapes:
            written = 2
            parts[name] |= {"key": posterior.key, "n_conditioned": posterior.n_conditioned}
    header: dict[str, Any] = {
        "twin": state.twin_id,
        "model_version": state.model_version,
        "last": state.last and [state.last[0].isoformat(), state.last[1], state.last[2]],
        "n_folded": state.n_folded,
        "base": _cursor_out(state.base),
        "parts": parts,
        "drift": state.drift.to_dict(),
        "guarded": state.guarded,
        "last_observed": [[*key, *value] for key, value in sorted(state.last_observed.items())],
    }
    if state.reports:
        header["reports"] = sorted(state.reports)
    text = orjson.dumps(header, option=orjson.OPT_SORT_KEYS)
    body = b"".join(np.ascontiguousarray(array, dtype="<f8").tobytes() for array in arrays)
    return _MAGIC + bytes([written]) + len(text).to_bytes(4, "little") + text + body


def from_bytes(data: bytes) -> TwinState:
    """Read what `to_bytes` wrote; whatever the header says, no more is allocated than there are bytes.

    Raises:
        StoreError: not a state, damaged, or written by a later release.
    """
    if data[:4] != _MAGIC or len(data) < 9:
        raise StoreError("snapshot does not begin as a twin's state; restore it from the journal (`oncotwin work`)")
    if data[4] > FORMAT:
        raise StoreError(f"snapshot has format {data[4]}, this release reads up to {FORMAT}; use a newer release")
    end = 9 + int.from_bytes(data[5:9], "little")
    try:
        header = Fields(orjson.loads(data[9:end]), "header")
        parts: dict[str, PartState] = {}
        for name, content in sorted(header.mapping("parts").items()):
            part = Fields(content, f"parts.{name}")
            arrays, end = _arrays_in(part.mapping("arrays"), data, end)
            posterior = TwinPosterior(
                part.number("time"), arrays, part.whole("key", 0, default=0), part.whole("n_conditioned", 0, default=0)
            )
            parts[name] = PartState(read_cursor(part.fields("cursor")), posterior)
        if end != len(data):
            raise ValueError(f"{len(data) - end} bytes left over")
        return TwinState(
            twin_id=header.text("twin"),
            model_version=header.text("model_version"),
            last=read_fold_key(header),
            n_folded=header.whole("n_folded", 0),
            base=read_cursor(header.fields("base")),
            parts=parts,
            drift=DriftState.from_dict({"series": read_series(header.fields("drift").rows("series", 13))}),
            last_observed=read_last_observed(header),
            reports=frozenset(header.wholes("reports", 0)),
            guarded=header.truth("guarded"),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise StoreError(
            f"snapshot is damaged ({error}); delete it, the twin is folded again from its journal"
        ) from error


def _arrays_in(shapes: Mapping[str, Any], data: bytes, begin: int) -> tuple[dict[str, Array], int]:
    """Arrays that follow the header, and where they end; their shapes must fit each other and the bytes there are."""
    n_rows, n = check_shapes(shapes)
    if 8 * sum(map(math.prod, shapes.values())) > len(data) - begin:
        raise ValueError(f"arrays of {n_rows} x {n} in {len(data) - begin} bytes")
    arrays: dict[str, Array] = {}
    for name in sorted(shapes):
        count = math.prod(shapes[name])
        array = np.frombuffer(data, dtype="<f8", count=count, offset=begin).reshape(shapes[name])
        array.flags.writeable = False
        arrays[name] = array
        begin += 8 * count
    return arrays, begin


def digest(data: bytes) -> str:
    """SHA-256 (hex) of canonical bytes: the ``state_digest`` that two replays must share."""
    return hashlib.sha256(data).hexdigest()
