"""The demo: 628 real patients of three trials through the whole path, held-out forecasts, and a report."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import OncotwinError
from oncotwin.twin.backtest import ForecastTable, floors_of
from oncotwin_services.cli.demo_tissue import TWIN, add_tissue
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_table, progress, stderr

TWINS_PER_ACTOR = 320
"""628 twins on two Ray actors: what a small machine of two processors holds."""

N_PAGES = 12
SETTINGS_OF_DEMO = ["oncotwin.models.tumour_burden:TumourBurden"]


class DemoError(OncotwinError):
    """A step of the demo did not do what it must."""

    exit_code = 1


@contextmanager
def step(name: str, times: dict[str, float]) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    stderr.print(f"[bold]{name}[/] ...", highlight=False)
    begun = time.perf_counter()
    yield
    times[name] = round(time.perf_counter() - begun, 1)


@click.command()
@click.option("--report", "folder", type=click.Path(file_okay=False, path_type=Path),
              help="Folder of the HTML report; by default under the demo's home.")
@click.option("--hold", is_flag=True, help="Keep Ray and its dashboard up until Ctrl-C.")
@command_options
def demo(folder: Path | None, hold: bool, settings: Settings, as_json: bool) -> int:
    """Replay the lesions of 628 real patients (trials FIR, POPLAR, BIRCH) as three institutions' feeds.

    The whole path, in clinical-time order: embedded log -> Prefect flow -> Ray twins -> store -> estimates, alerts,
    forecasts -> MLflow. Ends with forecast skill on patients of a trial that the version has not seen, beside carrying
    the last value forward, and with the path of an HTML report. Exits with 1 when any step failed.

    With --log kafka://... --store postgresql://... it runs on those and gives the same posteriors.
    """
    begun = time.perf_counter()
    chosen = _demo_settings(settings)
    times: dict[str, float] = {}
    from oncotwin_flows.assimilate import dashboard
    from oncotwin_flows.trials import LeaveOneOut

    with step("reading 628 patients of three trials", times):
        lines = _lines()
        items = _items(chosen, lines)
    with step("starting Ray", times):
        url = dashboard(chosen)
        stderr.print(f"Ray dashboard: {url or 'none'} (twins are actors named 'twins FIRST-LAST')", highlight=False)
    # Three trainings that leave a trial out and one on all run beside the intake.
    trials = LeaveOneOut(chosen, items, n_processes=max(1, min(4, os.cpu_count() or 1)))
    try:
        result = _run(chosen, lines, items, trials, folder, times)
        result["ray_dashboard"] = url
        result["seconds"] = round(time.perf_counter() - begun, 1)
        result["steps"] = times
        _say(result, as_json)
        if hold:
            stderr.print(f"Ray stays up at {result['ray_dashboard']}; Ctrl-C ends it")
            _hold()
    finally:
        trials.close()
        _disconnect()
    return 0


def _demo_settings(settings: Settings) -> Settings:
    """The user's settings with a home of the demo's own, made anew, and few actors."""
    home = settings.home / "demo"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    topic = settings.topic if not settings.log.startswith("kafka://") else f"demo.{int(time.time())}"
    given = settings.model_fields_set
    return settings.model_copy(
        update={
            "home": home, "topic": topic,
            "models": settings.models if "models" in given else SETTINGS_OF_DEMO,
            "twins_per_actor": settings.twins_per_actor if "twins_per_actor" in given else TWINS_PER_ACTOR,
        }
    )


def _lines() -> list[bytes]:
    """Events of the shipped table, in clinical-time order."""
    from oncotwin.adapters.tables import convert
    from oncotwin.adapters.tables.shipped import lesions
    from oncotwin.domain.events import encode_line

    return [encode_line(event) for event in convert("atezolizumab", lesions())]


def _items(settings: Settings, lines: list[bytes]) -> dict[str, Any]:
    from oncotwin_services.cli.learning_commands import items_of

    items, refused = items_of(settings, lines)
    if refused:
        raise DemoError(f"{len(refused)} shipped events are refused: {refused[0].reason}; the package is damaged")
    return items


def _run(
    settings: Settings, lines: list[bytes], items: dict[str, Any], trials: Any, folder: Path | None,
    times: dict[str, float],
) -> dict[str, Any]:
    from oncotwin_flows.assimilate import run_worker
    from oncotwin_flows.intake import Intake, IntakeRules
    from oncotwin_flows.trials import register_and_promote

    store, log = wiring.open_store(settings), wiring.open_log(settings)
    try:
        with step(f"ingesting {len(lines)} events into {settings.log_url}", times), progress("events", len(lines)) as n:
            rules = IntakeRules(wiring.clock_skew(settings))
            report = Intake(log, store, wiring.SystemClock(), rules).ingest(lines, n)
            if report.n_accepted + report.n_duplicates != len(lines):
                raise DemoError(f"{len(report.rejections)} events were refused at the door")
        with step("calibrating four times, each trial left out once", times):
            with progress("calibrations", len(trials.names)) as n:
                learned = trials.results(lambda one: n(1))
            versions = register_and_promote(settings, learned)
        with step("assimilating: log -> twins -> store", times), progress("events", len(lines)) as n:
            done = run_worker(settings, until_idle=True, on_progress=n, announce=stderr.print)
        counts = store.counts()
        if counts["journal"] != len(lines) or done["n_rejected"]:
            raise DemoError(f"{counts['journal']} of {len(lines)} events are in the journal; see `oncotwin rejected`")
        pages = folder or settings.home / "report"
        with step("a generated patient's sections and slide: arrays -> signatures -> evidence -> twin", times):
            tissue = add_tissue(settings, log, store, pages)
        with step("writing the report", times):
            tables = [one.table for one in learned if one.table is not None]
            index, skill, coverage = _report(settings, store, tables, items, pages)
    finally:
        log.close()
        store.close()
    return {
        "patients": counts["twins"], "events": counts["journal"], "alerts": counts["alerts"],
        "estimates": counts["estimates"], "versions": versions, "champion": versions["all institutions"],
        "skill": skill, "coverage": coverage, "mlflow": settings.mlflow_uri,
        "report": str(index), "tissue": {**tissue, "patient": str(index.parent / "patients" / f"{TWIN}.html")},
    }


def _report(
    settings: Settings, store: Any, tables: list[ForecastTable], items: dict[str, Any], folder: Path
) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """Score the held-out forecasts and write the pages."""
    from oncotwin_services.report.demo import demo_report

    events = Counter(twin_id.partition("/")[0] for twin_id, one in items.items() for _ in one)
    return demo_report(
        wiring.binding(settings), store, tables, floors_of(wiring.models(settings)), events, folder, N_PAGES,
        wiring.SystemClock().now(), (TWIN,),
    )


def _say(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(result)
        return
    emit_table(
        "forecast skill on trials that the version has not seen, against the last value carried forward",
        ("score", "visits ahead", "n", "twin", "last value", "ratio", "95 % interval"),
        [
            (r["score"], r["visits_ahead"], r["n"], r["value"], r["reference"], r["ratio"],
             f"{r['ratio_low']:.3f} to {r['ratio_high']:.3f}")
            for r in result["skill"]
        ],
    )
    emit_table(
        "coverage of the 90 % interval", ("visits ahead", "n", "covered"),
        [(r["visits_ahead"], r["n"], r["covered"]) for r in result["coverage"]],
    )
    click.echo(
        f"{result['patients']} twins, {result['events']} events, {result['estimates']} estimates, "
        f"{result['alerts']} alerts, model version {result['champion']} in {result['seconds']} s"
    )
    click.echo(f"MLflow:        {result['mlflow']}")
    click.echo(f"Ray dashboard: {result['ray_dashboard']} (up while the demo runs; --hold keeps it)")
    click.echo(f"tissue:        {result['tissue']['patient']} (a generated patient with sections over time)")
    for page in result["tissue"]["pages"]:
        click.echo(f"               {page}")
    click.echo(f"report:        {result['report']}")


def _hold() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def _disconnect() -> None:
    from oncotwin.adapters.ray_cluster import disconnect

    disconnect()
