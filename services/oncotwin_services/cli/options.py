"""Options that every command shares, and how errors become exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from oncotwin.bootstrap.settings import CONFIG_VARIABLE, Settings, load_settings
from oncotwin.domain.errors import ConfigurationError, OncotwinError
from oncotwin_services.cli.output import stderr

SETTING_FLAGS = (
    "home", "log", "store", "ray", "mlflow", "twins_per_actor", "partitions", "batch_events", "batch_seconds",
    "commit_events",
)
_PREFIX = "ONCOTWIN_"
_OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, f"{_PREFIX}DATA"})
"""Variables that are no settings: where the settings file lies, and where tests and benchmarks find real tables."""


class MomentType(click.ParamType[datetime]):
    """A date or an RFC 3339 time; without a zone it is UTC, a date alone is the end of that day."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read the text of an option."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date or time; write 2024-05-17 or 2024-05-17T12:00:00Z", param, ctx)
        if len(value) == 10:
            moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


MOMENT = MomentType()


def _name_strangers() -> None:
    """Say which variables look like settings and are none: a typing mistake is not to be taken for silence."""
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for name in sorted(os.environ):
        if name.upper().startswith(_PREFIX) and name.upper() not in known:
            stderr.print(f"oncotwin: {name} is no setting and is not read; see docs/configuration.md", highlight=False)


def command_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the settings flags and ``--json``; pass ``settings`` and ``as_json`` on; turn errors into exit codes.

    0: all was done. 1: it ran, and something needs a person (events rejected, a step failed). 2: it could not run
    (usage, settings, a file or a version that is not there).
    """

    @click.option("--home", type=click.Path(file_okay=False), help="Folder of the embedded log, store and registry.")
    @click.option("--log", help="Event log: embedded:DIR or kafka://HOST:PORT.")
    @click.option("--store", help="Twin store: sqlite:///PATH or postgresql://USER@HOST/DB.")
    @click.option("--ray", help="Twins' hosts: local, an address of a Ray cluster, or in-process.")
    @click.option("--mlflow", help="MLflow tracking URI.")
    @click.option("--twins-per-actor", type=int, help="Twins in one Ray actor; 1 names an actor for each patient.")
    @click.option("--partitions", type=int, help="Partitions of a topic that does not exist yet.")
    @click.option("--arrays", multiple=True, help="Prefix of an array store that a claim check may name; repeatable.")
    @click.option("--batch-events", type=int, help="Most events of one flow run.")
    @click.option("--batch-seconds", type=float, help="Longest time that one flow run drains the log.")
    @click.option("--commit-events", type=int, help="Most events of one transaction.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        flags = {name: kwargs.pop(name) for name in SETTING_FLAGS}
        flags["arrays"] = list(kwargs.pop("arrays")) or None
        _name_strangers()
        try:
            settings: Settings = load_settings(**flags)
            code = function(*args, settings=settings, **kwargs)
        except ConfigurationError as error:
            stderr.print(f"[bold red]oncotwin:[/] {error}", highlight=False, soft_wrap=True)
            sys.exit(2)
        except OncotwinError as error:
            stderr.print(f"[bold red]oncotwin:[/] {error}", highlight=False, soft_wrap=True)
            sys.exit(getattr(error, "exit_code", 2))
        except BrokenPipeError:
            # The reader of our output (head, less) has gone; that is no failure of ours.
            sys.stderr.close()
            sys.exit(0)
        sys.exit(code or 0)

    return wrapper
