"""Model versions side by side: shadow, compare, promote."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ConfigurationError
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, emit_table, progress, stderr


def _behind(settings: Settings, version: str) -> int:
    """How many twins a version's line lags behind now, for the progress bar."""
    number = wiring.load_bundle(settings, version)[0]
    with closing(wiring.open_store(settings)) as store:
        return 0 if store.champion() == number else store.n_behind(number)


@click.command()
@click.argument("version")
@click.option(
    "--share", type=click.FloatRange(0.0, 1.0, min_open=True), default=0.25, show_default=True,
    help="Of its time that it may work; the rest it sleeps.",
)
@click.option("--until-idle", is_flag=True, help="End once the line has folded all that is committed.")
@command_options
def shadow(version: str, share: float, until_idle: bool, settings: Settings, as_json: bool) -> int:
    """Fold the journal under model VERSION (a number, or `challenger`) beside the champion, in the background.

    What it makes of the twins is kept and seen by nobody until the version is promoted. Run it beside `oncotwin work`;
    stop it with Ctrl-C, it goes on where it stopped. At the end it prints how well both versions foresaw the same
    events, as `oncotwin compare` does, and keeps that with the version's MLflow run.
    """
    from oncotwin_flows.shadow import run_shadow

    with progress(f"folding under {version}", _behind(settings, version)) as advance:
        result = run_shadow(
            settings, version, share=share, until_idle=until_idle, on_progress=advance, announce=stderr.print
        )
    if as_json:
        emit_json(result)
        return 0
    scores = result.pop("scores", None)
    emit_pairs(f"shadow {version}", result)
    if scores is not None:
        _emit_scores(scores)
    return 0


@click.command()
@click.argument("champion")
@click.argument("challenger")
@command_options
def compare(champion: str, challenger: str, settings: Settings, as_json: bool) -> int:
    """Compare how well two model versions foresaw the same events, from what their lines believed before each.

    Both lines must have been folded: by `oncotwin work` under a champion, or by `oncotwin shadow`. Higher is better
    for the log-likelihood; coverage should be near 0.9 and NIS near 1.
    """
    from oncotwin_flows.line_scores import score_lines

    versions = [wiring.load_bundle(settings, one)[0] for one in (champion, challenger)]
    with closing(wiring.open_store(settings)) as store:
        scores = score_lines(store, *versions).as_dict()
    if scores["n_events"] == 0:
        raise ConfigurationError(
            f"there is no event that both {versions[0]} and {versions[1]} foresaw; fold the journal first: "
            f"`oncotwin shadow {challenger} --until-idle`"
        )
    if as_json:
        emit_json(scores)
    else:
        _emit_scores(scores)
    return 0


def _emit_scores(scores: dict[str, Any]) -> None:
    emit_table(
        f"{scores['n_events']} events of {scores['n_twins']} twins, foreseen by both",
        ("model version", "mean log-likelihood", "coverage of the 90 % interval", "mean NIS"),
        [
            (one["model_version"], one["log_likelihood"], one["coverage_90"], one["nis"])
            for one in (scores["champion"], scores["challenger"])
        ],
    )
    click.echo(
        f"log-likelihood of {scores['challenger']['model_version']} over {scores['champion']['model_version']}: "
        f"{scores['advantage']:+.4f} an event, standard error {scores['error']:.4f}"
    )


@click.command()
@click.argument("version")
@click.option("--by", help="Who decided so; the name of the operating system's user by default.")
@command_options
def promote(version: str, by: str | None, settings: Settings, as_json: bool) -> int:
    """Make model VERSION (a number, `challenger`, or `literature`) the champion; rolling back is the same.

    Folds what the version's line lags behind, then switches every twin in one transaction: readers see all of one
    version or all of the other. Running workers follow with their next commit. `oncotwin shadow VERSION` beforehand
    leaves little to fold here.
    """
    from oncotwin_flows.promote import promote_version

    chosen_by = by or os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
    with progress(f"folding under {version}", _behind(settings, version)) as advance:
        result = promote_version(settings, version, chosen_by=chosen_by, on_progress=advance)
    if as_json:
        emit_json(result)
    else:
        emit_pairs("promoted", result)
    return 0
