"""What changed between two states of knowledge: diff."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ConfigurationError, StoreError
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.difference import Cause, Difference, difference, in_words, nothing_known
from oncotwin.twin.drift import Alert
from oncotwin.twin.recall import Check, Recollection, check, recall
from oncotwin.twin.timeline import moment
from oncotwin_services.cli.belief_commands import judge, reading
from oncotwin_services.cli.options import MOMENT, command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, emit_table

_PLOTS = (".svg", ".png", ".pdf")


@click.command()
@click.argument("patient")
@click.option(
    "--known-at", "known_at", type=MOMENT, nargs=2, required=True, metavar="K1 K2", help="The two states of knowledge."
)
@click.option("--as-of", type=MOMENT, help="Clinical time asked about; the latest by default.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw both beliefs over clinical time: SVG or PNG."
)
@command_options
def diff(
    patient: str, known_at: tuple[datetime, datetime], as_of: datetime | None, plot: Path | None, settings: Settings,
    as_json: bool,
) -> int:
    """Show what changed in what the twin of PATIENT believes between two moments, and which events did it.

    Every event that became known in between is named: new, late (by how much), a correction, moved here or away,
    another state of a result, consent. Of at most 20 events each is also folded alone, to say how far it moves the
    belief in standard deviations. Both beliefs are held against what was published then, as `oncotwin twin` does.
    """
    if plot is not None and plot.suffix not in _PLOTS:
        raise ConfigurationError(f"--plot {plot}: name a file that ends in {', '.join(_PLOTS)}")
    if known_at[0] > known_at[1]:
        known_at = (known_at[1], known_at[0])
    with reading(settings, patient, "diff") as store:
        found, checks = compare(settings, store, patient, known_at, as_of)
    if plot is not None:
        from oncotwin_services.report.difference_plot import draw_difference

        draw_difference(plot, found)
    result = as_dict(found, checks)
    if as_json:
        emit_json(result)
    else:
        _show(found, result)
    return max(judge(one) for one in checks)


def compare(
    settings: Settings, store: TwinStore, patient: str, known_at: tuple[datetime, datetime], as_of: datetime | None
) -> tuple[Difference, list[Check]]:
    """The difference, and whether both beliefs are what was published."""
    bind = partial(wiring.binding, settings)
    after = recall(store, bind, patient, as_of, known_at[1])
    before: Recollection
    try:
        before = recall(store, bind, patient, as_of, known_at[0])
    except StoreError:
        before = nothing_known(after, known_at[0])
    told = store.alerts(patient, superseded=True, known_at=known_at[1])
    return difference(before, after, told), [check(store, one) for one in (before, after) if one.entries]


def as_dict(found: Difference, checks: list[Check]) -> dict[str, Any]:
    """All there is to tell."""
    before, after = found.before, found.after
    return {
        "patient": after.twin_id, "as_of": after.as_of, "known_at": [before.known_at, after.known_at],
        "summary": in_words(found),
        "model_version": [before.binding.version, after.binding.version],
        "model_shift": found.promoted and {"shift": found.promoted[0], "component": found.promoted[1]},
        "state_digest": [before.digest or None, after.digest],
        "n_events": [before.belief.state.n_folded, after.belief.state.n_folded],
        "published_equal": all(one.equal for one in checks),
        "differences": [text for one in checks for text in one.differences],
        "events": [_cause(cause) for cause in found.causes],
        "components": [
            {
                "model": one.model, "component": one.component, "before": one.before, "after": one.after,
                "shift": one.shift,
            }
            for one in found.components
        ],
        "alerts_raised": [_alert(alert) for alert in found.raised],
        "alerts_explained": [{**_alert(alert), "explained_by": reason} for alert, reason in found.explained],
        "forecasts": [
            {
                "observable": one.observable, "target": one.target, "unit": one.unit, "time": one.time,
                "before": one.before, "after": one.after,
            }
            for one in found.forecasts
        ],
    }


def _cause(cause: Cause) -> dict[str, Any]:
    entry = cause.entry
    return {
        "what": cause.what, "says": cause.says, "kind": entry.kind, "source": entry.source, "id": entry.event_id,
        "time": entry.time, "known_since": cause.known_since,
        "late_by_days": None if cause.late_by is None else cause.late_by / timedelta(days=1),
        "corrects": None if cause.corrects is None else {"source": cause.corrects[0], "id": cause.corrects[1]},
        "shift": cause.shift, "component": cause.component,
    }


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert_id": alert.alert_id, "time": moment(alert.time), "kind": alert.kind, "severity": alert.severity,
        "message": alert.message,
    }


def _show(found: Difference, result: dict[str, Any]) -> None:
    """The same for people."""
    before, after = found.before, found.after
    emit_pairs(
        f"{after.twin_id}: {result['summary']}",
        {
            "model version": " -> ".join(dict.fromkeys(result["model_version"])),
            "events folded": f"{result['n_events'][0]} -> {result['n_events'][1]}",
            "data through": f"{_through(before)} -> {_through(after)}",
            "equal to what was published": "yes" if result["published_equal"] else "NO",
        },
    )
    emit_table(
        f"{len(found.causes)} events became known", ("known since", "what", "event", "late by", "moves alone", "id"),
        [
            (
                cause.known_since, cause.what, cause.says, _days(cause.late_by),
                "" if cause.shift is None else f"{cause.component} {cause.shift:+.2f} sd" if cause.shift else "nothing",
                cause.entry.event_id,
            )
            for cause in found.causes
        ],
    )
    if found.promoted is not None:
        click.echo(f"the model version alone moves {found.promoted[1] or 'nothing'} by {found.promoted[0]:+.2f} sd")
    emit_table(
        "beliefs", ("model", "component", "mean before", "sd", "mean after", "sd", "shift (sd)"),
        [
            (
                one.model, one.component,
                *(side and side[name] for side in (one.before, one.after) for name in ("mean", "sd")), one.shift,
            )
            for one in found.components
        ],
    )
    changed = [("raised", _alert(a), "") for a in found.raised]
    changed += [("explained away", _alert(a), reason) for a, reason in found.explained]
    if changed:
        emit_table(
            "alerts", ("", "time", "severity", "what was seen", "explained by"),
            [(word, a["time"], a["severity"], a["message"], reason) for word, a, reason in changed],
        )
    if found.forecasts:
        emit_table(
            f"forecast for {found.forecasts[0].time:%Y-%m-%d}: median and 90 % interval",
            ("observable", "target", "before", "after", "unit"),
            [
                (one.observable, one.target, _interval(one.before), _interval(one.after), one.unit)
                for one in found.forecasts
            ],
        )


def _through(one: Recollection) -> str:
    last = one.belief.state.last
    return "nothing" if last is None else f"{last[0]:%Y-%m-%d}"


def _interval(quantiles: Any) -> str:
    if quantiles is None:
        return ""
    return f"{quantiles['q50']:.4g} ({quantiles['q05']:.4g} to {quantiles['q95']:.4g})"


def _days(span: timedelta | None) -> str:
    return "" if span is None else f"{span / timedelta(days=1):.0f} days"
