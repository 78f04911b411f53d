"""How well two model versions foresaw the same events, from what both lines believed right before each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from oncotwin.bootstrap.wiring import LITERATURE
from oncotwin.domain.ids import TwinId
from oncotwin.ports.line_store import LineStore
from oncotwin.ports.model_registry import ModelRegistry
from oncotwin.ports.twin_rows import EstimateRow

NIS_90 = 2.705543454095404
"""90 % quantile of chi-square with one degree of freedom: where nine in ten squared innovations should lie below."""

_TWINS_AT_ONCE = 200
_Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class LineScore:
    """One version.

    Attributes:
        log_likelihood: mean log predictive density (or probability, of a censored value) of the events, nats.
        coverage_90: share of uncensored observations within the central 90 % interval of their prediction.
        nis: mean normalised innovation squared; 1 where the predictions' widths are right.
    """

    model_version: str
    log_likelihood: float
    coverage_90: float
    nis: float


@dataclass(frozen=True, slots=True)
class LineScores:
    """Two versions over the same events.

    Attributes:
        n_events, n_twins: that both foresaw.
        advantage: mean log-likelihood of the challenger over the champion's; error: its standard error, with the events
            of one twin taken together, since they are alike.
    """

    champion: LineScore
    challenger: LineScore
    n_events: int
    n_twins: int
    advantage: float
    error: float

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def score_lines(store: LineStore, champion: str, challenger: str) -> LineScores:
    """Score two lines over the events that both have folded; what either could not predict is left out of both."""
    sums: list[tuple[int, float]] = []
    seen: dict[str, list[float]] = {champion: [], challenger: []}
    nis: dict[str, list[float]] = {champion: [], challenger: []}
    for _, first, second in _pairs(store, champion, challenger):
        common = sorted(first.keys() & second.keys())
        if common:
            sums.append((len(common), math.fsum(second[key][0] - first[key][0] for key in common)))
        for version, found in ((champion, first), (challenger, second)):
            seen[version] += [found[key][0] for key in common]
            nis[version] += [value for key in common if (value := found[key][1]) is not None]
    n = sum(n_events for n_events, _ in sums)
    advantage = math.fsum(total for _, total in sums) / n if n else math.nan
    spread = math.fsum((total - n_events * advantage) ** 2 for n_events, total in sums)
    return LineScores(
        _score(champion, seen[champion], nis[champion]), _score(challenger, seen[challenger], nis[challenger]), n,
        len(sums), advantage, math.sqrt(spread) / n if n else math.nan,
    )


def log_scores(registry: ModelRegistry, version: str, scores: LineScores) -> None:
    """Keep them with the version's run, once; the literature's priors have none."""
    if version == LITERATURE or scores.n_events == 0:
        return
    registry.log_metrics(
        version,
        {
            "shadow_log_likelihood": scores.challenger.log_likelihood,
            "shadow_log_likelihood_over_champion": scores.advantage,
            "shadow_log_likelihood_error": scores.error,
            "shadow_coverage_90": scores.challenger.coverage_90,
            "champion_coverage_90": scores.champion.coverage_90,
            "shadow_n_events": float(scores.n_events),
        },
    )


def _score(version: str, seen: list[float], nis: list[float]) -> LineScore:
    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values) if values else math.nan

    return LineScore(version, mean(seen), mean([float(value <= NIS_90) for value in nis]), mean(nis))


def _pairs(
    store: LineStore, champion: str, challenger: str
) -> Iterator[tuple[TwinId, dict[_Key, tuple[float, float | None]], dict[_Key, tuple[float, float | None]]]]:
    """Of each twin what both lines foresaw."""
    ids = sorted(store.twin_heads())
    for begin in range(0, len(ids), _TWINS_AT_ONCE):
        some = ids[begin : begin + _TWINS_AT_ONCE]
        first = _foreseen(store.line_estimates(champion, some))
        second = _foreseen(store.line_estimates(challenger, some))
        for twin_id in some:
            yield twin_id, first.get(twin_id, {}), second.get(twin_id, {})


def _foreseen(rows: Iterable[EstimateRow]) -> dict[TwinId, dict[_Key, tuple[float, float | None]]]:
    """Log-likelihood and NIS of each observation of each twin."""
    found: dict[TwinId, dict[_Key, tuple[float, float | None]]] = {}
    for row in rows:
        seen = orjson.loads(row.body).get("innovation")
        if seen is not None and seen["log_likelihood"] is not None:
            key = (row.source, row.event_id, seen["observable"], seen["target"])
            found.setdefault(row.twin_id, {})[key] = (seen["log_likelihood"], row.nis)
    return found
