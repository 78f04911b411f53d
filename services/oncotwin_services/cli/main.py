"""The command line's root: each command's module is imported only when it is called, so that help is quick."""

from __future__ import annotations

import importlib

import click

from oncotwin import __version__

_COMMANDS = {
    "demo": ("demo_command", "Replay 628 real patients through the whole path and write a report."),
    "convert": ("intake_commands", "Turn a trial's table into events."),
    "ingest": ("intake_commands", "Validate events and append them to the log."),
    "rejected": ("intake_commands", "List refused events, or send them again after mending."),
    "work": ("stream_commands", "Run the assimilation flow: log -> twins -> store; or that of sections (--spatial)."),
    "status": ("stream_commands", "Show where things live, the lag, and what the store holds."),
    "alerts": ("stream_commands", "List alerts: what was seen, since when, what to measure next."),
    "export": ("stream_commands", "Write estimates, innovations and forecasts as Parquet."),
    "erase": ("erase_command", "Make everything kept of a patient unreadable, for good."),
    "backup": ("backup_commands", "Write the store to a folder while the stream goes on."),
    "restore": ("backup_commands", "Load a backup into an empty store, of either database."),
    "audit": ("audit_commands", "Verify, prove and exchange the audit trail."),
    "twin": ("belief_commands", "Show what a patient's twin believes, on any day, as known on any other."),
    "diff": ("difference_command", "Show what changed between two states of knowledge, and which events did it."),
    "forecast": ("belief_commands", "Forecast every observable of a patient."),
    "report": ("report_commands", "Write a patient's page, and keep which belief it rests on."),
    "reports": ("report_commands", "List reports, and which of them are superseded, by what."),
    "sign": ("report_commands", "Sign a report: a person's word, bound to the belief that it rests on."),
    "calibrate": ("learning_commands", "Learn the population prior from events; registered as challenger."),
    "shadow": ("line_commands", "Fold the journal under another model version, in the background."),
    "compare": ("line_commands", "Compare how well two model versions foresaw the same events."),
    "promote": ("line_commands", "Make a model version the champion, or roll back to an earlier one."),
    "backtest": ("learning_commands", "Rolling-origin evaluation of a model version."),
    "section": ("spatial_commands", "Import a section of spatial omics: section import."),
    "slide": ("spatial_commands", "Import a stained slide: slide import."),
    "claim": ("spatial_commands", "Print hash and size of a section or slide, for the event that announces it."),
    "signatures": ("spatial_commands", "Compute all spatial signatures of a section or slide, with maps and a report."),
    "radiomics": ("radiomics_command", "Compute radiomic features of a region in a volume (extra `radiomics`)."),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which a newcomer meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"oncotwin_services.cli.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="oncotwin")
def main() -> None:
    """Live digital twins of tumours, one for each patient, driven by the hospital's event stream.

    Try `oncotwin demo`. Settings come from oncotwin.toml (or the file named by ONCOTWIN_CONFIG), from the environment
    (ONCOTWIN_LOG, ONCOTWIN_STORE ...) or from flags, the later winning; docs/configuration.md lists them.

    Exit codes: 0 all done, 1 done but something needs a person (events refused, a step failed), 2 could not run.
    """
